"""`flan plan`: what a run would need of a TPU slice, asked of the real TPU compiler on this CPU.

read     the gin files, as `flan train` reads them; no data, no vocabulary and no checkpoint is opened
lower    the step that `flan train` would jit: shardings, donation and all
compile  for the slice, with libtpu
report   memory, FLOPs, collectives, time; what to change where it does not fit
"""

import argparse
import dataclasses
import logging
import time
from collections.abc import Sequence

from flan_jax import config, config_check, launch, log, observing, run_check, train
from flan_jax.planning import estimate, report, runs, search, slices

logger = logging.getLogger(__name__)

ROOT = "train_script.train"
# What a run needs and a plan does not: where to write, where to start from, whose pieces.
_PLACEHOLDERS = {"MODEL_DIR": "plan", "INITIAL_CHECKPOINT_PATH": "checkpoint_0", "VOCABULARY_FILE": None}
_DEFAULT_SEARCH = 6


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code: 0 where the step fits, 1 where it does not."""
    log.set_up()
    flags, rest = config.split_argv(argv)
    parser = argparse.ArgumentParser(
        prog="flan plan",
        description="Compiles a run's training step for a TPU slice that need not be there: memory, collectives, time.",
        epilog=launch.GIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="v3:8x8, v4:4x4x4, v5e:16x16, v5p:4x4x8, v6e:16x16; 2*v4:4x4x4 for two",
    )
    parser.add_argument("--cores", action="store_true", help="v4: two devices a chip, as without megacore")
    parser.add_argument("--steps", type=int, help="updates to count hours for; the recipe's if not given")
    parser.add_argument(
        "--search",
        type=int,
        nargs="?",
        const=_DEFAULT_SEARCH,
        metavar="N",
        help=f"try meshes, tables of axes, microbatches and remat policies; compile the {_DEFAULT_SEARCH} most promising, or N",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(rest)
    if not flags.files and not flags.bindings:
        parser.error("no configuration: expected --gin_file=PATH, e.g. --gin_file=recipes/flan_t5_xxl.gin")
    where = slices.open_slice(given.topology, cores=given.cores)
    run = read(flags, steps=given.steps)
    heading = ", ".join(flags.files) or "flags"
    if given.search:
        return _search(run, where, given.search, heading, given.json)
    plan = announced(run, run.layout(len(where.devices)), where)
    advice = None if plan.memory.fits else search.advice(run, plan, where)
    if given.json:
        print(report.to_json([plan], configuration=heading, advice=advice))
    else:
        report.show(plan, heading, advice)
    return 0 if plan.memory.fits else 1


def read(flags: config.GinFlags, steps: int | None = None) -> runs.Run:
    """The run that gin files and flags describe.

    Raises:
      FlanError: every mistake in the configuration, in one message.
    """
    config.register()
    parsed = config.parse(flags.files, flags.bindings, flags.search_paths)
    given = {setting.param: setting.value for setting in parsed.settings if not setting.selector}
    required = config.Macro("gin.REQUIRED")
    missing = [f"{name} = {value!r}" for name, value in _PLACEHOLDERS.items() if given.get(name) == required]
    parsed = config.parse(flags.files, [*flags.bindings, *missing], flags.search_paths)
    problems = config_check.check(parsed, ROOT, known_macros=run_check.SHARED_MACROS)
    config_check.raise_errors(problems)
    # Nothing is read, so the model that is made has no vocabulary; one on gs:// would have to be fetched.
    nothing = ["VOCABULARY = None"] if "VOCABULARY" in given else []
    config.bind(config.parse(flags.files, [*flags.bindings, *missing, *nothing], flags.search_paths))
    run = bound_run()
    return run if steps is None else dataclasses.replace(run, steps=steps)


def bound_run() -> runs.Run:
    """The run of what gin has bound."""
    import gin

    return runs.Run.from_bindings(gin.get_bindings(ROOT))


def announced(run: runs.Run, layout: runs.Layout, where: slices.Slice) -> estimate.Plan:
    """`estimate.make`, with a line before and after: it takes minutes."""
    run.check(layout, len(where.devices))
    logger.info("compiling for %s (%d devices): %s", where.name, len(where.devices), layout)
    began = time.monotonic()
    plan = estimate.make(run, layout, where)
    logger.info("compiled in %.0f s", time.monotonic() - began)
    return plan


def precompile() -> int:
    """`flan train --precompile`: compiles the step that gin has bound for this process's own devices, reports, and stops.

    The data is opened, as the run will: how many tasks it has is part of the program.
    """
    import gin

    where, bound = slices.own_devices(), gin.get_bindings(ROOT)
    run = runs.Run.from_bindings(bound)
    read_from = train.open_loader(run.dataset, run.model, bound.get("random_seed") or 0)
    run = dataclasses.replace(run, tasks=observing.Observer(read_from, bound.get("loss_by_task", True)).tasks)
    plan = announced(run, run.layout(len(where.devices)), where)
    report.show(plan, "precompiled", None if plan.memory.fits else search.advice(run, plan, where))
    return 0 if plan.memory.fits else 1


def _search(run: runs.Run, where: slices.Slice, count: int, heading: str, as_json: bool) -> int:
    plans = search.search(run, where, count)
    best = plans[0]
    if as_json:
        print(report.to_json(plans, configuration=heading, settings=run.settings(best.layout)))
        return 0 if best.memory.fits else 1
    report.show_all(plans, f"{heading} on {where.name}")
    if best.memory.fits:
        print("The first, in gin:\n" + "\n".join(f"  {setting}" for setting in run.settings(best.layout)))
        return 0
    print(f"None of those compiled fits; try --search {2 * count}, or a larger slice.")
    return 1
