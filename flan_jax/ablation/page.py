"""The report of an ablation: what was trained on what, for how long, what came out, and what differs from the paper."""

import base64
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from flan_jax.ablation import cost, published, scores, table
from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import run as run_lib
from flan_jax.ablation import steps as steps_lib
from flan_jax.evaluation import report_page, report_view

_INTERVAL = "95% interval of the mean over seeds by Student's t; none for one seed"


def render(
    ablation: grid_lib.Ablation,
    sweep: steps_lib.Sweep,
    root: pathlib.Path,
    rows: Sequence[table.Row],
    points: Sequence[scores.Point],
    figure: pathlib.Path | None,
) -> str:
    """The page; it needs no network and has no script."""
    series = published.of(ablation.published)
    body = "\n".join(_body(ablation, sweep, root, rows, points, series, figure))
    return report_page.document(ablation.title, body, images=True)


def _body(
    ablation: grid_lib.Ablation,
    sweep: steps_lib.Sweep,
    root: pathlib.Path,
    rows: Sequence[table.Row],
    points: Sequence[scores.Point],
    series: Sequence[published.Series],
    figure: pathlib.Path | None,
) -> Iterator[str]:
    escaped, grid = report_page.escaped, ablation.grid
    yield f"<h1>{escaped(ablation.title)}</h1><main>"
    asked, seen = len(grid.cells()), len({(p.line, p.arm, seed) for p in points for seed in p.values})
    lines = 1 if grid.mean_of_lines else len(grid.lines)
    whole = len(grid.arms) * lines * len(grid.seeds)
    missing = "" if seen == whole else f" {whole - seen} of {whole} are missing."
    yield f"<p>Scale {escaped(ablation.scale)}: {escaped(cost.told(grid))}, {asked} cells.{missing}</p>"
    if figure is not None:
        data = base64.b64encode(figure.read_bytes()).decode()
        about = f"{ablation.title}; the table below holds the same numbers"
        yield f'<img src="data:image/png;base64,{data}" alt="{escaped(about)}">'
    yield '<h2 id="differs">What differs from the paper</h2>' + _sentences(grid.differs)
    yield '<h2 id="about">What was trained on what</h2>' + _sentences(grid.about)
    yield report_page.tabled(_trainings(sweep, root))
    yield report_page.tabled(_evaluations(sweep, root))
    yield '<h2 id="scores">Scores</h2>' + report_page.tabled(_scores(rows))
    between = table.differences(points)
    if between:
        yield '<h2 id="differences">Differences</h2>' + report_page.tabled(_differences(between))
    if series:
        yield '<h2 id="paper">The paper\'s points</h2>' + _sources(series)
    yield "</main>"


def _sentences(sentences: Sequence[str]) -> str:
    if not sentences:
        return "<p>Nothing is noted.</p>"
    return "<ul>" + "".join(f"<li>{report_page.escaped(one)}</li>" for one in sentences) + "</ul>"


def _trainings(sweep: steps_lib.Sweep, root: pathlib.Path) -> report_view.Table:
    labels: dict[str, list[str]] = {}
    for cell, keys in sweep.trained.items():
        for key in keys:
            labels.setdefault(key, []).append(str(cell))
    rows = []
    for key, of in labels.items():
        step, spent = sweep.steps[key], cost.of(sweep.steps[key])
        seconds = run_lib.seconds(step, root)
        minutes = "" if seconds is None else f"{seconds / 60:.1f}"
        shared = of[0] if len(of) == 1 else f"{of[0]} and {len(of) - 1} more"
        numbers = (f"{spent.params:,}", f"{spent.updates:,}", f"{spent.tokens:,}", minutes)
        state = "" if run_lib.finished(step, root) else "not finished"
        rows.append((step.name, step.about, shared, key, state, *numbers))
    head = ("phase", "mixture", "cells", "folder", "", "parameters", "updates", "tokens", "minutes")
    note = (
        "Tokens are those of all batches, padding included. Minutes are wall time, start and compilation included, of the "
        "attempts seen here."
    )
    return report_view.Table("Trainings", head, tuple(rows), words=5, note=note)


def _evaluations(sweep: steps_lib.Sweep, root: pathlib.Path) -> report_view.Table:
    counts = scores.examples(sweep, root)
    abouts: dict[str, list[str]] = {}
    for step in sweep.steps.values():
        if step.kind != steps_lib.TRAIN:
            abouts.setdefault(step.name, []).append(step.about)
    rows = [
        (name, "; ".join(dict.fromkeys(of)), f"{counts[name]:,}" if name in counts else "", str(len(of)))
        for name, of in abouts.items()
    ]
    note = "Questions of one evaluation; where a dataset has several templates, each question is asked with each."
    return report_view.Table(
        "Evaluations", ("evaluation", "asked", "questions", "times"), tuple(rows), words=2, note=note
    )


def _scores(rows: Sequence[table.Row]) -> report_view.Table:
    shown = []
    for row in rows:
        ours = ("", "", "", "")
        if row.ours is not None:
            half = row.ours.half_width
            interval = "" if half is None else f"{row.ours.mean - half:.1f} to {row.ours.mean + half:.1f}"
            chance = report_view.number(row.ours.chance)
            ours = (str(len(row.ours.values)), f"{row.ours.mean:.1f}", interval, chance)
        value, of = row.paper or (None, None)
        shown.append((row.line, row.arm, row.metric, of.told if of else "", *ours, report_view.number(value)))
    head = ("line", "arm", "metric", "of the paper", "seeds", "mean", "95% interval", "chance", "paper")
    return report_view.Table("Scores", head, tuple(shown), words=4, note=f"{_INTERVAL}.")


def _differences(found: Sequence[tuple[str, str, str, float, float | None, int]]) -> report_view.Table:
    rows = []
    for line, metric, arms, mean, half, seeds in found:
        interval = "" if half is None else f"{mean - half:+.1f} to {mean + half:+.1f}"
        rows.append((line, metric, arms, str(seeds), f"{mean:+.1f}", interval))
    note = "Of the same seeds in both arms; an interval that holds 0 does not tell them apart."
    head = ("line", "metric", "arms", "seeds", "difference", "95% interval")
    return report_view.Table("Differences", head, tuple(rows), words=3, note=note)


def _sources(series: Sequence[published.Series]) -> str:
    by_key: Mapping[str, published.Series] = {one.key: one for one in series}
    return _sentences(
        [f"{one.source} (arXiv {one.arxiv}), {one.place}: {one.about}; {one.unit}" for one in by_key.values()]
    )
