"""Decoding against t5x's numbers, against the whole forward pass, and what must not change an answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors, sharding
from flan_jax.inference import beam, decode, sampling, settings
from flan_jax.models import api, presets
from tests import golden_numbers

Settings = settings.Settings
KEY = jax.random.PRNGKey(42)  # of the goldens
TOY = {"vocab_size": 61, "emb_dim": 24, "num_heads": 4, "head_dim": 8, "mlp_dim": 40, "dropout_rate": 0.0}
CONFIGS = {
    "encoder_decoder": presets.t5_config(**TOY, num_encoder_layers=1, num_decoder_layers=2),
    "decoder_only": presets.decoder_only_config("llama_7b", **TOY, num_layers=2, num_kv_heads=2),
}
FAMILIES = tuple(CONFIGS)
LONGEST = 6  # tokens of an answer here


@functools.cache
def params(family):
    """Parameters whose logits are far enough apart for answers to differ."""
    drawn = api.init(CONFIGS[family], jax.random.key(2))
    return jax.tree.map(lambda leaf: 1.5 * leaf, drawn)


def prompts(family, rows=3, length=6):
    tokens = jax.random.randint(jax.random.key(5), (8, length), 2, 61)[:rows]
    name = "encoder_input_tokens" if family == "encoder_decoder" else "decoder_input_tokens"
    # Of different lengths; padding is 0.
    return {name: jnp.where(jnp.arange(length)[None, :] < 4 + jnp.arange(rows)[:, None] % 3, tokens, 0)}


def next_logits(family, batch, said):
    """Logits [B, V] after the tokens `said` [B, L] by the whole forward pass, without a cache; one shape for all L."""
    config, (rows, length) = CONFIGS[family], said.shape
    if family == "encoder_decoder":
        tokens = np.zeros((rows, LONGEST), np.int32)
        tokens[:, 1 : length + 1] = said
        at = np.full(rows, length)
    else:
        prompt = np.asarray(batch["decoder_input_tokens"])
        sizes = (prompt > 0).sum(axis=1)
        tokens = np.zeros((rows, prompt.shape[1] + LONGEST), np.int32)
        for row, size in enumerate(sizes):
            tokens[row, : size + length] = [*prompt[row, :size], *said[row]]
        at = sizes + length - 1
    # What stands behind is not seen.
    whole = {**batch, "decoder_input_tokens": tokens, "decoder_target_tokens": np.ones_like(tokens)}
    return np.asarray(logits_of(config, params(family), whole))[np.arange(rows), at]


logits_of = jax.jit(api.logits, static_argnums=0)


# ---- t5x's own numbers


def trained(family):
    folder, name = {"encoder_decoder": ("decoding", "batch"), "decoder_only": ("deconly", "decode_batch")}[family]
    batch = golden_numbers.tree(golden_numbers.full(f"{folder}/{name}.npz"))
    with np.load(golden_numbers.full(f"{folder}/decodes.npz")) as arrays:
        reference = dict(arrays)
    return golden_numbers.tree(golden_numbers.full(f"{folder}/params_trained.npz")), batch, reference


def assert_equal(found, reference, case):
    """t5x puts the best last. 1e-6 relative beside 1e-5, because sums over 24 untrained tokens go up to 150."""
    np.testing.assert_array_equal(np.asarray(found.tokens)[:, ::-1], reference[f"{case}/decodes"])
    scores = np.asarray(found.scores)[:, ::-1]
    np.testing.assert_allclose(scores, reference[f"{case}/scores"], rtol=1e-6, atol=1e-5)


@pytest.fixture(scope="module")
def untrained():
    with np.load(golden_numbers.FOLDER / "decodes.npz") as arrays:
        return golden_numbers.config(), golden_numbers.params(), golden_numbers.batch("unpacked"), dict(arrays)


def test_beams_of_an_untrained_model_equal_t5x(untrained):
    config, weights, batch, reference = untrained
    found = decode.decode(config, weights, batch, Settings(max_tokens=24, beams=4, n=4))
    assert_equal(found, reference, "beam4_untrained")


def test_samples_of_an_untrained_model_equal_t5x(untrained):
    config, weights, batch, reference = untrained
    how = Settings(max_tokens=24, temperature=1.0, top_k=40, n=2)
    assert_equal(decode.sample_as_t5x(config, weights, batch, KEY, how=how), reference, "sample_untrained_temp1_topk40")


@pytest.mark.parametrize("scan", [False, True])
def test_greedy_equals_t5x_on_a_trained_model(scan):
    weights, batch, reference = trained("encoder_decoder")
    weights = api.stack_layers(weights) if scan else weights
    found = decode.decode(golden_numbers.config(scan_layers=scan), weights, batch, Settings(max_tokens=8))
    assert_equal(found, reference, "greedy_temp0")


@pytest.mark.parametrize(("beams", "alpha"), [(4, 0.6), (1, 0.6), (4, 0.0)])
def test_beams_equal_t5x_on_a_trained_model(beams, alpha):
    weights, batch, reference = trained("encoder_decoder")
    how = Settings(max_tokens=8, beams=beams, alpha=alpha, n=beams)
    assert_equal(decode.decode(golden_numbers.config(), weights, batch, how), reference, f"beam{beams}_alpha{alpha}")


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("greedy_topk1", {"top_k": 1}),
        ("sample_temp1_full", {"n": 2}),
        ("sample_temp0.7_topk5", {"temperature": 0.7, "top_k": 5, "n": 2}),
        ("sample_temp1_topp0.9", {"top_p": 0.9, "n": 2}),
    ],
)
def test_samples_equal_t5x_on_a_trained_model(case, how):
    weights, batch, reference = trained("encoder_decoder")
    how = Settings(**{"max_tokens": 8, "temperature": 1.0, **how})
    assert_equal(decode.sample_as_t5x(golden_numbers.config(), weights, batch, KEY, how=how), reference, case)


@pytest.mark.parametrize(
    "case", ["bidir_greedy_temp0", "causal_greedy_temp0", "bidir_temp1_topk40", "bidir_beam4_alpha0.6"]
)
def test_a_decoder_only_model_answers_as_t5x(case):
    weights, batch, reference = trained("decoder_only")
    config = golden_numbers.decoder_only_config(prefix_lm="bidir" in case)
    lengths = np.asarray(batch["decoder_causal_attention"]).sum(axis=1)
    batch = {name: batch[name] for name in ("decoder_input_tokens", "decoder_causal_attention")}
    # t5x's sequences have 24 places for prompt and answer together, the prompt's first token not counted.
    limits = jnp.asarray(25 - lengths, jnp.int32)
    if "beam" in case:
        # And its length penalty counts the prompt.
        counted = jnp.asarray(lengths - 1)
        found = decode.Decoded(*beam.search(config, weights, batch, 0.6, counted, beams=4, max_tokens=24))
    elif "topk" in case:
        how = Settings(max_tokens=24, temperature=1.0, top_k=40, n=2)
        found = decode.sample_as_t5x(config, weights, batch, KEY, how=how, limits=limits)
    else:
        found = decode.decode(config, weights, batch, Settings(max_tokens=24), limits=limits)
    assert_equal(found, reference, case)


# ---- by hand


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_takes_the_likeliest_token_of_the_whole_pass(family):
    batch, length = prompts(family), 5
    free = decode.decode(CONFIGS[family], params(family), batch, Settings(max_tokens=length), eos_ids=(300,))
    said, total = np.zeros((3, 0), np.int32), np.zeros(3)
    for _ in range(length):
        logs = np.asarray(jax.nn.log_softmax(next_logits(family, batch, said)))
        said = np.concatenate([said, logs.argmax(axis=1)[:, None]], axis=1)
        total += logs.max(axis=1)
    np.testing.assert_array_equal(free.tokens[:, 0], said)
    np.testing.assert_allclose(free.scores[:, 0], total, rtol=1e-5)

    # The third token of the first row is declared to be the end, and the second of the second.
    ends = (int(said[0, 2]), int(said[1, 1]))
    ended = decode.decode(CONFIGS[family], params(family), batch, Settings(max_tokens=length), eos_ids=ends)
    for whole, row in zip(said, np.asarray(ended.tokens[:, 0]), strict=True):
        hits = np.flatnonzero(np.isin(whole, ends))
        stop = hits[0] + 1 if len(hits) else length
        np.testing.assert_array_equal(row, [*whole[:stop], *[0] * (length - stop)])


def by_hand(family, row, beams, alpha, length, ends):
    """Beam search over lists, with the whole forward pass for every beam."""
    live, done = [(0.0, ())], []
    for size in range(1, length + 1):
        batch = {
            name: np.repeat(np.asarray(value[row : row + 1]), beams, axis=0) for name, value in prompts(family).items()
        }
        said = np.asarray([list(live[min(b, len(live) - 1)][1]) for b in range(beams)], np.int32).reshape(
            beams, size - 1
        )
        logs = np.asarray(jax.nn.log_softmax(next_logits(family, batch, said)), np.float64)
        grown = [
            (total + logs[b, token], (*tokens, token)) for b, (total, tokens) in enumerate(live) for token in range(61)
        ]
        best = sorted(grown, reverse=True)[: (1 + len(ends)) * beams]
        done += [(total / ((5 + size) / 6) ** alpha, tokens) for total, tokens in best if tokens[-1] in ends]
        done = sorted(done, reverse=True)[:beams]
        live = [(total, tokens) for total, tokens in best if tokens[-1] not in ends][:beams]
        if len(done) == beams and done[-1][0] > live[0][0] / ((5 + length) / 6) ** alpha:
            break
    return done or live


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("ends", "alpha"), [((3, 5, 8, 13, 21, 34, 55), 0.6), ((300,), 0.6)])
def test_beams_are_those_of_a_search_over_lists(family, ends, alpha):
    beams, length = 3, 4
    how = Settings(max_tokens=length, beams=beams, alpha=alpha, n=beams)
    found = decode.decode(CONFIGS[family], params(family), prompts(family), how, eos_ids=ends)
    for row in range(3):
        expected = by_hand(family, row, beams, alpha, length, ends)
        padded = [[*tokens, *[0] * (length - len(tokens))] for _, tokens in expected]
        np.testing.assert_array_equal(found.tokens[row, : len(expected)], padded)
        np.testing.assert_allclose(found.scores[row, : len(expected)], [score for score, _ in expected], rtol=1e-5)
        assert np.all(np.asarray(found.scores[row, len(expected) :]) == sampling.NEVER)
    if ends != (300,):
        assert np.any(np.isin(found.tokens, ends))


# ---- what must not change an answer

DRAWN = Settings(max_tokens=6, temperature=1.0, top_k=20, top_p=0.9, n=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_depends_on_its_own_seed_only(family):
    config, weights, batch = CONFIGS[family], params(family), prompts(family)
    found = decode.decode(config, weights, batch, DRAWN, seeds=[7, 8, 9])
    turned = {name: value[jnp.array([2, 0])] for name, value in batch.items()}
    again = decode.decode(config, weights, turned, DRAWN, seeds=[9, 7])
    np.testing.assert_array_equal(again.tokens, found.tokens[jnp.array([2, 0])])
    np.testing.assert_allclose(again.scores, found.scores[jnp.array([2, 0])], rtol=1e-5)
    # Fewer samples are the first of more; other seeds give others, and so do the samples of one prompt.
    one = decode.decode(config, weights, batch, DRAWN.changed(n=1), seeds=[7, 8, 9])
    np.testing.assert_array_equal(one.tokens, found.tokens[:, :1])
    other = decode.decode(config, weights, batch, DRAWN, seeds=[7, 8, 10])
    np.testing.assert_array_equal(np.any(other.tokens != found.tokens, axis=(1, 2)), [False, False, True])
    assert np.all(np.any(found.tokens[:, 0] != found.tokens[:, 1], axis=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_in_pieces_are_those_in_one_go(family):
    config, weights, batch = CONFIGS[family], params(family), prompts(family)
    asked = decode.controls(DRAWN, 3)
    whole = decode.decode(config, weights, batch, DRAWN)
    state = decode.start(config, weights, batch, asked, max_tokens=6, copies=2)
    for until in (1, 4, 4, 6):
        state = decode.advance(config, weights, state, until, kind=sampling.kind_of(asked), eos_ids=(1,))
        assert int(state.step) == until
    np.testing.assert_array_equal(state.tokens.reshape(3, 2, 6), whole.tokens)


def test_the_loop_ends_with_its_last_row():
    config, weights, batch = CONFIGS["encoder_decoder"], params("encoder_decoder"), prompts("encoder_decoder")
    asked = decode.controls(Settings(max_tokens=9), 3, limits=[2, 0, 4])
    state = decode.start(config, weights, batch, asked, max_tokens=9)
    state = decode.advance(config, weights, state, 9, kind=sampling.kind_of(asked), eos_ids=(300,))
    assert int(state.step) == 4
    np.testing.assert_array_equal(np.sum(np.asarray(state.log_probs) < 0, axis=1), [2, 0, 4])
    # A row that is ended from outside costs nothing more.
    state = decode.start(config, weights, batch, asked, max_tokens=9)
    state = state._replace(ended=jnp.array([True, True, True]))
    assert int(decode.advance(config, weights, state, 9, kind=sampling.Kind(), eos_ids=(300,)).step) == 0


BEAMS = Settings(max_tokens=4, beams=3, n=3)


@pytest.mark.parametrize(
    ("family", "how"), [("encoder_decoder", BEAMS), ("decoder_only", BEAMS), ("decoder_only", DRAWN)]
)
def test_stacked_layers_give_the_same_answers(family, how):
    config, weights, batch = CONFIGS[family], params(family), prompts(family)
    one_by_one = decode.decode(config, weights, batch, how)
    stacked = dataclasses.replace(config, scan_layers=True)
    found = decode.decode(stacked, api.stack_layers(weights), batch, how)
    np.testing.assert_array_equal(found.tokens, one_by_one.tokens)
    np.testing.assert_allclose(found.scores, one_by_one.scores, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_devices_answer_as_one_and_share_the_cache(family):
    config, weights, batch = CONFIGS[family], params(family), prompts(family, rows=8)
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    placed = jax.device_put(weights, sharding.param_shardings(mesh, api.logical_axes(config), weights))
    spread = jax.device_put(batch, sharding.batch_sharding(mesh))
    for how in (DRAWN, BEAMS):
        one = decode.decode(config, weights, batch, how, eos_ids=(3, 5))
        with sharding.use(mesh):
            found = decode.decode(config, placed, spread, how, eos_ids=(3, 5))
        np.testing.assert_array_equal(found.tokens, one.tokens)
        np.testing.assert_allclose(found.scores, one.scores, rtol=1e-4)
    with sharding.use(mesh):
        state = decode.start(config, placed, spread, decode.controls(DRAWN, 8), max_tokens=6, copies=2)
    keys = state.cache["decoder"]["layers_0"]["self_key"]
    rows, heads, places, width = keys.shape
    # Rows over data and fsdp, heads over model.
    assert keys.sharding.shard_shape(keys.shape) == (rows // 4, heads // 2, places, width)


def test_parameters_are_cast_once_without_a_change_of_the_result():
    config = presets.t5_config(**TOY, num_encoder_layers=1, num_decoder_layers=1, dtype="bfloat16")
    weights, batch = api.init(config, jax.random.key(0)), prompts("encoder_decoder")
    cast = api.decoding_params(config, weights)
    assert cast["decoder"]["layers_0"]["mlp"]["wo"]["kernel"].dtype == jnp.bfloat16
    assert cast["decoder"]["logits_dense"]["kernel"].dtype == jnp.float32
    cache = api.prefill(config, weights, batch, 3)
    tokens = api.first_tokens(config, batch)
    logits = [api.decode_step(config, given, cache, tokens)[0] for given in (weights, cast)]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Settings(temperature=-1.0), "temperature is -1.0; expected at least 0"),
        (lambda: Settings(temperature=float("nan")), "temperature is nan"),
        (lambda: Settings(top_p=0.0), "top_p is 0.0; expected more than 0"),
        (lambda: Settings(seed=2**32), "seed is 4294967296; expected 0 to 4294967295"),
        (lambda: Settings(n=2), "n is 2, but with temperature 0 all samples are the same"),
        (lambda: Settings(n=3, beams=2), "with 2 beams gives at most 2 answers"),
        (lambda: Settings(beams=2, temperature=0.5), "a beam search does not draw"),
        (lambda: Settings(stop=("",)), "stop has an empty string"),
        (lambda: Settings().changed(temprature=1.0), "unknown decode setting 'temprature'; did you mean 'temperature'"),
        (
            lambda: decode.decode(
                golden_numbers.config(), golden_numbers.params(), golden_numbers.batch("packed"), Settings()
            ),
            "packed",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_clear_line(call, message):
    with pytest.raises(errors.FlanError, match=message):
        call()
