"""What the trainings of a grid cost: read off their configurations before anything runs, and compiled where a slice is named."""

import collections
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Iterator, Sequence

from flan_jax import config, plan
from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import run as run_lib
from flan_jax.ablation import steps as steps_lib
from flan_jax.planning import estimate, runs, slices

logger = logging.getLogger(__name__)

# What a step's cost does not depend on.
_CONTENT = ("MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "RANDOM_SEED", "LEARNING_RATE", "DROPOUT_RATE")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one training.

    Attributes:
      params: of the model.
      updates: still to do.
      tokens: of all batches, padding included.
      flops: of the model, in all.
      shape: what two trainings of one program have in common.
    """

    params: int
    updates: int
    tokens: int
    flops: float
    shape: str


@dataclasses.dataclass(frozen=True)
class Group:
    """Trainings of a phase that cost the same.

    Attributes:
      phase: its name.
      topology: the slice; '' where none is named.
      steps: the trainings.
      cost: of one.
      plan: of its step on the slice, if that was compiled.
      left: how many are not finished.
      seconds: that finished ones took, each; None if none is.
    """

    phase: str
    topology: str
    steps: tuple[steps_lib.Step, ...]
    cost: Cost
    plan: estimate.Plan | None
    left: int
    seconds: float | None

    @property
    def hours(self) -> tuple[float, float] | None:
        """Of one training: a roofline's ends, or what finished ones took; None if neither is known."""
        if self.plan is not None and self.plan.time is not None:
            return self.plan.hours(self.plan.time.fast), self.plan.hours(self.plan.time.slow)
        return None if self.seconds is None else (self.seconds / 3600, self.seconds / 3600)


def of(step: steps_lib.Step) -> Cost:
    """The cost of a training. Opens no data, vocabulary or checkpoint."""
    settings = {name: value for name, value in step.settings.items() if name not in _CONTENT}
    run = _read(step.files, repr(sorted(settings.items())), steps_lib.bindings(settings), _start(step))
    layout = run.partitioner
    shape = (
        run.model.config,
        run.dataset.batch_size,
        sorted(run.lengths.items()),
        layout,
        run.trainer.num_microbatches,
    )
    adapted = type(run.adapter).__name__ if run.adapter else ""
    told = f"{shape} {type(run.model.optimizer_def).__name__} {adapted}"
    return Cost(run.num_params, run.steps, run.steps * run.tokens, run.steps * run.flops, told)


def _start(step: steps_lib.Step) -> str:
    if isinstance(step.start, tuple):
        return f"checkpoint_{step.start[1]}"
    return step.start or ""


@functools.lru_cache(maxsize=256)
def _read(files: tuple[str, ...], key: str, bindings: tuple[str, ...], start: str) -> runs.Run:
    del key
    # Mixtures are checked where steps are made; here any name will do.
    given = ["MODEL_DIR = 'run'", "MIXTURE_OR_TASK_NAME = 'any'", *bindings]
    given += [f"INITIAL_CHECKPOINT_PATH = {start!r}"] if start else []
    with config.isolated():
        return plan.read(config.GinFlags(files, tuple(given), ()))


def groups(sweep: steps_lib.Sweep, root: pathlib.Path, *, compiled: bool = False) -> list[Group]:
    """The trainings of a grid by what they cost, in their order.

    Args:
      sweep: the grid's steps.
      root: the folder of their folders.
      compiled: compile a step of each shape for its slice, which takes minutes each.
    """
    topologies: dict[str, str] = {}
    for cell, keys in sweep.trained.items():
        for key in keys:
            topologies.setdefault(key, sweep.grid.topology_of(cell))
    found: dict[tuple[str, str, Cost], list[steps_lib.Step]] = collections.defaultdict(list)
    for step in sweep.steps.values():
        if step.kind == steps_lib.TRAIN:
            found[step.name, topologies[step.key], of(step)].append(step)
    plans: dict[tuple[str, str], estimate.Plan] = {}
    made = []
    for (phase, topology, cost), steps in found.items():
        made_for = None
        if compiled and topology:
            if (cost.shape, topology) not in plans:
                plans[cost.shape, topology] = _compile(steps[0], topology)
            made_for = dataclasses.replace(plans[cost.shape, topology], steps=cost.updates)
        done = [step for step in steps if run_lib.finished(step, root)]
        took = [seconds for step in done if (seconds := run_lib.seconds(step, root)) is not None]
        each = sum(took) / len(took) if took else None
        made.append(Group(phase, topology, tuple(steps), cost, made_for, len(steps) - len(done), each))
    return made


def _compile(step: steps_lib.Step, topology: str) -> estimate.Plan:
    logger.info("%s: the step of %d parameters on %s", step.label, of(step).params, topology)
    where = slices.open_slice(topology)
    settings = {name: value for name, value in step.settings.items() if name not in _CONTENT}
    run = _read(step.files, repr(sorted(settings.items())), steps_lib.bindings(settings), _start(step))
    return plan.announced(run, run.layout(len(where.devices)), where)


def table(found: Sequence[Group], sweep: steps_lib.Sweep) -> Iterator[tuple[str, ...]]:
    """Rows for people; the head first."""
    yield (
        "phase",
        "runs",
        "to do",
        "parameters",
        "updates",
        "tokens",
        "chips",
        "hours each",
        "hours in all",
        "chip hours",
    )
    for group in found:
        hours = group.hours
        chips = str(group.plan.chips) if group.plan else ""
        fits = "" if group.plan is None or group.plan.memory.fits else " (does not fit)"
        yield (
            f"{group.phase}{', ' + group.topology if group.topology else ''}{fits}",
            str(len(group.steps)),
            str(group.left),
            _short(group.cost.params),
            f"{group.cost.updates:,}",
            _short(group.cost.tokens),
            chips,
            _range(hours, 1),
            _range(hours, len(group.steps)),
            _range(hours, len(group.steps) * group.plan.chips) if group.plan else "",
        )
    asked = [step for step in sweep.steps.values() if step.kind != steps_lib.TRAIN]
    for name in dict.fromkeys(step.name for step in asked):
        yield (f"{name} (evaluation)", str(sum(step.name == name for step in asked)), *[""] * 8)


def _range(hours: tuple[float, float] | None, times: float) -> str:
    if hours is None:
        return ""
    low, high = (f"{one * times:,.3g}" if one * times < 100 else f"{one * times:,.0f}" for one in hours)
    return low if low == high else f"{low} to {high}"


def _short(number: float) -> str:
    """`_short(137_000_000_000) == "137B"`."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def told(grid: grid_lib.Grid) -> str:
    """`2 arms x 3 lines x 5 seeds`."""
    lines = f" x {len(grid.lines)} lines" if len(grid.lines) > 1 else ""
    return f"{len(grid.arms)} arms{lines} x {len(grid.seeds)} seed{'' if len(grid.seeds) == 1 else 's'}"
