"""Mixtures: which tasks, at which rates, and what is held out.

A mixture is examples-proportional with a limit: task n is drawn with probability min(e_n, 3000) / sum_m min(e_m, 3000),
e_n being its training rows after the cap of 30,000 (FLAN 2021 section 2.1). Row counts come from the metadata of the
prepared datasets, never from a cache.
"""

import dataclasses
import importlib
import logging
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import (
    blends,
    holdout,
    quiet,
    selections,
    seqio_tasks,
    sources,
    spec,
    stores,
    streams,
    task_table,
    text_tasks,
)

logger = logging.getLogger(__name__)

_LISTED = 80  # reasons why data is missing: of all of FLAN 2021, not of all of Flan 2022

MixtureSpec = holdout.MixtureSpec


class Catalogue:
    """All tasks and mixtures that a run can name: those of the given modules, and whatever seqio's registries hold."""

    def __init__(
        self,
        specs: Iterable[spec.DatasetSpec],
        mixtures: Iterable[MixtureSpec] = (),
        collections: Iterable[spec.Collection] = (),
        blended: Iterable[spec.Blend] = (),
    ) -> None:
        self.specs = spec.SpecRegistry()
        self.specs.add(list(specs))
        self._derived = holdout.table(self.specs)
        self.blends = blends.Blends(collections, blended, self.specs, self._derived)
        self.tasks = task_table.TaskTable(self.specs, lambda: self.blends.own)
        self._given = {m.name: m for m in mixtures}
        self._selected: dict[str, MixtureSpec | None] = {}

    @classmethod
    def from_modules(cls, modules: str | Sequence[str] | None) -> "Catalogue":
        """Imports the modules of `MIXTURE_OR_TASK_MODULE`; collects `SPECS`, `MIXTURES`, `COLLECTIONS` and `BLENDS`.

        A module may instead (or also) add tasks to seqio's registries when it is imported.

        Raises:
          FlanError: a module cannot be imported.
        """
        specs: list[spec.DatasetSpec] = []
        mixtures: list[MixtureSpec] = []
        collections: list[spec.Collection] = []
        blended: list[spec.Blend] = []
        for name in [modules] if isinstance(modules, str) else modules or []:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                hint = _nearest_module(error.name or "") if error.name in (name, name.rpartition(".")[0]) else ""
                raise errors.FlanError(f"MIXTURE_OR_TASK_MODULE {name!r} cannot be imported: {error}{hint}") from None
            specs.extend(getattr(module, "SPECS", ()))
            mixtures.extend(getattr(module, "MIXTURES", ()))
            collections.extend(getattr(module, "COLLECTIONS", ()))
            blended.extend(getattr(module, "BLENDS", ()))
        return cls(specs, mixtures, collections, blended)

    def mixture(self, name: str, data_dir: str | None = None) -> MixtureSpec:
        """Returns a mixture, or a task as a mixture of one.

        Args:
          name: of the mixture or task.
          data_dir: where a checkout of Natural Instructions may lie, whose files say in full what a held-out cluster
            forbids; without one, names alone are asked.

        Raises:
          FlanError: no task or mixture has that name; it says which come near.
        """
        found = self.find(name)
        if found is None:
            raise self._unknown("task or mixture", name)
        return found if data_dir is None else self.blends.as_files_say(found, data_dir)

    def find(self, name: str) -> MixtureSpec | None:
        """The same; None where no task or mixture has that name."""
        if name in self._given:
            return self._given[name]
        if name in self._derived:
            return self._derived[name].mixture(name)
        if (found := self.blends.find(name)) is not None:
            return found
        if self.tasks.find(name) is not None:
            return MixtureSpec(name, (name,))
        if name not in self._selected:
            self._selected[name] = selections.find(self, name)
        if (found := self._selected[name]) is not None:
            return found
        return MixtureSpec(name, (name,)) if _seqio_object(name) is not None else None

    def directory(self, name: str, data_dir: str | None) -> str | None:
        """Returns the directory of prepared datasets that a mixture or task needs; None where all of it is seqio's own.

        Raises:
          FlanError: there is none (`sources.resolve_data_dir`), or no task or mixture has that name.
        """
        own = any(self.tasks.find(task) is not None for task in self.mixture(name).tasks)
        return sources.resolve_data_dir(data_dir) if own else None

    def eval_tasks(self, name: str) -> list[seqio_tasks.FlanTask]:
        """Returns the tasks that evaluate a task or mixture: each of its datasets with each of its templates in turn.

        A dataset whose templates show options is scored by rank classification, any other by generation; reversed
        templates ask for something that no metric scores and are left out (FLAN 2021 section 3, "averaged over
        templates").

        Raises:
          FlanError: no task or mixture has that name, or a part of it is not one of flan_jax's tasks.
        """
        found: dict[str, seqio_tasks.FlanTask] = {}
        members = self.mixture(name).tasks
        for member in members:
            if self.tasks.find(member) is None and _seqio_object(member) is not None:
                raise errors.FlanError(
                    f"{member!r} is seqio's own task; evaluation asks flan_jax's tasks, whose options, templates and accepted "
                    "answers it knows: expected one of `SPECS` (docs/ADD_A_TASK.md)"
                )
        for task in (self.tasks[member] for member in members):
            for single in task.evaluations():
                found[single.name] = single
        if not found:
            raise errors.FlanError(f"{name!r} has only reversed templates, which no metric scores")
        return list(found.values())

    def names(self) -> list[str]:
        """Every name that can be asked for: mixtures first, then tasks."""
        return list(
            dict.fromkeys([*self.mixture_names(), *self.tasks.names(), *self.tasks.text_names(), *_seqio_names()])
        )

    def _unknown(self, kind: str, name: str) -> errors.FlanError:
        names = self.names()
        return task_table.unknown(
            kind, name, names, [known for known in names if known.endswith("_10templates")] or names
        )

    def mixture_names(self) -> list[str]:
        return list(dict.fromkeys([*self._given, *self._derived, *self.blends.names()]))

    def seqio_tasks(self, name: str) -> list[Any]:
        """The tasks behind a name of seqio's registries."""
        return _seqio_tasks(_seqio_object(name))

    def open(
        self,
        name: str,
        *,
        data_dir: str | None,
        split: str,
        tokenizer: Any,
        lengths: dict[str, int],
        seed: int,
        missing: str = "error",
        shuffle: bool = True,
        row: int | None = None,
    ) -> "OpenMixture":
        """Opens every task of a mixture.

        Args:
          name: a mixture or task.
          data_dir: of prepared TFDS datasets, as `sources.resolve_data_dir` takes it; seqio's own tasks alone need none.
          split: `train`, `validation` or `test`.
          tokenizer: of the model's vocabulary.
          lengths: `inputs` and `targets`, in tokens.
          seed: of every choice.
          missing: what to do about tasks whose data is not there: `error` names them all; `skip` leaves them out, says
            which, and the others' rates grow.
          shuffle: whether every epoch of a task has a new order; if not, each goes through its rows in the file's
            order.
          row: tokens of the row that targets stand in, the last of the converter's `capacity`: text that is all target
            fills it. `targets` where None.

        Raises:
          FlanError: a task is unknown, not prepared, empty, or its row count cannot be known.
        """
        directory = self.directory(name, data_dir)
        mixture = self.mixture(name, directory)
        for line in mixture.left_out:
            logger.warning("left out: %s", line)
        if not mixture.tasks:
            raise errors.FlanError(f"mixture {name!r} names no task")
        tasks = [self.tasks.find(task) or task for task in mixture.tasks]
        for task in tasks:
            if isinstance(task, str) and _seqio_object(task) is None:
                raise errors.FlanError(f"mixture {name!r}: {self._unknown('task', task)}")
        # A cluster that is evaluated may hold a dataset without a train split (WSC273): no part of training on it.
        if split == "train" and mixture.evaluates:
            tasks = [t for t in tasks if isinstance(t, str) or "train" in t.dataset.splits] or tasks
        groups: dict[str, list[Member]] = {}  # of one member, or of a seqio mixture's; rates are shares of the group
        counts: dict[str, list[int]] = {}
        opened = open_tasks(tasks, directory or "", split, missing, caps(mixture))
        pools = [rows.pool[0] for _, rows in opened if isinstance(rows, seqio_tasks.TaskRows) and rows.pool]
        for pool in pools:
            pool.bound(len(pools))
        for task_name, rows in opened:
            if rows is not None:
                if isinstance(rows, text_tasks.TextRows):
                    stream = text_tasks.TextStream(rows, tokenizer, lengths, seed, shuffle, row)
                else:
                    stream = streams.FlanStream(rows, tokenizer, lengths, seed, shuffle)
                groups[task_name] = [Member(task_name, rows.num_examples, 1.0, stream, rows.task.dataset.cluster)]
                counts[task_name] = [rows.task.dataset.weight or rows.counted]
            else:
                groups[task_name] = _seqio_members(task_name, split, tokenizer, lengths, seed, shuffle)
                counts[task_name] = [member.rows for member in groups[task_name]]

        def weigh(task: str, maximum: int | None) -> float:
            return float(sum(min(count, maximum or count) for count in counts.get(task, ())))

        rates = mixture.rates(weigh)
        members = [
            dataclasses.replace(member, rate=rates[task] * member.rate)
            for task, group in groups.items()
            for member in group
        ]
        return OpenMixture(name, members, shuffle)


