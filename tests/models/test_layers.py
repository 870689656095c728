"""The random factors of dropout, and the layers without attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.models import layers


def test_dropout_keeps_the_expected_fraction_and_scales_it_to_mean_one():
    seed = jax.random.bits(jax.random.key(0), (2,), jnp.uint32)
    for rate in (0.05, 0.1, 0.5):
        factors = np.asarray(layers.keep_mask(seed, rate, (400, 500), jnp.float32))
        kept = factors != 0
        np.testing.assert_allclose(factors[kept], 1 / (1 - rate), rtol=1e-6)
        # 200,000 draws: five standard deviations.
        assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / 200_000) ** 0.5


@pytest.mark.parametrize("lag", [(0, 1), (1, 0), (1, 1), (7, 64), (0, 128)])
def test_dropout_of_neighbours_is_independent(lag):
    seed = jax.random.bits(jax.random.key(1), (2,), jnp.uint32)
    kept = np.asarray(layers.keep_mask(seed, 0.5, (512, 512), jnp.float32)) != 0
    shifted = kept[lag[0] :, lag[1] :]
    both = kept[: shifted.shape[0], : shifted.shape[1]] & shifted
    assert abs(both.mean() - 0.25) < 5 * (0.25 * 0.75 / both.size) ** 0.5


def test_places_and_layers_draw_independently():
    seed = layers.seed_from(jax.random.key(2))
    masks = []
    for layer in range(4):
        for place in range(4):
            folded = layers.fold(layers.fold(seed, layer), place)
            assert folded is not None
            masks.append(np.asarray(layers.keep_mask(folded, 0.5, (128, 128), jnp.float32)) != 0)
    for index, first in enumerate(masks):
        for second in masks[:index]:
            assert abs((first & second).mean() - 0.25) < 5 * (0.25 * 0.75 / first.size) ** 0.5


def test_folding_nothing_is_nothing():
    assert layers.fold(None, 3) is None
    x = jnp.ones((2, 2))
    assert layers.dropout(x, 0.5, None) is x


def test_norm_divides_by_the_root_mean_square_and_subtracts_no_mean():
    x = jnp.array([[3.0, 4.0, 0.0, 5.0]])
    y: Any = layers.RMSNorm(jnp.float32).apply({"params": {"scale": jnp.array([1.0, 2.0, 1.0, 1.0])}}, x)
    np.testing.assert_allclose(y, np.array([[3.0, 8.0, 0.0, 5.0]]) / 12.5**0.5, rtol=1e-5)
