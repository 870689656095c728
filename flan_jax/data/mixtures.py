"""Mixtures: which tasks, at which rates, and what is held out.

A mixture is examples-proportional with a limit: task n is drawn with probability min(e_n, 3000) / sum_m min(e_m, 3000),
e_n being its training rows after the cap of 30,000 (FLAN 2021 section 2.1). Row counts come from the metadata of the
prepared datasets, never from a cache.
"""

import dataclasses
import importlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import holdout, quiet, seqio_tasks, sources, spec, streams

logger = logging.getLogger(__name__)


MixtureSpec = holdout.MixtureSpec


class Catalogue:
    """All tasks and mixtures that a run can name: those of the given modules, and whatever seqio's registries hold."""

    def __init__(self, specs: Iterable[spec.DatasetSpec], mixtures: Iterable[MixtureSpec] = ()) -> None:
        self.specs = spec.SpecRegistry()
        self.specs.add(list(specs))
        self.tasks = seqio_tasks.TaskTable(self.specs)
        self._derived = holdout.table(self.specs)
        self._given = {m.name: m for m in mixtures}

    @classmethod
    def from_modules(cls, modules: str | Sequence[str] | None) -> "Catalogue":
        """Imports the modules of `MIXTURE_OR_TASK_MODULE` and collects their `SPECS` and `MIXTURES`.

        A module may instead (or also) add tasks to seqio's registries when it is imported.

        Raises:
          FlanError: a module cannot be imported.
        """
        specs: list[spec.DatasetSpec] = []
        mixtures: list[MixtureSpec] = []
        for name in [modules] if isinstance(modules, str) else modules or []:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                raise errors.FlanError(f"MIXTURE_OR_TASK_MODULE {name!r} cannot be imported: {error}") from None
            specs.extend(getattr(module, "SPECS", ()))
            mixtures.extend(getattr(module, "MIXTURES", ()))
        return cls(specs, mixtures)

    def mixture(self, name: str) -> MixtureSpec:
        """Returns a mixture, or a task as a mixture of one.

        Raises:
          FlanError: no task or mixture has that name; it says which come near.
        """
        if name in self._given:
            return self._given[name]
        if name in self._derived:
            return self._derived[name].mixture(name)
        if self.tasks.find(name) is not None or _seqio_object(name) is not None:
            return MixtureSpec(name, (name,))
        raise self._unknown("task or mixture", name)

    def eval_tasks(self, name: str) -> list[seqio_tasks.FlanTask]:
        """Returns the tasks that evaluate a task or mixture: each of its datasets with each of its templates in turn.

        A dataset whose templates show options is scored by rank classification, any other by generation; reversed
        templates ask for something that no metric scores and are left out (FLAN 2021 section 3, "averaged over
        templates").

        Raises:
          FlanError: no task or mixture has that name, or a part of it is not one of flan_jax's tasks.
        """
        found: dict[str, seqio_tasks.FlanTask] = {}
        for task in (self.tasks[member] for member in self.mixture(name).tasks):
            for single in task.evaluations():
                found[single.name] = single
        if not found:
            raise errors.FlanError(f"{name!r} has only reversed templates, which no metric scores")
        return list(found.values())

    def names(self) -> list[str]:
        """Every name that can be asked for: mixtures first, then tasks."""
        return list(dict.fromkeys([*self.mixture_names(), *self.tasks.names(), *_seqio_names()]))

    def _unknown(self, kind: str, name: str) -> errors.FlanError:
        names = self.names()
        return seqio_tasks.unknown(
            kind, name, names, [known for known in names if known.endswith("_10templates")] or names
        )

    def mixture_names(self) -> list[str]:
        return list(dict.fromkeys([*self._given, *self._derived]))

    def seqio_tasks(self, name: str) -> list[Any]:
        """The tasks behind a name of seqio's registries."""
        return _seqio_tasks(_seqio_object(name))

    def open(
        self,
        name: str,
        *,
        data_dir: str,
        split: str,
        tokenizer: Any,
        lengths: dict[str, int],
        seed: int,
        missing: str = "error",
        shuffle: bool = True,
    ) -> "OpenMixture":
        """Opens every task of a mixture.

        Args:
          name: a mixture or task.
          data_dir: of prepared TFDS datasets.
          split: `train`, `validation` or `test`.
          tokenizer: of the model's vocabulary.
          lengths: `inputs` and `targets`, in tokens.
          seed: of every choice.
          missing: what to do about tasks whose data is not there: `error` names them all; `skip` leaves them out, says
            which, and the others' rates grow.
          shuffle: whether every epoch of a task has a new order; if not, each goes through its rows in the file's
            order.

        Raises:
          FlanError: a task is unknown, not prepared, empty, or its row count cannot be known.
        """
        mixture = self.mixture(name)
        if not mixture.tasks:
            raise errors.FlanError(f"mixture {name!r} names no task")
        for task in mixture.tasks:
            if self.tasks.find(task) is None and _seqio_object(task) is None:
                raise errors.FlanError(f"mixture {name!r}: {self._unknown('task', task)}")
        members: list[Member] = []
        tasks = [self.tasks.find(task) or task for task in mixture.tasks]
        # A cluster that is evaluated may hold a dataset without a train split (WSC273): no part of training on it.
        if split == "train" and mixture.evaluates:
            tasks = [t for t in tasks if isinstance(t, str) or "train" in t.dataset.splits] or tasks
        opened = open_tasks(tasks, data_dir, split, missing)
        for task_name, rows in opened:
            if rows is not None:
                stream = streams.FlanStream(rows, tokenizer, lengths, seed, shuffle)
                members.append(Member(task_name, rows.num_examples, self._rate(mixture, rows.num_examples), stream))
            else:
                members.extend(
                    _seqio_members(task_name, split, tokenizer, lengths, seed, mixture.rate_maximum, shuffle)
                )
        return OpenMixture(name, members, shuffle)

    @staticmethod
    def _rate(mixture: MixtureSpec, rows: int) -> float:
        return float(min(rows, mixture.rate_maximum or rows))


