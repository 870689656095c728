"""A soft prompt of tokens' own vectors is these tokens: in logits, encoding, gradients, and in every step of decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.models import api, presets

PROMPT = np.array([17, 5, 60, 33, 5, 2], np.int32)
TOY = {"vocab_size": 64, "emb_dim": 24, "num_heads": 4, "head_dim": 8, "mlp_dim": 40, "dropout_rate": 0.0}
DEEP = {"num_layers": 1, "max_positions": 48}
CONFIGS = {
    "t5": lambda **more: presets.t5_config("tiny", **TOY, num_encoder_layers=1, num_decoder_layers=1, **more),
    "prefix": lambda **more: presets.decoder_only_config("t5x_base", **TOY, **DEEP, prefix_lm=True, **more),
    "llama": lambda **more: presets.decoder_only_config("llama_7b", **TOY, **DEEP, **more),
    # Learned positions, and a table narrower than the model: the prompt is as wide as the table.
    "opt": lambda **more: presets.decoder_only_config("opt_350m", **TOY, **DEEP, embedding_dim=16, **more),
}
LENGTHS = (7, 1, 4)  # real inputs of each row

logits_of = jax.jit(api.logits, static_argnums=0)
encoded = jax.jit(api.encode, static_argnums=0)
prefill = jax.jit(api.prefill, static_argnums=(0, 3))
decode_step = jax.jit(api.decode_step, static_argnums=0)


@functools.cache
def config_of(family):
    return CONFIGS[family](scan_layers=family == "llama")


@functools.cache
def params_of(family):
    return api.init(config_of(family), jax.random.key(2))


@functools.cache
def prompted_params(family):
    params = params_of(family)
    return api.with_soft_prompt(params, api.token_embedding(params)[PROMPT])


def batches(family, targets=5):
    """A batch, and the same with the prompt's tokens written before each row."""
    rng = np.random.default_rng(0)
    rows = len(LENGTHS)
    inputs = np.zeros((rows, max(LENGTHS)), np.int32)
    for row, length in enumerate(LENGTHS):
        inputs[row, :length] = rng.integers(3, 64, length)
    answers = rng.integers(3, 64, (rows, targets)).astype(np.int32)
    if family == "t5":
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_target_tokens": answers,
            "decoder_input_tokens": np.pad(answers[:, :-1], ((0, 0), (1, 0))),
        }
        tokens = np.concatenate([np.tile(PROMPT, (rows, 1)), inputs], axis=1)
        return batch, {**batch, "encoder_input_tokens": tokens}
    width = max(LENGTHS) + targets
    batch = {name: np.zeros((rows, width), np.int32) for name in ("tokens", "targets", "causal")}
    for row, length in enumerate(LENGTHS):
        line = [*inputs[row, :length], *answers[row]]
        batch["targets"][row, : len(line)] = line
        batch["tokens"][row, : len(line)] = [1, *line[:-1]]
        batch["causal"][row, : length + 1] = 1
    short = {
        "decoder_input_tokens": batch["tokens"],
        "decoder_target_tokens": batch["targets"],
        "decoder_causal_attention": batch["causal"],
    }
    before = {"decoder_input_tokens": PROMPT, "decoder_target_tokens": PROMPT}
    before["decoder_causal_attention"] = np.ones_like(PROMPT)
    return short, {
        name: np.concatenate([np.tile(before[name], (rows, 1)), value], axis=1) for name, value in short.items()
    }


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_are_those_of_the_tokens(family):
    short, long = batches(family)
    ours = logits_of(config_of(family), prompted_params(family), short)
    theirs = logits_of(config_of(family), params_of(family), long)[:, -ours.shape[1] :]
    real = short["decoder_target_tokens"] > 0
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=1e-5)
    without = logits_of(config_of(family), params_of(family), short)
    assert float(jnp.max(jnp.abs(ours - without)[real])) > 0.01  # it is seen at all


