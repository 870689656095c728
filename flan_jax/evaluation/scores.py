"""What all metrics share: what they return, and how they check and average."""

import math
from collections.abc import Sequence
from typing import Any

from flan_jax import errors

Scores = dict[str, float]


def check(name: str, first: Sequence[Any], second: Sequence[Any]) -> None:
    """Refuses sides of unequal length (ValueError: a bug) and no examples at all (FlanError)."""
    if len(first) != len(second):
        raise ValueError(f"{name}: {len(first)} targets and {len(second)} predictions")
    if not len(first):
        raise errors.FlanError(f"{name}: there are no examples to evaluate")


def check_accepted(name: str, targets: Sequence[Sequence[str]]) -> None:
    """Refuses a target that is not a list of at least one accepted answer (FlanError)."""
    for number, accepted in enumerate(targets):
        if isinstance(accepted, str) or not accepted:
            raise errors.FlanError(f"{name}: target {number} is {accepted!r}; expected a list of accepted answers")


def percent(values: Sequence[float]) -> float:
    """The mean of values from 0 to 1, in percent."""
    return 100 * math.fsum(values) / len(values)