@dataclasses.dataclass(frozen=True)
class Member:
    """A task inside an open mixture: its rows, its unnormalised rate, its examples by position, and its cluster if it has one."""

    name: str
    rows: int
    rate: float
    stream: streams.Stream
    cluster: str | None = None


@dataclasses.dataclass(frozen=True)
class OpenMixture:
    """A mixture whose tasks are all there.

    `shuffle` is whether its streams have a new order every epoch.
    """

    name: str
    members: list[Member]
    shuffle: bool = True

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [tasks]: how often each task is drawn; sums to 1."""
        rates = np.asarray([member.rate for member in self.members])
        return rates / rates.sum()


def caps(mixture: MixtureSpec) -> dict[str, int]:
    """How many rows of a task's dataset are used, at most, where that is not what its collection uses."""
    found: dict[str, int] = {}
    for part, _ in mixture.parts:
        for task, cap in caps(part).items():
            found[task] = min(cap, found.get(task, cap))
    whole = mixture.cap
    return found if whole is None else {task: min(whole, found.get(task, whole)) for task in mixture.tasks}


def open_tasks(
    tasks: Sequence[seqio_tasks.FlanTask | str],
    data_dir: str,
    split: str,
    missing: str,
    limits: Mapping[str, int] | None = None,
) -> list[tuple[str, seqio_tasks.TaskRows | None]]:
    """Opens a split of several tasks; a task given by its name alone is seqio's and is passed on.

    Args:
      tasks: what to open.
      data_dir: of prepared TFDS datasets.
      split: `train`, `validation` or `test`.
      missing: as in `Catalogue.open`.
      limits: by task, training rows that are used of its dataset, at most, instead of what its collection uses.

    Raises:
      FlanError: data is missing: of all tasks with `missing` = `error`, of every single one with `skip`.
    """
    if missing not in ("error", "skip"):
        raise errors.unknown("value of missing", missing, ("error", "skip"))
    found: list[tuple[str, seqio_tasks.TaskRows | None]] = []
    absent: dict[str, str] = {}
    gone: dict[str, str] = {}  # datasets: each has many styles
    stores.prepare((task.dataset for task in tasks if not isinstance(task, str)), data_dir)
    for task in tasks:
        if isinstance(task, str):
            found.append((task, None))
            continue
        if task.dataset.name in gone:
            absent[task.name] = gone[task.dataset.name]
            continue
        try:
            found.append((task.name, task.open(data_dir, split, (limits or {}).get(task.name))))
        except sources.NotPrepared as error:
            absent[task.name] = gone[task.dataset.name] = str(error)
    if absent and (missing == "error" or not found):
        # A dataset's templates share its data, so each reason is given once.
        reasons = list(dict.fromkeys(absent.values()))
        listed = "\n".join(f"  {reason}" for reason in reasons[:_LISTED])
        if len(reasons) > _LISTED:
            listed += f"\n  and {len(reasons) - _LISTED} more; `flan data doctor MIXTURE` names them all"
        raise errors.FlanError(
            f"{len(absent)} of {len(tasks)} tasks have no data:\n{listed}\n"
            "`flan data import` prepares JSON lines, tfds.load(NAME, download=True) the original; "
            "missing = 'skip' (--missing skip) leaves them out"
        )
    reasons = list(dict.fromkeys(absent.values()))
    for reason in reasons[:_LISTED]:
        logger.warning("left out: %s", reason)
    if len(reasons) > _LISTED:
        logger.warning("left out: %d more; `flan data doctor MIXTURE` names them all", len(reasons) - _LISTED)
    return found


