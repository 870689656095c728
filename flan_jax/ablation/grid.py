"""A grid of runs as data, the way gin/ablations/*.gin binds it. Nothing here runs anything or knows a paper.

A cell is (line, arm, seed). What it does is the merge of four mappings from names of parts to settings: what the phase or
evaluation says itself, `settings`, the line's and the arm's, later ones winning. Names of parts:

    all         every phase, and every evaluation that is a gin configuration: the model's size
    PHASE       one phase of training
    evaluate    every evaluation
    EVALUATION  one of them
    skip        not settings: names of phases that are left out
    topology    not settings: the slice that these cells are meant for
    initial     not settings: the checkpoint that their first phase starts from
    fill        not settings: name -> text that stands for `{name}` in the texts of all settings of a cell; `{arm}` and `{line}` are
                their labels

Settings are gin's names with their values (`{'MIXTURE_OR_TASK_NAME': 'rte_10templates'}`), `gin_file` one or several files that are
read before them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax import errors

Settings = Mapping[str, Any]
Parts = Mapping[str, Any]
ALL, EVALUATE, SKIP, TOPOLOGY, INITIAL, FILL, FILES = (
    *("all", "evaluate", "skip", "topology", "initial", "fill", "gin_file"),
)
# An evaluation has one of these, or else gin files.
SUITE, CONTAMINATION = "suite", "contamination"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The runs of an ablation at one scale.

    Attributes:
      phases: trainings, in order: each starts from the checkpoint of the one before. Cells that agree in a phase and all before
        it share it.
      evaluations: what is asked of the last checkpoint: a gin configuration of `flan eval`; `{'suite': 'bbh', FLAG: value}`, a
        benchmark; or `{'contamination': EVALUATION, FLAG: value}`, `flan contamination` with what that evaluation predicted.
      metrics: label -> the scores or averages whose mean it is, each `EVALUATION/NAME`; `EVALUATION` is the mean of all its
        scores. The first is the one that is asked for.
      arms: label -> parts.
      lines: label -> parts; every arm is there in every line.
      settings: parts of all cells.
      seeds: `RANDOM_SEED` of every phase.
      initial: the checkpoint that the first phase starts from; '' for random parameters, or where the phase says.
      data_dir: prepared datasets, where `--tfds_data_dir` is not given.
      mean_of_lines: lines are averaged: a cluster held out each.
      topology: the slice that it is meant for, as `flan plan` names it.
      quick: parts of all cells with `--quick`.
      quick_arms: the arms that `--quick` runs; the first and the last if not given.
      about: sentences on what is trained on what.
      differs: sentences on what differs from the paper's set-up.
    """

    phases: Mapping[str, Settings]
    evaluations: Mapping[str, Settings]
    metrics: Mapping[str, Sequence[str]]
    arms: Mapping[str, Parts]
    lines: Mapping[str, Parts] = dataclasses.field(default_factory=lambda: {"": {}})
    settings: Parts = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    initial: str = ""
    data_dir: str | None = None
    mean_of_lines: bool = False
    topology: str = ""
    quick: Parts = dataclasses.field(default_factory=dict)
    quick_arms: Sequence[str] = ()
    about: Sequence[str] = ()
    differs: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("evaluations", "metrics", "arms", "lines", "seeds"):
            if not getattr(self, name):
                raise errors.FlanError(f"an ablation's {name} are empty; expected at least one")
        parts = (ALL, EVALUATE, SKIP, TOPOLOGY, INITIAL, FILL, *self.phases, *self.evaluations)
        labelled = {"settings": self.settings, "quick": self.quick, **self.lines, **self.arms}
        for label, given in labelled.items():
            for part in given:
                if part not in parts:
                    raise errors.FlanError(f"{label!r} of an ablation: {errors.unknown('part', part, parts)}")
            for phase in given.get(SKIP, ()):
                if phase not in self.phases:
                    raise errors.FlanError(f"{label!r} of an ablation: {errors.unknown('phase', phase, self.phases)}")
        for label, names in self.metrics.items():
            for name in names:
                if name.partition("/")[0] not in self.evaluations:
                    unknown = errors.unknown("evaluation", name.partition("/")[0], self.evaluations)
                    raise errors.FlanError(f"metric {label!r}: {unknown}")
        for arm in self.quick_arms:
            if arm not in self.arms:
                raise errors.FlanError(f"quick_arms: {errors.unknown('arm', arm, self.arms)}")

    def cells(self) -> "list[Cell]":
        """Every run of the grid: seeds outermost, so that each arm has one before any has two."""
        return [Cell(line, arm, seed) for seed in self.seeds for line in self.lines for arm in self.arms]

    def merged(self, cell: "Cell", *parts: str) -> dict[str, Any]:
        """The settings of these parts in a cell; `gin_file` is a tuple of all files, in order."""
        found: dict[str, Any] = {}
        files: list[str] = []
        own = {**self.phases, **self.evaluations}
        for given in (
            {p: own[p] for p in parts if p in own},
            self.settings,
            self.lines[cell.line],
            self.arms[cell.arm],
        ):
            for part in parts:
                settings = dict(given.get(part, {}))
                files += _listed(settings.pop(FILES, ()))
                found.update(settings)
        words = self._words(cell)
        return {name: _filled(value, words) for name, value in found.items()} | {FILES: _filled(tuple(files), words)}

    def _words(self, cell: "Cell") -> dict[str, str]:
        """What stands for names in braces; labels last, since the others may name them."""
        words: dict[str, str] = {}
        for given in (self.settings, self.lines[cell.line], self.arms[cell.arm]):
            words |= given.get(FILL, {})
        return words | {name: label for name, label in (("line", cell.line), ("arm", cell.arm)) if name not in words}

    def phases_of(self, cell: "Cell") -> list[str]:
        """The phases that a cell has."""
        left_out = {phase for given in (self.lines[cell.line], self.arms[cell.arm]) for phase in given.get(SKIP, ())}
        return [phase for phase in self.phases if phase not in left_out]

    def topology_of(self, cell: "Cell") -> str:
        """The slice that a cell is meant for; '' where none is named."""
        return self._own(cell, TOPOLOGY, self.topology)

    def initial_of(self, cell: "Cell") -> str:
        """The checkpoint that a cell's first phase starts from; '' where none is named."""
        return self._own(cell, INITIAL, self.initial)

    def _own(self, cell: "Cell", part: str, default: str) -> str:
        found = (given.get(part) for given in (self.arms[cell.arm], self.lines[cell.line], self.settings))
        text = next((str(name) for name in found if name), default)
        return str(_filled(text, self._words(cell)))

    def quickly(self) -> "Grid":
        """The smallest grid that still compares: one seed, two arms, and what `quick` sets."""
        names = list(self.quick_arms) or list(dict.fromkeys((next(iter(self.arms)), list(self.arms)[-1])))
        arms = {name: self.arms[name] for name in names}
        settings = {part: {**self.settings.get(part, {}), **self.quick.get(part, {})} for part in
                    dict.fromkeys((*self.settings, *self.quick))}  # fmt: skip
        differs = (
            *self.differs,
            "A quick run: one seed, two arms, few steps and questions. It shows that all of it runs.",
        )
        return dataclasses.replace(
            self, arms=arms, settings=settings, seeds=tuple(self.seeds)[:1], quick_arms=(), differs=differs
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a grid."""

    line: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return ", ".join(part for part in (self.line, self.arm, f"seed {self.seed}") if part)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """An ablation at each scale; what `flan ablate` has gin make.

    Attributes:
      name: of its files.
      title: a line.
      scale: which of `scales` is run.
      scales: name -> grid.
      x: what the arms are, with its unit.
      y: what the metrics are, with their unit.
      published: keys of `published.yaml`: what papers say.
      kind: `line`, where arms are an order, or `bar`.
      drawn: metrics that the figure shows; all of them if not given.
    """

    name: str
    title: str
    scale: str
    scales: Mapping[str, Grid]
    x: str
    y: str
    published: Sequence[str] = ()
    kind: str = "line"
    drawn: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.scale not in self.scales:
            raise errors.unknown("scale", self.scale, self.scales)
        if self.kind not in ("line", "bar"):
            raise errors.unknown("kind of figure", self.kind, ("line", "bar"))

    @property
    def grid(self) -> Grid:
        return self.scales[self.scale]


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """A setting with `{name}` replaced in its texts."""
    if isinstance(value, str):
        for _ in words:  # a word may name others
            for name, word in words.items():
                value = value.replace(f"{{{name}}}", word)
        return value
    if isinstance(value, Mapping):
        return {name: _filled(item, words) for name, item in value.items()}
    return type(value)(_filled(item, words) for item in value) if isinstance(value, list | tuple) else value


def _listed(files: str | Sequence[str]) -> Sequence[str]:
    return (files,) if isinstance(files, str) else files
