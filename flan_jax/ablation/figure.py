"""The figure of an ablation: the paper's points on the left, ours with their intervals on the right.

Two panels, since our arms need not be the paper's. Lines differ in marker and dashes, bars in hatching: it can be read in black
and white.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import published, table

FILES = ("figure.png", "figure.svg")
_MARKERS, _DASHES = "osD^vPX*<>", ("-", "--", "-.", ":")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "---", "ooo", "+++", "|||")
_GREYS = ("0.25", "0.75", "1.0", "0.5", "0.9")
_INK = ("#111111", "#1f4f96", "#b35c00", "#3a7d3a", "#7a3b8f")
_LONGEST = 14  # characters of a line of a label
_SINGLE, _EACH = 5.2, 0.55  # inches of a panel, and of each further arm in it

Series = Mapping[str, tuple[float, float]]  # arm -> value, half of its interval


def draw(ablation: grid_lib.Ablation, rows: Sequence[table.Row], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the figure as PNG and SVG.

    Raises:
      FlanError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise errors.FlanError("a figure needs matplotlib: pip install 'flan_jax[plot]'") from None

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = table.drawn(ablation, rows)
    sides = [(f"paper: {_places(rows)}", _paper(rows)), (f"ours, scale {ablation.scale}", _ours(rows))]
    sides = [(title, series) for title, series in sides if series]
    if not sides:
        return []
    with pyplot.rc_context({"svg.hashsalt": ablation.name, "hatch.linewidth": 0.6, "font.size": 9}):
        widths = [_width(ablation, series) for _, series in sides]
        figure, axes = pyplot.subplots(
            1,
            len(sides),
            figsize=(sum(widths), 4.6),
            sharey=True,
            layout="constrained",
            squeeze=False,
            width_ratios=widths,
        )
        for axis, (title, series) in zip(axes[0], sides, strict=True):
            (_bars if ablation.kind == "bar" else _lines)(axis, series)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel(ablation.x)
            axis.grid(axis="y", alpha=0.35, linewidth=0.6)
            axis.set_axisbelow(True)
            axis.tick_params(labelleft=True)
            if len(series) > 1 or next(iter(series)):
                axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False)
        axes[0][0].set_ylabel(ablation.y)
        _heights(axes[0][0], [series for _, series in sides], ablation.kind)
        figure.suptitle(ablation.title, fontsize=10)
        paths = [folder / name for name in FILES]
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=160, metadata=metadata)
        pyplot.close(figure)
    return paths


def _paper(rows: Sequence[table.Row]) -> dict[str, Series]:
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for row in rows:
        if row.paper is not None:
            value, series = row.paper
            found.setdefault((row.line, row.metric), {})[row.arm] = (value, series.within)
    return _labelled(found)


def _ours(rows: Sequence[table.Row]) -> dict[str, Series]:
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for row in rows:
        if row.ours is not None:
            found.setdefault((row.line, row.metric), {})[row.arm] = (row.ours.mean, row.ours.half_width or 0.0)
    return _labelled(found)


def _labelled(found: Mapping[tuple[str, str], Series]) -> dict[str, Series]:
    """By labels: the line and the metric, which need not be said where all lines have one."""
    one = len({metric for _, metric in found}) == 1
    return {
        line if one and line else ", ".join(filter(None, (line, metric))): of for (line, metric), of in found.items()
    }


def _places(rows: Sequence[table.Row]) -> str:
    """`Figure 6 (printed; read off within 0.4)`."""
    series: list[published.Series] = [row.paper[1] for row in rows if row.paper is not None]
    kinds = dict.fromkeys(one.told.partition(", ")[2] for one in series)
    return f"{', '.join(dict.fromkeys(one.place for one in series))} ({'; '.join(kinds)})"


def _arms(series: Mapping[str, Series]) -> list[str]:
    """All arms of a panel."""
    longest = max(series.values(), key=len)
    return table.in_order([*longest, *(arm for of in series.values() for arm in of)])


def _width(ablation: grid_lib.Ablation, series: Mapping[str, Series]) -> float:
    return _SINGLE + _EACH * max(0, len(_arms(series)) - 5) + (0.12 * len(series) if ablation.kind == "bar" else 0)


def _lines(axis: Any, series: Mapping[str, Series]) -> None:
    arms = _arms(series)
    for number, (label, of) in enumerate(series.items()):
        # Side by side by a little, so that intervals do not lie on each other.
        shift = 0.06 * (number - (len(series) - 1) / 2)
        at = [arms.index(arm) + shift for arm in of]
        values, halves = zip(*of.values(), strict=True)
        axis.errorbar(
            at,
            values,
            yerr=halves if any(halves) else None,
            label=label,
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_DASHES[number % len(_DASHES)],
            color=_INK[number % len(_INK)],
            markersize=5,
            linewidth=1.2,
            capsize=3,
            elinewidth=0.9,
        )
    axis.set_xticks(range(len(arms)), [_wrapped(arm) for arm in arms])


def _bars(axis: Any, series: Mapping[str, Series]) -> None:
    arms, width = _arms(series), 0.8 / len(series)
    for number, (label, of) in enumerate(series.items()):
        at = [arms.index(arm) + (number - (len(series) - 1) / 2) * width for arm in of]
        values, halves = zip(*of.values(), strict=True)
        axis.bar(
            at,
            values,
            width * 0.94,
            yerr=halves if any(halves) else None,
            label=label,
            color=_GREYS[number % len(_GREYS)] if len(series) > 1 else "0.8",
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="black",
            linewidth=0.8,
            capsize=3,
            error_kw={"elinewidth": 0.9},
        )
        for x, value, half in zip(at, values, halves, strict=True):
            if len(series) * len(arms) <= 12:
                up = value >= 0
                offset = (0, 3 if up else -3)
                axis.annotate(
                    f"{value:.1f}", (x, value + half if up else value - half), offset, textcoords="offset points",
                    ha="center", va="bottom" if up else "top", fontsize=7.5,
                )  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(arms)), [_wrapped(arm) for arm in arms])


def _heights(axis: Any, panels: Sequence[Mapping[str, Series]], kind: str) -> None:
    """Both panels from one bottom to one top, in tens; bars from 0."""
    ends = [end for series in panels for of in series.values() for value, half in of.values()
            for end in (value - half, value + half)]  # fmt: skip
    low, high = min(ends), max(ends)
    step = 10 if high - low > 20 else 5
    bottom = math.floor(low / step - 0.1) * step
    top = math.ceil(high / step + (0.25 if kind == "bar" else 0.1)) * step
    axis.set_ylim(min(0, bottom) if kind == "bar" else bottom, top)


def _wrapped(label: str) -> str:
    """Broken at spaces and slashes, so that neighbours do not run into each other."""
    lines = [""]
    for word in label.replace(" / ", " /\n").replace("\n", " \n ").split(" "):
        if word == "\n":
            lines.append("")
        elif len(lines[-1]) + len(word) > _LONGEST and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(line for line in lines if line)
