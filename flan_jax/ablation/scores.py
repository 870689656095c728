"""What the steps of a grid found: a value for every cell and metric, means over seeds and their intervals."""

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from flan_jax import errors
from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import steps as steps_lib
from flan_jax.evaluation import results

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Found:
    """What one evaluation wrote.

    Attributes:
      values: name of a score or average -> value; `normalized/GROUP` is the mean of a group's scores on the scale on which a guess
        is 0 (`flan2022.normalized`), where chances are known.
      scores: names of those that are scores, not averages of them.
      examples: questions of each score.
      chances: what a guess scores, of those values where that is known.
    """

    values: Mapping[str, float]
    scores: tuple[str, ...]
    examples: Mapping[str, int]
    chances: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Point:
    """One arm of one line by one metric.

    Attributes:
      line: '' where lines were averaged or there is one.
      arm: its label.
      metric: its label.
      values: seed -> value.
      chance: what a guess scores, if that is known.
    """

    line: str
    arm: str
    metric: str
    values: Mapping[int, float]
    chance: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())

    @property
    def half_width(self) -> float | None:
        """Half of the 95% interval of the mean over seeds, by Student's t; None for one seed."""
        return half_width(list(self.values.values()))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95% interval of a mean: t(0.975, n - 1) s / sqrt(n); `half_width([1, 2, 3]) == 4.303 / sqrt(3)`."""
    if len(values) < 2:
        return None
    from scipy import special

    quantile = float(special.stdtrit(len(values) - 1, (1 + _CONFIDENCE) / 2))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def difference(first: Point, second: Point) -> tuple[float, float | None] | None:
    """Mean of second - first over the seeds that both have, and half of its 95% interval; None if they share no seed."""
    shared = [second.values[seed] - first.values[seed] for seed in first.values if seed in second.values]
    return (statistics.fmean(shared), half_width(shared)) if shared else None


def read(folder: pathlib.Path) -> Found | None:
    """What an evaluation left in its folder; None where it has not finished."""
    try:
        if (folder / results.FILE).exists():
            from flan_jax.evaluation.suites import flan2022  # and all benchmarks with it

            found = results.load(folder)
            values = {score.name: score.value for score in found.scores}
            values |= {f"{score.group}/{score.name}": score.value for score in found.scores if score.group}
            examples = {score.name: score.examples for score in found.scores}
            for group in dict.fromkeys(score.group for score in found.scores):
                pairs = [(score.value, score.chance) for score in found.scores if score.group == group]
                known = [(value, chance) for value, chance in pairs if chance is not None]
                if len(known) == len(pairs):
                    values[f"normalized/{group}"] = flan2022.normalized_mean(known)
            names = tuple(score.name for score in found.scores)
            return Found(values | dict(found.averages), names, examples, _chances(found))
        if (folder / "contamination.json").exists():
            return _contamination(json.loads((folder / "contamination.json").read_text(encoding="utf-8")))
    except (errors.FlanError, ValueError):  # cut off in the middle of writing
        return None
    return None


def _chances(found: results.Results) -> dict[str, float]:
    """Of scores, and of groups all of whose scores have one."""
    known: dict[str, float] = {}
    for group in dict.fromkeys(score.group for score in found.scores):
        mine = [score for score in found.scores if score.group == group]
        of_scores = {score.name: score.chance for score in mine if score.chance is not None}
        known |= of_scores
        if len(of_scores) == len(mine):
            known[group] = statistics.fmean(of_scores.values())
    return known


def _contamination(content: Mapping) -> Found:
    """`all`, `clean` and `dirty`: means over datasets of the scores; `DATASET/clean` one of them; `share`: percent dirty."""
    values: dict[str, float] = {}
    by_kind: dict[str, list[float]] = {}
    for entry in content["datasets"]:
        score = entry.get("score") or {}
        known = {kind: value for kind, value in score.items() if value is not None}
        if known:
            total = sum(entry[kind] for kind in known)
            known["all"] = sum(entry[kind] * value for kind, value in known.items()) / total
        known["share"] = 100 * entry["dirty"] / max(1, entry["examples"])
        for kind, value in known.items():
            values[f"{entry['dataset']}/{kind}"] = value
            by_kind.setdefault(kind, []).append(value)
    values |= {kind: statistics.fmean(of) for kind, of in by_kind.items()}
    examples = {entry["dataset"]: entry["examples"] for entry in content["datasets"]}
    return Found(values, tuple(by_kind), examples)


def points(sweep: steps_lib.Sweep, root: pathlib.Path) -> list[Point]:
    """The points that there are so far: arms without a finished seed are left out.

    Raises:
      FlanError: an evaluation has no score of a name that a metric asks for.
    """
    grid = sweep.grid
    by_cell: dict[tuple[str, str, int, str], float] = {}
    chances: dict[str, float | None] = {}
    for cell, asked in sweep.asked.items():
        found = {name: read(root / key) for name, key in asked.items()}
        for metric, names in grid.metrics.items():
            if all(found[name.partition("/")[0]] is not None for name in names):
                by_cell[cell.line, cell.arm, cell.seed, metric] = _value(cell, metric, names, found)
                chances.setdefault(metric, _chance(names, found))
    made = []
    for line in [""] if grid.mean_of_lines else grid.lines:
        lines = list(grid.lines) if grid.mean_of_lines else [line]
        for arm in grid.arms:
            for metric in grid.metrics:
                values = {}
                for seed in grid.seeds:
                    of = [by_cell.get((one, arm, seed, metric)) for one in lines]
                    whole = [value for value in of if value is not None]
                    if len(whole) == len(of):
                        values[seed] = statistics.fmean(whole)
                if values:
                    made.append(Point(line, arm, metric, values, chances[metric]))
    return made


def _value(cell: grid_lib.Cell, metric: str, names: Sequence[str], found: Mapping[str, Found | None]) -> float:
    values = []
    for name in names:
        evaluation, _, part = name.partition("/")
        of = found[evaluation]
        assert of is not None
        if not part:
            values.append(statistics.fmean(of.values[one] for one in of.scores))
        elif part in of.values:
            values.append(of.values[part])
        else:
            raise errors.FlanError(f"{cell}: metric {metric!r}: {errors.unknown('score', part, of.values)}")
    return statistics.fmean(values)


def _chance(names: Sequence[str], found: Mapping[str, Found | None]) -> float | None:
    """What a guess scores by a metric; None where that is not known of all its parts."""
    values: list[float | None] = []
    for name in names:
        evaluation, _, part = name.partition("/")
        of = found[evaluation]
        assert of is not None
        values += [of.chances.get(one) for one in ([part] if part else of.scores)]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def examples(sweep: steps_lib.Sweep, root: pathlib.Path) -> dict[str, int]:
    """How many questions each evaluation of the first finished cell asked, each with every template."""
    found: dict[str, int] = {}
    for asked in sweep.asked.values():
        for name, key in asked.items():
            one = read(root / key)
            if one is not None and name not in found:
                found[name] = sum(one.examples.values())
    return found
