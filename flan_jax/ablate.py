"""`flan ablate`: a grid of gin bindings becomes runs, a table, a figure and a report.

OUT/runs/<hash>/           what each training and evaluation writes, shared by all ablations in OUT
OUT/<name>-<scale>/        table.csv, table.md, figure.png, figure.svg, report.html
"""

import argparse
import dataclasses
import logging
import os
import pathlib
import signal
from collections.abc import Sequence

from flan_jax import config, config_check, errors, launch, log
from flan_jax.ablation import commands, figure, page, published, scores, table
from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import run as run_lib
from flan_jax.ablation import steps as steps_lib
from flan_jax.data import sources
from flan_jax.evaluation import report_markdown, report_view

logger = logging.getLogger(__name__)

ROOT = "ablation.Ablation"
DEFAULT_OUT = "runs/ablations"
_KNOWN_MACROS = ("SCALE",)


def main(argv: Sequence[str]) -> int:
    """Entry point of `flan ablate`; 0 where every run is finished, 1 where one is not."""
    log.set_up()
    flags, rest = config.split_argv(argv)
    parser = argparse.ArgumentParser(
        prog="flan ablate",
        description="Runs an ablation of gin/ablations: trainings and evaluations, a table, a figure and a report. What is "
        "finished is not run again, and what was cut off is continued.",
        epilog=launch.GIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", help="full, host or tiny; the file's if not given")
    parser.add_argument("--out", default=DEFAULT_OUT, metavar="DIR", help="default %(default)s")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes at a time, which share the processors"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, two arms, fewer steps")
    parser.add_argument(
        "--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'; the scale's if not given"
    )
    parser.add_argument(
        "--print",
        dest="form",
        nargs="?",
        const=commands.FORMS[0],
        choices=commands.FORMS,
        help="print the commands for other machines (pod: through scripts/tpu_vm.py; slurm: job arrays), and stop",
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what it would cost, compile for a slice where one is named, and stop"
    )
    parser.add_argument("--dry_run", action="store_true", help="check every configuration, list the runs, and stop")
    given = parser.parse_args(rest)
    if not flags.files:
        parser.error("no ablation: expected --gin_file=PATH, e.g. --gin_file=gin/ablations/clusters.gin")
    if given.plan:
        os.environ["JAX_PLATFORMS"] = "cpu"  # with libtpu installed JAX would look for a TPU
    ablation = read(flags, given.scale)
    if given.quick:
        quick = {**ablation.scales, ablation.scale: ablation.grid.quickly()}
        ablation = dataclasses.replace(ablation, scales=quick)
    only_told = bool(given.plan or given.form or given.dry_run)
    sweep = steps_lib.build(ablation.grid, given.tfds_data_dir, placeholders=only_told)
    out = pathlib.Path(given.out).expanduser().absolute()
    root = out / "runs"
    if given.form:
        print("\n".join(commands.lines(ablation, sweep, root, given.form)))
        return 0
    if only_told:
        return _tell(ablation, sweep, root, compiled=given.plan)
    sources.resolve_data_dir(
        given.tfds_data_dir or ablation.grid.data_dir
    )  # what is missing shows before anything runs
    return _run(ablation, sweep, out, given.jobs, quick=given.quick)


def read(flags: config.GinFlags, scale: str | None = None) -> grid_lib.Ablation:
    """The ablation that gin files and flags describe.

    Raises:
      FlanError: every mistake in the files, in one message.
    """
    config.register()
    bindings = [*flags.bindings, *([f"SCALE = {scale!r}"] if scale else [])]
    parsed = config.parse(flags.files, bindings, flags.search_paths)
    problems = config_check.check(parsed, ROOT, known_macros=_KNOWN_MACROS)
    config_check.raise_errors(problems)
    with config.isolated():
        config.bind(parsed)
        return launch.call(ROOT)


def _run(ablation: grid_lib.Ablation, sweep: steps_lib.Sweep, out: pathlib.Path, jobs: int, *, quick: bool) -> int:
    try:
        failures = run_lib.sweep(sweep.steps, out / "runs", jobs=jobs)
    except run_lib.Stopped as stopped:
        if stopped.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        logger.warning("stopped; the same command goes on")
        return 128 + stopped.number
    folder = out / f"{ablation.name}-{ablation.scale}{'-quick' if quick else ''}"
    for path in write(ablation, sweep, out / "runs", folder):
        print(path)
    if failures:
        listed = "\n".join(f"  {one}" for one in failures)
        raise errors.FlanError(f"{len(failures)} of {len(sweep.steps)} runs are not finished:\n{listed}")
    return 0


def write(
    ablation: grid_lib.Ablation, sweep: steps_lib.Sweep, root: pathlib.Path, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Writes table, figure and report of what is finished."""
    points = scores.points(sweep, root)
    rows = table.rows(points, published.of(ablation.published))
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / "table.csv", folder / "table.md"]
    made[0].write_text(table.to_csv(rows), encoding="utf-8")
    made[1].write_text(f"# {ablation.title}\n\n{table.to_markdown(rows)}", encoding="utf-8")
    drawn: list[pathlib.Path] = []
    try:
        drawn = figure.draw(ablation, rows, folder)
    except errors.FlanError as error:
        logger.warning("no figure: %s", error)
    report = folder / "report.html"
    text = page.render(ablation, sweep, root, rows, points, drawn[0] if drawn else None)
    report.write_text(text, encoding="utf-8")
    return [*made, *drawn, report]


def _tell(ablation: grid_lib.Ablation, sweep: steps_lib.Sweep, root: pathlib.Path, *, compiled: bool) -> int:
    """Prints what there is to do; returns 1 where a step does not fit its slice."""
    from flan_jax.ablation import cost

    grid = ablation.grid
    print(f"{ablation.title}\nscale {ablation.scale}: {cost.told(grid)}, {len(sweep.steps)} steps")
    if not compiled:
        for step in sweep.steps.values():
            state = "finished" if run_lib.finished(step, root) else "to do"
            print(f"{step.key}  {state:9} {step.kind:13} {step.about:50.50} {step.label}")
        return 0
    found = cost.groups(sweep, root, compiled=True)
    head, *rows = cost.table(found, sweep)
    shown = report_view.Table("plan", head, tuple(rows))
    print("\n".join(report_markdown.table(shown)))
    return 0 if all(group.plan is None or group.plan.memory.fits for group in found) else 1
