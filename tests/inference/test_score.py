"""Log-likelihoods against t5x's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.data import features, seqio_tasks
from flan_jax.inference import score
from flan_jax.models import api, presets
from tests import golden_numbers


def test_scores_equal_t5x():
    batch = golden_numbers.batch("unpacked")
    scores = score.score_targets(golden_numbers.config(), golden_numbers.params(), batch)
    np.testing.assert_allclose(scores, golden_numbers.expected("scores/sequence_scores"), rtol=1e-6, atol=1e-5)
    tokens = score.token_log_likelihood(golden_numbers.config(), golden_numbers.params(), batch)
    real = np.asarray(batch["decoder_target_tokens"]) > 0
    expected = np.asarray(golden_numbers.expected("scores/token_scores"))
    np.testing.assert_allclose(np.asarray(tokens)[real], expected[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("prefix_lm", "name"), [(True, "bidir"), (False, "causal")])
def test_scores_of_a_decoder_only_model_equal_t5x(prefix_lm, name):
    config = golden_numbers.decoder_only_config(prefix_lm=prefix_lm)
    batch = golden_numbers.batch("unpacked", "deconly")
    scores = score.score_targets(config, golden_numbers.params("deconly"), batch)
    np.testing.assert_allclose(
        scores, golden_numbers.expected(f"scores/prefixlm_unpacked_{name}", "deconly"), rtol=1e-6, atol=1e-5
    )


def test_probabilities_of_all_tokens_sum_to_one():
    config, params = golden_numbers.config(), golden_numbers.params()
    row = {name: value[:1] for name, value in golden_numbers.batch("unpacked").items()}
    candidates = {name: jnp.repeat(value, 255, axis=0) for name, value in row.items()}
    candidates["decoder_target_tokens"] = candidates["decoder_target_tokens"].at[:, 0].set(jnp.arange(1, 256))
    tokens = score.token_log_likelihood(config, params, candidates)[:, 0]
    padding = score.token_log_likelihood(
        config, params, {**row, "decoder_target_tokens": row["decoder_target_tokens"].at[0, 1].set(0)}
    )
    assert padding.shape == (1, 24)
    # Token 0 is padding and cannot be asked for; every other probability must leave room for it.
    assert 0.9 < float(jnp.sum(jnp.exp(tokens))) < 1.0


def test_scores_of_trained_targets_equal_t5x():
    params = golden_numbers.tree(golden_numbers.full("decoding/params_trained.npz"))
    batch = golden_numbers.tree(golden_numbers.full("decoding/batch.npz"))
    with np.load(golden_numbers.full("decoding/scores.npz")) as arrays:
        np.testing.assert_allclose(
            score.score_targets(golden_numbers.config(), params, batch), arrays["sequence_scores"], rtol=0, atol=1e-5
        )


SIZES = {"vocab_size": 96, "emb_dim": 16, "num_heads": 4, "head_dim": 4, "mlp_dim": 32, "dropout_rate": 0.5}
T5 = {**SIZES, "num_encoder_layers": 1, "num_decoder_layers": 1}
CONFIGS = {
    "t5 prompted": presets.t5_config("tiny", **T5),
    "t5 stacked": presets.t5_config(
        "tiny", **{**T5, "num_encoder_layers": 2, "num_decoder_layers": 2}, scan_layers=True
    ),
    "relative prefix": presets.decoder_only_config("t5x_tiny", **SIZES, num_layers=1, prefix_lm=True),
    "relative causal prompted": presets.decoder_only_config("t5x_tiny", **SIZES, num_layers=1, prefix_lm=False),
    "rotary stacked": presets.decoder_only_config("llama_7b", **SIZES, num_layers=2, num_kv_heads=2, scan_layers=True),
    "learned": presets.decoder_only_config("opt_125m", **SIZES, num_layers=1, max_positions=192),
}


def questions(rng):
    """On both sides of the distance from which on relative positions share a bucket; 1 to 4 options."""

    def tokens(count):
        return [*rng.integers(2, SIZES["vocab_size"], count - 1).tolist(), 1]

    lengths = [(130, [2, 7]), (150, [12, 1, 40]), (5, [4]), (140, [3, 3, 9, 2])]
    return [score.Question(tokens(count), [tokens(option) for option in options]) for count, options in lengths]


@pytest.fixture(scope="module", params=CONFIGS)
def drawn(request):
    config, rng = CONFIGS[request.param], np.random.default_rng(3)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape) / 4, jnp.float32), api.abstract_params(config)
    )
    if "prompted" in request.param:  # a soft prompt stands before what is read
        params = api.with_soft_prompt(params, jnp.asarray(rng.standard_normal((3, SIZES["emb_dim"])), jnp.float32))
    decoder_only = isinstance(config, api.DecoderOnlyConfig)
    return config, params, features.PrefixLM(bos_id=2) if decoder_only else features.ENCODER_DECODER


def ask(config, params, asked, converter, batch_size):
    return score.options(
        config, params, asked, inputs_length=150, batch_size=batch_size, put=jax.device_put, converter=converter
    )


def test_options_scored_together_equal_each_with_its_own_whole_pass(drawn):
    config, params, converter = drawn
    asked = questions(np.random.default_rng(7))
    found = dict(ask(config, params, asked, converter, 4))
    pairs = [seqio_tasks.Tokenised(list(q.inputs), list(option)) for q in asked for option in q.options]
    rows = [converter.row([pair], {"inputs": 150, "targets": 40}, packed=False) for pair in pairs]
    expected = iter(np.asarray(score.score_targets(config, params, features.stack(rows))))
    for number, question in enumerate(asked):
        assert found[number].tokens == tuple(map(len, question.options))
        alone = [next(expected) for _ in question.options]
        np.testing.assert_allclose(found[number].log_likelihoods, alone, rtol=1e-5, atol=1e-5)


def test_options_beyond_the_learned_positions_are_refused():
    config = CONFIGS["learned"]
    asked = [score.Question([5] * 150, [[6, 1], [7] * 43])]
    with pytest.raises(errors.FlanError, match="193 tokens needs 193 positions; the model has learned 192"):
        next(ask(config, api.abstract_params(config), asked, features.PrefixLM(), 1))
