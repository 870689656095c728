"""Relative positions against t5x's table, and the one attention function against its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax.models import attention
from tests import golden_numbers


def test_relative_buckets_equal_t5x():
    with np.load(golden_numbers.FOLDER / "misc.npz") as arrays:
        relative = arrays["relpos"]
        for name, bidirectional in (("bidirectional", True), ("causal", False)):
            buckets = attention.relative_buckets(relative, bidirectional=bidirectional)
            np.testing.assert_array_equal(buckets, arrays[name])


def inputs(queries=5, keys=7):
    shapes = [(2, queries, 3, 4), (2, keys, 3, 4), (2, keys, 3, 4), (3, queries, keys)]
    return [jax.random.normal(jax.random.key(index), shape) for index, shape in enumerate(shapes)]


def test_attention_is_the_softmax_weighted_mean_of_unmasked_values():
    query, key, value, bias = inputs()
    mask = jax.random.bernoulli(jax.random.key(9), 0.6, (2, 1, 5, 7)).at[..., 0].set(True)
    ours = attention.dot_product_attention(query, key, value, bias_HxQxS=bias, mask_Bx1xQxS=mask)
    query, key, value, bias, mask, ours = (np.asarray(x) for x in (query, key, value, bias, mask, ours))
    for b in range(2):
        for h in range(3):
            for q in range(5):
                seen = np.flatnonzero(mask[b, 0, q])
                logits = key[b, seen, h].astype(np.float64) @ query[b, q, h] + bias[h, q, seen]
                weights = np.exp(logits) / np.exp(logits).sum()
                np.testing.assert_allclose(ours[b, q, h], weights @ value[b, seen, h], rtol=1e-5, atol=1e-6)


def test_a_query_that_sees_nothing_gets_the_mean_of_all_values():
    query, key, value, bias = inputs()
    mask = jnp.zeros((2, 1, 5, 7), bool)
    ours = attention.dot_product_attention(query, key, value, bias_HxQxS=bias, mask_Bx1xQxS=mask)
    mean = jnp.broadcast_to(jnp.mean(value, axis=1, keepdims=True), ours.shape)
    np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=1e-6)


def test_dropout_removes_the_same_keys_for_all_queries_and_scales_the_rest():
    query, key, _, _ = inputs()
    # Values are the identity on keys, so the output shows the weights.
    value = jnp.broadcast_to(jnp.eye(7)[None, :, None, :], (2, 7, 3, 7))
    plain = attention.dot_product_attention(query, key, value)
    dropped = attention.dot_product_attention(
        query, key, value, dropout_seed=jnp.array([4, 5], jnp.uint32), dropout_rate=0.5
    )
    kept = np.asarray(dropped) != 0
    assert kept.any()
    assert not kept.all()
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1], kept.shape))
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2 * np.asarray(plain)[kept], rtol=1e-5)


def test_bias_of_sequences_looks_every_distance_up_and_a_step_is_one_of_its_rows():
    for bidirectional, (queries, keys) in ((True, (5, 9)), (True, (9, 5)), (False, (300, 300))):
        module = attention.RelativePositionBias(num_heads=3, bidirectional=bidirectional)
        table = jax.random.normal(jax.random.key(0), (3, 32))
        variables = {"params": {"rel_embedding": table}}
        bias: Any = module.apply(variables, queries, keys)
        relative = np.arange(keys)[None, :] - np.arange(queries)[:, None]
        buckets = attention.relative_buckets(relative, bidirectional=bidirectional)
        np.testing.assert_allclose(bias, np.asarray(table)[:, buckets], rtol=1e-6)
        if not bidirectional:
            row: Any = module.apply(variables, jnp.int32(200), keys, method="step")
            np.testing.assert_allclose(np.asarray(row)[:, 0, :201], np.asarray(bias)[:, 200, :201], rtol=1e-6)
