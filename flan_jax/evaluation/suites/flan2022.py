"""The six scores of Flan 2022 and their normalised average (footnote 5 of the paper).

    100 * (raw - random) / (100 - random)        of every subtask; then the mean of a benchmark's subtasks, then of the six

Below random it is negative. The paper prints no table of random scores; the one in `bbh.CHANCE` is fitted to its own rows.
"""

import statistics
from collections.abc import Mapping, Sequence

from flan_jax.evaluation.suites import base, bbh, mgsm, mmlu, tydiqa

NAME = "flan2022"
AVERAGE = "normalized_average"
SUITES: Mapping[str, base.Suite] = {suite.name: suite for suite in (mmlu.SUITE, bbh.SUITE, tydiqa.SUITE, mgsm.SUITE)}
# (suite, with reasons): the six, in the order of the paper's tables.
SIX: tuple[tuple[str, bool], ...] = (
    ("mmlu", False),
    ("mmlu", True),
    ("bbh", False),
    ("bbh", True),
    ("tydiqa", False),
    ("mgsm", True),
)


def run_name(suite: str, cot: bool) -> str:
    """`mmlu_cot`, `tydiqa_direct`."""
    return f"{suite}_{'cot' if cot else 'direct'}"


RUNS = tuple(run_name(suite, cot) for suite, cot in SIX)


def normalized(raw: float, chance: float) -> float:
    """A score in percent on the scale on which a guess is 0: `normalized(62.5, 25) == 50`."""
    return 100 * (raw - chance) / (100 - chance)


def normalized_mean(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean of a benchmark's subtasks, each normalised by its own chance.

    Args:
      pairs: (score, chance) of each subtask, in percent.
    """
    return statistics.fmean(normalized(raw, chance) for raw, chance in pairs)


def normalized_average(runs: Mapping[str, Sequence[tuple[float, float]]]) -> float:
    """The mean of the six (see the module).

    Args:
      runs: for every name in `RUNS`, (score, chance) of each subtask; one pair where a mean of them is all that is known.
    """
    return statistics.fmean(normalized_mean(runs[name]) for name in RUNS)