@dataclasses.dataclass(frozen=True)
class Member:
    """A task inside an open mixture: its rows, its unnormalised rate, and its examples by position."""

    name: str
    rows: int
    rate: float
    stream: streams.Stream


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


def open_tasks(
    tasks: Sequence[seqio_tasks.FlanTask | str], data_dir: str, split: str, missing: str
) -> list[tuple[str, seqio_tasks.TaskRows | None]]:
    """Opens a split of several tasks; a task given by its name alone is seqio's and is passed on.

    Raises:
      FlanError: data is missing: of all tasks with `missing` = `error`, of every single one with `skip`.
    """
    if missing not in ("error", "skip"):
        raise errors.unknown("value of missing", missing, ("error", "skip"))
    found: list[tuple[str, seqio_tasks.TaskRows | None]] = []
    absent: dict[str, str] = {}
    for task in tasks:
        if isinstance(task, str):
            found.append((task, None))
            continue
        try:
            found.append((task.name, task.open(data_dir, split)))
        except sources.NotPrepared as error:
            absent[task.name] = str(error)
    if absent and (missing == "error" or not found):
        # A dataset's templates share its data, so each reason is given once.
        listed = "\n".join(f"  {reason}" for reason in dict.fromkeys(absent.values()))
        raise errors.FlanError(
            f"{len(absent)} of {len(tasks)} tasks have no data:\n{listed}\n"
            "`flan data import` prepares JSON lines, tfds.load(NAME, download=True) the original; "
            "missing='skip' leaves them out"
        )
    for reason in dict.fromkeys(absent.values()):
        logger.warning("left out: %s", reason)
    return found


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
    name: str, split: str, tokenizer: Any, lengths: dict[str, int], seed: int, maximum: int | None, shuffle: bool
) -> list[Member]:
    """Opens a task or mixture of the user's own out of seqio's registries.

    A seqio mixture as a whole weighs what its tasks would weigh here; within it, its own rates hold.
    """
    seqio = quiet.seqio()

    found = _seqio_object(name)
    is_mixture = isinstance(found, seqio.Mixture)
    tasks = _seqio_tasks(found)
    rows = [_seqio_rows(task, split, tokenizer) for task in tasks]
    weights = [float(min(count, maximum or count)) for count in rows]
    if is_mixture:
        rates = [float(found.get_rate(task)) for task in tasks]
        weights = [sum(weights) * rate / sum(rates) for rate in rates]
    return [
        Member(task.name, count, weight, streams.SeqioStream(task, split, lengths, seed, shuffle))
        for task, count, weight in zip(tasks, rows, weights, strict=True)
    ]


def _seqio_rows(task: Any, split: str, tokenizer: Any) -> int:
    """Returns how many rows a seqio task has, after checking that it can be read and is tokenised for this model."""
    if "targets" not in task.output_features:
        raise errors.FlanError(
            f"seqio task {task.name!r} has no feature 'targets'; it has {sorted(task.output_features)}"
        )
    for feature in ("inputs", "targets"):
        if feature in task.output_features and task.output_features[feature].vocabulary != tokenizer.vocabulary:
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
