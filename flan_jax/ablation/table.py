"""The table of an ablation: our points beside the paper's, as CSV and as Markdown."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence

from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import published, scores

_HEAD = ("line", "arm", "metric", "seeds", "mean", "low", "high", "by seed", "chance", "paper", "of the paper")


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm by one metric.

    Attributes:
      ours: our point, if there is one.
      paper: value and series, if a paper has one of these labels.
    """

    line: str
    arm: str
    metric: str
    ours: scores.Point | None
    paper: tuple[float, published.Series] | None


def rows(points: Sequence[scores.Point], series: Sequence[published.Series]) -> list[Row]:
    """Our points with the paper's of the same labels, line by line and metric by metric; arms by number, or in the paper's order."""
    theirs = {(s.line, s.metric, arm): (value, s) for s in series for arm, value in s.values.items()}
    ours = {(p.line, p.metric, p.arm): p for p in points}
    order = in_order([*(arm for s in series for arm in s.values), *(p.arm for p in points)])
    columns = dict.fromkeys((line, metric) for line, metric, _ in (*ours, *theirs))
    found = []
    for line, metric in columns:
        for arm in order:
            labels = (line, metric, arm)
            if labels in ours or labels in theirs:
                found.append(Row(line, arm, metric, ours.get(labels), theirs.get(labels)))
    return found


def in_order(arms: Iterable[str]) -> list[str]:
    """Arms once each: numbers by size, others as they come."""
    found = list(dict.fromkeys(arms))
    return sorted(found, key=float) if all(arm.replace(".", "", 1).isdigit() for arm in found) else found


def to_csv(found: Sequence[Row]) -> str:
    """All digits; a column each, seeds as `SEED:VALUE`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    writer.writerows(_cells(row, None) for row in found)
    return text.getvalue()


def to_markdown(found: Sequence[Row]) -> str:
    """One decimal."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|---|---|" + "---:|" * 4 + "---|---:|---:|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in _cells(row, 1)) + " |" for row in found]
    return "\n".join(lines) + "\n"


def _cells(row: Row, digits: int | None) -> list[str]:
    def told(value: float | None) -> str:
        return "" if value is None else repr(round(value, 6)) if digits is None else f"{value:.{digits}f}"

    cells = [row.line, row.arm, row.metric]
    if row.ours is None:
        cells += [""] * 6
    else:
        mean, half = row.ours.mean, row.ours.half_width
        low, high = (None, None) if half is None else (mean - half, mean + half)
        seeds = " ".join(f"{seed}:{told(value)}" for seed, value in row.ours.values.items())
        cells += [str(len(row.ours.values)), told(mean), told(low), told(high), seeds, told(row.ours.chance)]
    value, of = row.paper or (None, None)
    return [*cells, told(value), of.told if of else ""]


def differences(points: Sequence[scores.Point]) -> list[tuple[str, str, str, float, float | None, int]]:
    """(line, metric, arm against the first arm, difference, half of its interval, seeds), the same seeds compared."""
    found = []
    for line, metric in dict.fromkeys((p.line, p.metric) for p in points):
        mine = [p for p in points if (p.line, p.metric) == (line, metric)]
        for other in mine[1:]:
            between = scores.difference(mine[0], other)
            if between is not None:
                shared = len(mine[0].values.keys() & other.values.keys())
                found.append((line, metric, f"{other.arm} against {mine[0].arm}", *between, shared))
    return found


def drawn(ablation: grid_lib.Ablation, found: Sequence[Row]) -> list[Row]:
    """The rows whose metrics the figure shows."""
    return [row for row in found if not ablation.drawn or row.metric in ablation.drawn]
