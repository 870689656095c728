"""Selection among samples, as Flan 2022 describes it."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.evaluation import open_ended


@pytest.mark.parametrize(
    ("log_probs", "chosen"),
    [
        ([-20, -30, -3, -25, -18], 4),
        ([-20, -30, -10, -25, -18], 2),  # exactly half the median is not better than it
        ([-5.0], 0),
        ([0.0, 0.0], 0),
        ([-1.0, -100.0], 1),  # the median of two is their mean
        ([-7.0, -7.0, -7.0], 0),
    ],
)
def test_the_likeliest_that_is_not_too_likely(log_probs, chosen):
    assert open_ended.select(log_probs) == chosen


@given(st.lists(st.floats(-1e4, 0), min_size=1, max_size=9))
def test_nothing_that_was_kept_is_likelier(log_probs):
    chosen = log_probs[open_ended.select(log_probs)]
    limit = statistics.median(log_probs) / 2
    assert chosen <= limit
    assert [value for value in log_probs if chosen < value <= limit] == []


def test_without_samples_there_is_nothing_to_select():
    with pytest.raises(errors.FlanError, match="no samples"):
        open_ended.select([])