@pytest.mark.parametrize("family", ["t5", "opt"])
def test_vectors_before_the_projection_leave_the_prompt_out(family):
    short, _ = batches(family)
    config, params = config_of(family), prompted_params(family)
    vectors = jax.jit(api.hidden, static_argnums=0)(config, params, short)
    projected = jax.jit(api.project, static_argnums=0)(config, api.projection_params(config, params), vectors)
    np.testing.assert_allclose(projected, logits_of(config, params, short), rtol=0, atol=1e-5)


def test_the_encoder_gives_the_prompt_and_the_input():
    short, long = batches("t5")
    ours = encoded(config_of("t5"), prompted_params("t5"), short)
    theirs = encoded(config_of("t5"), params_of("t5"), long)
    real = long["encoder_input_tokens"] > 0
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_decoding_step_by_step_is_that_of_the_tokens(family):
    short, long = batches(family)
    side = "encoder_input_tokens" if family == "t5" else "decoder_input_tokens"
    if family != "t5":
        inputs = max(LENGTHS) + 1
        for batch, extra in ((short, 0), (long, len(PROMPT))):
            batch[side] = np.where(batch["decoder_causal_attention"] > 0, batch[side], 0)[:, : inputs + extra]
            batch["decoder_causal_attention"] = batch["decoder_causal_attention"][:, : inputs + extra]
    names = (side,) if family == "t5" else (side, "decoder_causal_attention")
    config, found = config_of(family), []
    for params, batch in ((prompted_params(family), short), (params_of(family), long)):
        cache = prefill(config, params, {name: batch[name] for name in names}, 4)
        token_B, steps = api.first_tokens(config, batch), []
        for following in (7, 8, 9, 0):
            logits_BxV, cache = decode_step(config, params, cache, token_B)
            steps.append(logits_BxV)
            token_B = jnp.full_like(token_B, following)
        found.append(jnp.stack(steps))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "opt"])
def test_every_vector_of_the_prompt_and_no_other_embedding_gets_its_gradient(family):
    short, _ = batches(family)
    config, params = config_of(family), prompted_params(family)
    real = short["decoder_target_tokens"] > 0

    @jax.jit
    def gradient(prompt_PxD):
        def total(prompt_PxD):
            logits = api.logits(config, api.with_soft_prompt(params, prompt_PxD), short)
            return jnp.sum(jnp.square(logits) * real[..., None])

        return jax.grad(total)(prompt_PxD)

    found = gradient(api.soft_prompt(params))
    assert found.shape == api.soft_prompt(params).shape
    assert bool(jnp.all(jnp.any(found != 0, axis=1)))
    assert bool(jnp.all(jnp.isfinite(found)))


def test_ids_behind_the_prompt_are_still_no_tokens():
    short, _ = batches("t5")
    beyond = {**short, "encoder_input_tokens": np.where(short["encoder_input_tokens"] > 0, 64 + len(PROMPT), 0)}
    assert bool(jnp.all(jnp.isnan(logits_of(config_of("t5"), prompted_params("t5"), beyond))))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_packed_batch_is_refused(family):
    short, _ = batches(family)
    sides = ("encoder", "decoder") if family == "t5" else ("decoder",)
    packed = {**short, **{f"{side}_segment_ids": np.ones_like(short[f"{side}_input_tokens"]) for side in sides}}
    with pytest.raises(errors.FlanError, match=r"soft prompt.*packed.*utils\.DatasetConfig\.pack = False"):
        api.logits(config_of(family), prompted_params(family), packed)


def test_learned_positions_count_the_prompt():
    config = presets.decoder_only_config("opt_350m", **TOY, num_layers=1, max_positions=14, embedding_dim=16)
    short, _ = batches("opt")
    assert short["decoder_input_tokens"].shape[1] == 12
    with pytest.raises(errors.FlanError, match="needs 18 positions; the model has learned 14"):
        api.logits(config, prompted_params("opt"), short)


def test_given_positions_go_on_behind_the_prompt():
    short, _ = batches("opt")
    counted = {**short, "decoder_positions": np.tile(np.arange(12, dtype=np.int32), (3, 1))}
    config, params = config_of("opt"), prompted_params("opt")
    ours, theirs = (logits_of(config, params, batch) for batch in (counted, short))
    real = short["decoder_target_tokens"] > 0
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=1e-6)