def _nearest_module(absent: str) -> str:
    """The hint for a module that does not exist: what is named nearly so in its package."""
    parent = absent.rpartition(".")[0]
    found = pkgutil.iter_modules(getattr(sys.modules.get(parent), "__path__", None) if parent else [])
    close = errors.close_to(absent, [f"{parent}.{module.name}" for module in found])
    return errors.did_you_mean(close) if close else ""


def _seqio_object(name: str) -> Any:
    seqio = quiet.seqio()

    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    return seqio.MixtureRegistry.get(name) if name in seqio.MixtureRegistry.names() else None


def _seqio_tasks(found: Any) -> list[Any]:
    seqio = quiet.seqio()

    return list(found.tasks) if isinstance(found, seqio.Mixture) else [found]


def _seqio_names() -> list[str]:
    seqio = quiet.seqio()

    return [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]


def _seqio_members(
    name: str, split: str, tokenizer: Any, lengths: dict[str, int], seed: int, shuffle: bool
) -> list[Member]:
    """Opens a task or mixture of the user's own out of seqio's registries; the members' rates sum to 1.

    A seqio mixture as a whole weighs what its tasks would weigh here; within it, its own rates hold.
    """
    seqio = quiet.seqio()

    found = _seqio_object(name)
    tasks = _seqio_tasks(found)
    rows = [_seqio_rows(task, split, tokenizer) for task in tasks]
    rates = [float(found.get_rate(task)) for task in tasks] if isinstance(found, seqio.Mixture) else [1.0]
    return [
        Member(task.name, count, rate / sum(rates), streams.SeqioStream(task, split, lengths, seed, shuffle))
        for task, count, rate in zip(tasks, rows, rates, strict=True)
    ]


def _seqio_rows(task: Any, split: str, tokenizer: Any) -> int:
    """Returns how many rows a seqio task has, after checking that it can be read and is tokenised for this model."""
    if "targets" not in task.output_features:
        raise errors.FlanError(
            f"seqio task {task.name!r} has no feature 'targets'; it has {sorted(task.output_features)}"
        )
    for feature in ("inputs", "targets"):
        if feature in task.output_features and tokenizer.vocabulary != task.output_features[feature].vocabulary:
            raise errors.FlanError(
                f"{feature} of seqio task {task.name!r} are tokenised with {task.output_features[feature].vocabulary}, "
                f"the model with {tokenizer.vocabulary}; they must be equal"
            )
    rows = task.num_input_examples(split) if split in task.splits else 0
    if rows == 0:
        raise errors.FlanError(
            f"seqio task {task.name!r} is empty: no rows in split {split!r}; it has {sorted(task.splits)}"
        )
    if rows is None:
        raise errors.FlanError(
            f"seqio task {task.name!r} does not know its row count: "
            f"give its source num_input_examples={{{split!r}: ...}}"
        )
    return rows
