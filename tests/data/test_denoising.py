"""Denoisers over token arrays: what is cut out can be put back, and as much is cut out, in spans as long, as is asked."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import denoising, stateless

SENTINELS = list(range(32_099, 31_999, -1))
CORRUPTIONS = [denoising.R, denoising.X_LONG, denoising.X_HALF]
KEYS = st.integers(0, 2**63)


@pytest.mark.parametrize(
    ("tokens", "density", "mean", "expected"),
    [
        (512, 0.15, 3.0, (77, 26)),
        (2, 0.15, 3.0, (1, 1)),
        (2, 0.9, 3.0, (1, 1)),
        (100, 0.5, 3.0, (50, 17)),
        (10, 0.9, 1.0, (9, 1)),
    ],
)
def test_how_much_is_cut(tokens, density, mean, expected):
    assert denoising.spans(tokens, density, mean) == expected


def test_the_worked_example():
    mask = np.asarray([False, True, True, False, True])
    inputs, targets = denoising.corrupt(np.arange(1, 6), mask, [99, 98])
    assert (inputs.tolist(), targets.tolist()) == ([1, 99, 4, 98], [99, 2, 3, 98, 5])


@given(
    st.lists(st.integers(3, 30_000), min_size=2, max_size=400),
    st.floats(0.01, 0.99),
    st.floats(1, 40),
    st.booleans(),
    KEYS,
)
@settings(max_examples=200, deadline=None)
def test_what_is_cut_out_can_be_put_back(tokens, density, mean, anywhere, key):
    """And nothing is lost, doubled or moved: inputs and targets hold each token once, and a sentinel a span each."""
    mask = denoising.noise_mask(
        len(tokens), denoising.Corruption(density, mean, anywhere=anywhere), key, len(SENTINELS)
    )
    cut, count = denoising.spans(len(tokens), density, mean, len(SENTINELS))
    assert mask.sum() == cut
    assert anywhere or (mask[-1] and not mask[0])  # T5's ends with a span, and does not start with one
    assert (np.diff(np.concatenate([[0], mask.astype(int)])) == 1).sum() == count
    inputs, targets = denoising.corrupt(np.asarray(tokens), mask, SENTINELS)
    assert len(inputs) == len(tokens) - cut + count
    assert len(targets) == cut + count
    assert [t for t in inputs if t in SENTINELS] == [t for t in targets if t in SENTINELS] == SENTINELS[:count]
    assert denoising.restore(inputs.tolist(), targets.tolist(), SENTINELS) == tokens


@given(
    st.lists(st.integers(3, 30_000), min_size=2, max_size=900),
    st.sampled_from([objective for listed in denoising.OBJECTIVES.values() for objective, _ in listed]),
    st.integers(6, 300),
    st.integers(6, 300),
    KEYS,
)
@settings(max_examples=200, deadline=None)
def test_every_objective_fits_and_keeps_a_window(tokens, objective, inputs_length, targets_length, key):
    lengths, mode = {"inputs": inputs_length, "targets": targets_length}, [7, 8]
    inputs, targets = denoising.make(tokens, objective, lengths, key, SENTINELS, mode)
    assert len(inputs) <= inputs_length - 1
    assert 1 <= len(targets) <= targets_length - 1
    assert inputs[:2] == mode
    if isinstance(objective, denoising.Corruption):
        whole = denoising.restore(inputs[2:], targets, SENTINELS)
    else:
        whole = [*inputs[2:], *targets]
        assert isinstance(objective, denoising.Whole) == (len(inputs) == 2)
    most = denoising.window(lengths, objective, 2)
    assert len(whole) == min(len(tokens), most)
    assert any(tokens[start : start + len(whole)] == whole for start in range(len(tokens) - len(whole) + 1))
    assert (inputs, targets) == denoising.make(tokens, objective, lengths, key, SENTINELS, mode)


def test_t5s_own_lengths():
    """512 and 114 for 568 tokens, as T5 computes them."""
    assert denoising.window({"inputs": 512, "targets": 114}, denoising.Corruption(0.15, 3.0)) == 568


def test_lengths_without_room_are_refused():
    with pytest.raises(errors.FlanError, match="no text can be cut into inputs of 2 and targets of 9 tokens"):
        denoising.window({"inputs": 2, "targets": 9}, denoising.R)


@pytest.mark.parametrize("objective", CORRUPTIONS)
def test_statistics_of_spans(objective):
    """Rate and mean length are those asked for; every position that may be noise is as often noise as its neighbours."""
    tokens = 500
    masks = np.stack([denoising.noise_mask(tokens, objective, key) for key in range(1_500)])
    cut, count = denoising.spans(tokens, objective.density, objective.mean_span)
    assert masks.mean() == cut / tokens
    assert cut / tokens == pytest.approx(objective.density, abs=0.002)
    assert cut / count == pytest.approx(objective.mean_span, rel=0.25)  # 75 tokens in 2 spans of "32"
    # Away from both ends, where fewer spans can lie.
    middle = masks[:, 60:440].mean(axis=0)
    spread = np.sqrt(objective.density * (1 - objective.density) / len(masks))
    assert np.abs(middle - middle.mean()).max() < 6 * spread


def test_every_division_is_as_likely():
    """5 items in 3 parts: 6 ways."""
    ways = collections.Counter(
        tuple(denoising._divide(5, 3, int(stateless.hash64(key))).tolist()) for key in range(6_000)
    )
    assert len(ways) == 6
    # Chi-squared with 5 degrees of freedom: above 30 once in 100,000 times.
    assert sum((n - 1_000) ** 2 / 1_000 for n in ways.values()) < 30


def test_pivots_are_uniform():
    counts = collections.Counter()
    for key in range(4_500):
        inputs, _ = denoising.make(range(100, 110), denoising.Prefix(), {"inputs": 64, "targets": 64}, key, [])
        counts[len(inputs)] += 1
    assert set(counts) == set(range(1, 10))
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 40  # 8 degrees of freedom


def test_ul2r_draws_a_quarter_a_quarter_and_a_half():
    counts = collections.Counter(denoising.draw("ul2r", key) for key in range(20_000))
    shares = {objective: counts[objective] / 20_000 for objective in counts}
    expected = {denoising.R: 0.25, denoising.X_LONG: 0.125, denoising.X_HALF: 0.125, denoising.S: 0.5}
    assert shares == pytest.approx(expected, abs=0.015)
    with pytest.raises(errors.FlanError, match="unknown objective 'ul2'; did you mean 'ul2r'"):
        denoising.draw("ul2", 0)
