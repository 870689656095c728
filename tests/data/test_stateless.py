"""Stateless choices: functions of their keys alone, and uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data import stateless

keys = st.integers(-(2**63), 2**63 - 1)


def chi_square(counts: np.ndarray) -> float:
    """Distance from uniform in standard deviations of its own distribution (mean k - 1, variance 2 (k - 1))."""
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - (counts.size - 1)) / np.sqrt(2 * (counts.size - 1)))


@given(size=st.integers(1, 3000), key=keys)
def test_permute_is_a_bijection(size, key):
    assert sorted(stateless.permute(np.arange(size), size, key).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**20, 2**20 + 1, 999_983, 10**12])
def test_permute_of_large_sizes_stays_in_range_and_collides_nowhere(size):
    index = np.unique(np.linspace(0, size - 1, 20_000).astype(np.int64))
    found = stateless.permute(index, size, 3)
    assert ((found >= 0) & (found < size)).all()
    assert len(np.unique(found)) == len(index)


def test_permute_leaves_its_argument_alone():
    for size in (1, 10):
        index = np.zeros(1, np.int64)
        found = stateless.permute(index, size, 7)
        found += 1
        assert index.tolist() == [0]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**6), keys), min_size=1, max_size=20))
def test_permute_element_by_element(elements):
    """Each element is sent among its own number of others by its own key, wherever it stands in the call."""
    sizes, index, key = (np.asarray(column) for column in zip(*((n, i % n, k) for n, i, k in elements), strict=True))
    alone = [int(stateless.permute(index[i : i + 1], int(sizes[i]), key[i])[0]) for i in range(len(index))]
    assert stateless.permute(index, sizes, key).tolist() == alone


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 9, 10, 17, 60])
def test_permute_sends_every_element_everywhere_equally_often(size):
    times = 500 * size
    key = np.repeat(stateless.hash64(11, np.arange(times)), size)
    places = stateless.permute(np.tile(np.arange(size), times), size, key).reshape(times, size)
    distances = [chi_square(np.bincount(places[:, i], minlength=size)) for i in range(size)]
    assert max(distances) < 6


def test_permute_keeps_no_trace_of_the_order():
    """Neighbours land as far apart as two random places do (a third of the size on average)."""
    places = stateless.permute(np.arange(30_000), 30_000, 5)
    assert abs(np.abs(np.diff(places)).mean() / 10_000 - 1) < 0.03
    other = stateless.permute(np.arange(30_000), 30_000, 6)
    assert abs(np.corrcoef(places, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(places, np.arange(30_000))[0, 1]) < 0.03


@given(st.lists(keys, min_size=1, max_size=4))
def test_same_key_same_value(given_keys):
    assert stateless.hash64(*given_keys) == stateless.hash64(*(np.asarray([key]) for key in given_keys))[0]


def test_values_are_pinned():
    """A changed hash would silently change every run's data order: saved positions would continue another stream."""
    assert int(stateless.hash64(1, 2)) == 13608149317741381227
    assert stateless.permute(np.arange(10), 10, 7).tolist() == [6, 1, 2, 0, 7, 4, 3, 8, 5, 9]
    assert stateless.name_key("rte") == 3737078793


def test_order_of_keys_matters():
    pairs = np.arange(1, 2000)
    assert (stateless.hash64(pairs, pairs + 1) != stateless.hash64(pairs + 1, pairs)).all()


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 97])
def test_below_is_uniform(limit):
    found = stateless.below(limit, 3, np.arange(50_000))
    assert found.min() >= 0
    assert found.max() < limit
    if limit > 1:
        assert chi_square(np.bincount(found, minlength=limit)) < 6


def test_uniform_is_uniform():
    found = stateless.uniform(9, np.arange(50_000))
    assert ((found >= 0) & (found < 1)).all()
    assert chi_square(np.histogram(found, bins=100, range=(0, 1))[0]) < 6


@pytest.mark.parametrize("bit", range(0, 64, 7))
def test_one_bit_of_a_key_changes_half_of_the_hash(bit):
    one = stateless.hash64(np.arange(2000), 4)
    other = stateless.hash64(np.arange(2000) ^ (1 << bit if bit < 63 else -(2**63)), 4)
    flipped = np.unpackbits((one ^ other).view(np.uint8)).mean()
    assert abs(flipped - 0.5) < 0.01
