"""Logits a piece at a time: the same loss and sums as all at once to 1e-6 of each, and gradients to 1e-6 of a tensor's largest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import sharding
from flan_jax.models import api, presets
from flan_jax.training import configs, loss, step

LENGTH = 12
SIZES = {"vocab_size": 50, "num_layers": 1, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 8}
T5 = {"vocab_size": 50, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 8, "dropout_rate": 0.0}
CONFIGS = {
    "own kernel": presets.t5_config("tiny", num_encoder_layers=1, num_decoder_layers=1, **T5),
    "tied": presets.t5_config("tiny", num_encoder_layers=1, num_decoder_layers=1, logits_via_embedding=True, **T5),
    "PaLM": presets.decoder_only_config("palm_8b", dropout_rate=0.0, **SIZES),
    "OPT-350M": presets.decoder_only_config("opt_350m", **{**SIZES, "embedding_dim": 8}, dropout_rate=0.0),
}


def batch_of(rows: int = 4) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 50, (rows, LENGTH)).astype(np.int32)
    tokens[0, 8:] = 0
    inputs = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    weights = (tokens > 0) * draw.integers(0, 2, tokens.shape)
    names = {"encoder_input_tokens": tokens, "decoder_input_tokens": inputs, "decoder_target_tokens": tokens}
    return {name: jnp.asarray(value) for name, value in {**names, "decoder_loss_weights": weights}.items()}


@functools.cache
def measured(kind: str, chunk: int, smoothing: float, divided: bool):
    """(loss, sums), gradients of a model's whole loss."""
    config = CONFIGS[kind]
    settings = {
        "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS" if divided else None,
        "label_smoothing": smoothing,
        "z_loss": 1e-2,
        "logits_chunk": chunk,
    }
    if isinstance(config, api.DecoderOnlyConfig):
        model = configs.DecoderOnlyModel(configs.DecoderWrapper(config), None, None, **settings)
    else:
        model = configs.EncoderDecoderModel(configs.Transformer(config), None, None, None, **settings)
    update = step.make_train_step(model, Shows(), lambda at: jnp.float32(0.0))
    params = api.init(config, jax.random.key(1))
    after, sums = jax.jit(update)(step.state.TrainState(jnp.int32(0), params, ()), batch_of(), jax.random.key(0))
    return sums, after.params


class Shows:
    """In place of an optimizer: the new parameters are the gradients."""

    def update(self, grads, opt_state, params, step, learning_rate):
        return grads, opt_state


@pytest.mark.parametrize(
    ("kind", "chunk", "smoothing", "divided"),
    [
        *((kind, 4, 0.1, True) for kind in CONFIGS),
        ("PaLM", 1, 0.0, False),
        ("PaLM", 10, 0.0, False),  # the last piece has two tokens
    ],
)
def test_loss_sums_and_gradients_equal_those_of_all_logits_at_once(kind, chunk, smoothing, divided):
    sums, grads = measured(kind, chunk, smoothing, divided)
    whole_sums, whole_grads = measured(kind, 0, smoothing, divided)
    assert set(sums) == set(whole_sums)
    for name, value in whole_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6, atol=1e-7, err_msg=name)
    # Of a tensor's largest: a number near 0 is a sum that cancels, and float32 keeps seven digits of what is summed. Seen: 3e-7.
    largest = jax.tree.map(lambda leaf: float(jnp.max(jnp.abs(leaf))), whole_grads)
    noise = 1e-4 * max(jax.tree.leaves(largest))  # biases of keys have no gradient: a softmax does not see them
    assert noise > 1e-7
    jax.tree.map(
        lambda a, b, most: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(most, noise)),
        grads,
        whole_grads,
        largest,
    )


def test_a_loss_that_is_scaled_has_scaled_gradients():
    projection, hidden = jnp.eye(5, 7), jax.random.normal(jax.random.key(0), (2, 3, 5))
    batch = {"decoder_target_tokens": jnp.array([[1, 2, 3], [4, 5, 6]])}

    def objective(projection, hidden, factor):
        pieces = loss.chunked_loss_and_sums(multiply, projection, hidden, batch, jnp.ones((2, 3)), chunk=2)
        return factor * pieces[0]

    def plain(projection, hidden, factor):
        return factor * loss.loss_and_sums(multiply(projection, hidden), batch, jnp.ones((2, 3)))[0]

    for argument in (0, 1):
        ours = jax.grad(objective, argnums=argument)(projection, hidden, -3.0)
        np.testing.assert_allclose(
            ours, jax.grad(plain, argnums=argument)(projection, hidden, -3.0), rtol=1e-5, atol=1e-6
        )


def multiply(projection, x):
    return x @ projection


def test_no_array_of_all_logits_is_left_in_the_step():
    def largest_vocabulary_array(chunk):
        text = jax.jit(lambda p, b: step._loss(model(chunk), None, p, b, None)[0]).lower(params, batch).as_text()
        return "4x12x50xf32" in text

    config = CONFIGS["PaLM"]
    params, batch = api.abstract_params(config), {**batch_of(), "loss_weights": jnp.ones((4, LENGTH))}

    def model(chunk):
        return configs.DecoderOnlyModel(configs.DecoderWrapper(config), None, None, logits_chunk=chunk)

    assert largest_vocabulary_array(0)
    assert not largest_vocabulary_array(4)


@pytest.mark.parametrize(
    ("given", "vocab", "length", "expected"),
    [
        (None, 256000, 2560, 512),
        (None, 32128, 512, None),
        (None, 256000, 512, None),
        (0, 256000, 2560, None),
        (8, 50, 20, 8),
    ],
)
def test_a_large_vocabulary_is_cut_unless_the_run_says_otherwise(given, vocab, length, expected):
    assert loss.chunk_length(given, vocab, length) == expected


@pytest.mark.parametrize("table", ["standard", "split_residual"])
def test_eight_devices_give_the_gradients_of_one(table):
    config = CONFIGS["PaLM"]
    params, batch = api.init(config, jax.random.key(1)), batch_of()
    model = configs.DecoderOnlyModel(configs.DecoderWrapper(config), None, None, logits_chunk=4)

    def objective(params, batch):
        weights = {"loss_weights": jnp.asarray(batch["decoder_loss_weights"], jnp.float32)}
        return step._loss(model, None, params, {**batch, **weights}, None)[0]

    one, one_grads = jax.jit(jax.value_and_grad(objective))(params, batch)
    mesh, rules = sharding.make_mesh(data=1, fsdp=2, model=4), sharding.table(table)
    placed = sharding.param_shardings(mesh, api.logical_axes(config), params, rules)
    split = jax.device_put(batch, sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        eight, eight_grads = jax.jit(jax.value_and_grad(objective))(jax.device_put(params, placed), split)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), eight_grads, one_grads)
