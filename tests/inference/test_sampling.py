"""How tokens are drawn: which ones may be, and how often each is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.inference import sampling

# Probabilities by falling size, then shuffled by ORDER.
PROBABILITIES = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
ORDER = np.array([3, 0, 4, 1, 2])
LOGITS = np.log(PROBABILITIES)[ORDER].astype(np.float32)
ROWS = 20_000


def drawn(temperature=1.0, top_k=0, top_p=1.0, rows=ROWS, step=0):
    """How often each of the five was drawn, by falling probability."""
    controls = sampling.Controls(
        seed=np.arange(rows, dtype=np.uint32),
        temperature=np.full(rows, temperature, np.float32),
        top_k=np.full(rows, top_k, np.int32),
        top_p=np.full(rows, top_p, np.float32),
        limit=np.full(rows, 1, np.int32),
    )
    keys = sampling.row_keys(jnp.asarray(controls.seed), 1)
    logits = jnp.broadcast_to(LOGITS[None], (rows, 5))
    tokens = sampling.choose(logits, jnp.int32(step), keys, controls, sampling.kind_of(controls))
    counts = np.bincount(np.asarray(tokens), minlength=5)
    by_size = np.empty(5, int)
    by_size[ORDER] = counts
    return by_size


@pytest.mark.parametrize(
    ("how", "allowed"),
    [
        ({}, 5),
        ({"temperature": 0.5}, 5),
        ({"temperature": 2.0}, 5),
        ({"top_k": 2}, 2),
        ({"top_k": 9}, 5),
        ({"top_p": 0.6}, 2),  # 0.4 is too little, 0.65 enough
        ({"top_p": 0.4}, 1),
        ({"top_p": 0.9}, 4),
        ({"top_k": 3, "top_p": 0.6}, 2),  # of 0.85: 0.47, 0.29, 0.24
        ({"temperature": 2.0, "top_p": 0.6}, 3),  # flatter: 0.30, 0.24, 0.21, 0.15, 0.11
    ],
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(how, allowed):
    expected = PROBABILITIES ** (1 / how.get("temperature", 1.0))
    expected[allowed:] = 0
    expected /= expected.sum()
    counts = drawn(**how)
    assert np.all(counts[allowed:] == 0)
    # Five standard deviations of a binomial distribution.
    assert np.all(np.abs(counts - ROWS * expected) <= 5 * np.sqrt(ROWS * expected * (1 - expected)) + 1e-9)


def test_draws_of_two_steps_are_independent():
    first, second = drawn(rows=64, step=0), drawn(rows=64, step=1)
    assert not np.array_equal(first, second)


def test_rows_of_one_batch_may_ask_for_different_things():
    rows = 6
    controls = sampling.Controls(
        seed=np.arange(rows, dtype=np.uint32),
        temperature=np.array([0.0, 1.0, 1.0, 1.0, 0.7, 0.00001], np.float32),
        top_k=np.array([3, 0, 1, 0, 2, 0], np.int32),
        top_p=np.array([1.0, 1.0, 1.0, 0.1, 0.9, 1.0], np.float32),
        limit=np.ones(rows, np.int32),
    )
    logits = jax.random.normal(jax.random.key(0), (rows, 50))
    keys = sampling.row_keys(jnp.asarray(controls.seed), 1)

    def choose(chosen):
        of = jax.tree.map(lambda value: value[chosen], controls)
        return sampling.choose(logits[chosen], jnp.int32(3), keys[chosen], of, sampling.kind_of(of))

    together = choose(np.arange(rows))
    alone = [int(choose(np.array([row]))[0]) for row in range(rows)]
    np.testing.assert_array_equal(together, alone)
    likeliest = np.asarray(jnp.argmax(logits, axis=-1))
    np.testing.assert_array_equal(together[np.array([0, 2, 5])], likeliest[[0, 2, 5]])


def test_only_what_is_needed_is_compiled():
    def kind(temperature, top_k, top_p):
        arrays = (np.array(values) for values in ([0, 1], temperature, top_k, top_p, [1, 1]))
        return sampling.kind_of(sampling.Controls(*arrays))

    # A greedy row asks for nothing, whatever else is set for it.
    assert kind([0.0, 0.0], [5, 5], [0.5, 0.5]) == sampling.Kind(False, False, False)
    assert kind([0.0, 0.7], [5, 0], [0.5, 1.0]) == sampling.Kind(True, False, False)
    assert kind([0.0, 0.7], [0, 5], [1.0, 0.5]) == sampling.Kind(True, True, True)


# Few different values, so that some are equal; both signs and zeros.
ROW = st.lists(st.sampled_from([-3.5, -1.0, -0.0, 0.0, 1e-3, 0.5, 2.0, 7.25]), min_size=8, max_size=8)


@settings(max_examples=60, deadline=None)
@given(ROW, st.integers(0, 10))
def test_top_k_keeps_the_k_largest_and_those_equal_to_the_last(row, k):
    kept = np.asarray(keep_top_k(jnp.asarray([row], jnp.float32), jnp.asarray([k])))[0]
    border = -np.inf if k == 0 or k >= len(row) else sorted(row, reverse=True)[k - 1]
    expected = np.asarray(row, np.float32)
    np.testing.assert_array_equal(kept, np.where(expected >= border, expected, -np.inf))


@settings(max_examples=60, deadline=None)
@given(ROW, st.integers(1, 100))
def test_top_p_keeps_the_fewest_that_are_enough(row, percent):
    p = percent / 100
    kept = np.isfinite(np.asarray(keep_top_p(jnp.asarray([row], jnp.float32), jnp.asarray([p], jnp.float32)))[0])
    chances = np.exp(np.asarray(row)) / np.sum(np.exp(row))
    assert kept.any()
    assert p == 1.0 or chances[kept].sum() >= p - 1e-6
    # Without the least likely ones kept it would not be enough, and none that is left out is likelier than one kept.
    if p < 1.0:
        least = chances[kept].min()
        assert chances[kept & (chances > least * (1 + 1e-6))].sum() < p + 1e-6
        assert np.all(chances[~kept] < least * (1 + 1e-6))
    else:
        assert kept.all()


keep_top_k, keep_top_p = jax.jit(sampling.keep_top_k), jax.jit(sampling.keep_top_p)
