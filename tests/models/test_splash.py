"""The splash kernel against the plain computation, step by step on the CPU, and compiled for a TPU slice."""

import contextlib
import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors, sharding
from flan_jax.models import api, attention, presets, splash
from flan_jax.planning import slices

LENGTH, HEADS, HEAD_DIM = 128, 4, 128
SIZES = {
    "vocab_size": 64,
    "num_layers": 1,
    "emb_dim": 64,
    "num_heads": 4,
    "head_dim": 128,
    "mlp_dim": 64,
    "dropout_rate": 0.1,
}


@functools.cache
def inputs(key_heads: int):
    keys = jax.random.split(jax.random.key(key_heads), 3)
    heads = (HEADS, key_heads, key_heads)
    query, key, value = (jax.random.normal(k, (2, LENGTH, n, HEAD_DIM)) * 0.3 for k, n in zip(keys, heads, strict=True))
    segments = jnp.asarray(np.repeat([[1, 1, 2, 3], [1, 2, 2, 0]], LENGTH // 4, axis=1), jnp.int32)
    return query, key, value, segments


def plain(query, key, value, segments, segments_of_keys=None):
    of_keys = segments if segments_of_keys is None else segments_of_keys
    causal = segments_of_keys is None
    mask = attention.attention_mask(segments > 0, of_keys > 0, segments, of_keys, causal=causal)
    mixed = attention.dot_product_attention(query, key, value, mask_Bx1xQxS=mask)
    return jnp.where((segments > 0)[:, :, None, None], mixed, 0.0)


def kernel(query, key, value, segments, segments_of_keys=None):
    of_keys = segments if segments_of_keys is None else segments_of_keys
    causal = segments_of_keys is None
    mixed = splash.attend(query, key, value, segments, of_keys, causal=causal, interpret=True)
    return jnp.where((segments > 0)[:, :, None, None], mixed, 0.0)  # what padding sees is nobody's business


@functools.cache
def crossed():
    """Queries and the longer sequence that they look at, heads of 64 as in T5, with the segments of both."""
    query, _, _, segments = inputs(HEADS)
    longer = jax.random.normal(jax.random.key(5), (2, 2 * LENGTH, HEADS, HEAD_DIM)) * 0.3
    of_keys = jnp.asarray(
        np.repeat([[1, 1, 1, 1, 2, 3, 3, 0], [1, 2, 2, 2, 2, 2, 0, 0]], LENGTH // 4, axis=1), jnp.int32
    )
    narrow = [x[..., :64] for x in (query, longer, jnp.flip(longer, 1))]
    return *narrow, segments, of_keys


@pytest.mark.parametrize("split", [False, True])
def test_attention_to_another_sequence_equals_the_plain_computation(split):
    *values, of_queries, of_keys = crossed()
    weights = jax.random.normal(jax.random.key(9), values[0].shape)

    def both(function):
        objective = lambda *x: jnp.sum(function(*x, of_queries, of_keys) * weights)  # noqa: E731
        return jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2)))(*values)

    with sharding.use(sharding.make_mesh(data=2, fsdp=1, model=4)) if split else contextlib.nullcontext():
        ours, ours_grads = both(kernel)
    theirs, theirs_grads = both(plain)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        assert float(jnp.max(jnp.abs(b))) > 1e-2
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_an_encoder_decoder_asks_for_it_between_its_stacks(packed, monkeypatch):
    config = presets.t5_config("tiny", vocab_size=64, num_encoder_layers=1, num_decoder_layers=2, scan_layers=True)
    params = api.init(config, jax.random.key(0))
    tokens = jnp.asarray(np.arange(2 * LENGTH).reshape(2, LENGTH) % 60 + 2, jnp.int32)
    segments = jnp.asarray(np.repeat([[1, 1, 2, 3], [1, 2, 2, 0]], LENGTH // 4, axis=1), jnp.int32)
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens, "decoder_target_tokens": tokens}
    batch = {name: jnp.where(segments > 0, value, 0) for name, value in batch.items()}
    if packed:
        batch |= {"encoder_segment_ids": segments, "decoder_segment_ids": segments}
    called = []

    def interpreted(*given, causal):
        called.append(causal)
        return original(*given, causal=causal, interpret=True)

    original = splash.attend
    monkeypatch.setattr(splash, "attend", interpreted)
    plainly = api.logits(config, params, batch)
    assert not called
    by_kernel = api.logits(dataclasses.replace(config, attention="splash"), params, batch)
    assert called
    assert not any(called)
    real = np.asarray(batch["decoder_target_tokens"]) > 0
    np.testing.assert_allclose(by_kernel[real], plainly[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_values_and_gradients_equal_the_plain_computation(key_heads):
    query, key, value, segments = inputs(key_heads)
    weights = jax.random.normal(jax.random.key(9), query.shape)

    def both(function):
        objective = jax.value_and_grad(lambda *x: jnp.sum(function(*x, segments) * weights), argnums=(0, 1, 2))
        return jax.jit(objective)(query, key, value)

    (ours, ours_grads), (theirs, theirs_grads) = both(kernel), both(plain)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        assert float(jnp.max(jnp.abs(b))) > 1e-2
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_on_a_mesh_every_device_takes_its_rows_and_heads(key_heads):
    query, key, value, segments = inputs(key_heads)
    mesh = sharding.make_mesh(data=2, fsdp=1, model=4)
    with sharding.use(mesh):
        split = jax.jit(kernel)(query, key, value, segments)
    np.testing.assert_allclose(split, plain(query, key, value, segments), rtol=1e-4, atol=1e-5)
    assert split.addressable_shards[0].data.size * 8 == split.size


def test_lengths_and_models_that_the_kernel_cannot_do():
    with pytest.raises(errors.FlanError, match=r"multiple of 512 tokens; given 640, expected e\.g\. 1024"):
        splash.check(640)
    with pytest.raises(errors.FlanError, match=r"multiple of 128 tokens; given 114, expected e\.g\. 128"):
        splash.check(114)
    with pytest.raises(errors.FlanError, match=r"positions 'relative'.*expected attention 'xla'"):
        presets.decoder_only_config("lamda_137b", attention="splash")
    with pytest.raises(errors.FlanError, match="prefix_lm True"):
        presets.decoder_only_config("palm_8b", attention="splash", prefix_lm=True)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_step_is_compiled_for_a_slice_without_logits_of_attention():
    config = presets.decoder_only_config("palm_8b", attention="splash", dtype="bfloat16", **SIZES)
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
    text = compiled_gradient(config, dict.fromkeys(names, 1024))
    assert text.count("tpu_custom_call") >= 2  # forward and back
    assert "1024,1024]" not in text


def compiled_gradient(config, lengths):
    """The optimised program of a gradient on two rows, over four chips."""
    mesh = sharding.make_mesh(data=1, fsdp=2, model=2, devices=slices.open_slice("v5e:2x2").devices)
    shapes = api.abstract_params(config)
    placed = sharding.param_shardings(mesh, api.logical_axes(config), shapes)
    params = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, placed)
    at = sharding.batch_sharding(mesh)
    rows = {name: jax.ShapeDtypeStruct((2, length), jnp.int32, sharding=at) for name, length in lengths.items()}

    def objective(params, batch):
        return jnp.mean(api.logits(config, params, batch, dropout_rng=jax.random.key(0)))

    with sharding.use(mesh):
        return jax.jit(jax.grad(objective)).lower(params, rows).compile().as_text()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_t5_step_is_compiled_for_a_slice_without_logits_of_attention_to_the_encoder():
    config = presets.t5_config(
        "tiny",
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        head_dim=64,
        attention="splash",
        dtype="bfloat16",
    )
    text = compiled_gradient(
        config,
        {"encoder_input_tokens": 1024, "encoder_segment_ids": 1024, "encoder_positions": 1024}
        | {
            "decoder_input_tokens": 256,
            "decoder_target_tokens": 256,
            "decoder_segment_ids": 256,
            "decoder_positions": 256,
        },
    )
    assert text.count("tpu_custom_call") >= 2
    assert "256,1024]" not in text
    assert "1024,1024]" in text  # the encoder's own attention has a bias
