"""What a dataset is, as plain data: the one module of the library that `tasks/` imports.

A `DatasetSpec` says where the rows are (a versioned TFDS name and its splits), how one row becomes named text fields, and
how an answer is scored. It holds no pipeline code: sources read the rows, templates turn the fields into text.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flan_jax import errors

# One decoded row: TFDS field names; text as str, sequences as lists, scalars as Python numbers.
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Example:
    """One row, ready for a template.

    Attributes:
      fields: the named texts that a template may use.
      answer: the target text; also usable in templates as `{answer}`.
      options: the answers to choose from, in the order in which they are shown; empty where the answer is free text.
      answers: every text accepted as right by the metric; `(answer,)` unless there are more.
    """

    fields: Mapping[str, str]
    answer: str
    options: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.answers:
            object.__setattr__(self, "answers", (self.answer,))


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A dataset of a collection.

    Attributes:
      name: the public name, as in FLAN's repository where it has one (`rte`, `natural_questions`).
      cluster: the cluster that is held out together (`nli`).
      tfds_name: `name[/config]:version`, as TFDS loads it.
      splits: `train`, `validation` and `test`, each in TFDS slicing syntax. `train[-200:]` and `train[:-200]` carve the
        last 200 rows; on a small copy they shrink together (see `sources.resolve_splits`).
      example: turns a row into an `Example`, or `None` to drop the row. Must be a pure function of the row.
      metrics: names out of `evaluation.metrics`.
      train_rows: rows of the whole train split as published, for tables where the data is absent.
      templates: stem of the YAML file in `tasks/templates/`.
      collection: `flan2021`, `cot`, or `extra` for a dataset that is in no collection's mixtures.
      rationale: whether targets carry a chain of thought, so that a generated answer is parsed before it is scored.
      inverted: stem of the template file of its inverted forms, which ask for the question or the rationale; such a file
        may serve several datasets.
      weight: examples that the dataset counts for in rates, where its collection publishes them (Flan 2022 has them as
        a table); None for the rows that are there.
      kept: the share of its train rows that `example` keeps, where that is far from all of them; rates count these alone.
      prefix: what the Flan Collection's public code puts before the name: `cot` or `stream` for sets with rationales.
      store: where its rows lie: `tfds`, a prepared TFDS directory; `natural_instructions`, a checkout of that repository.
      sources: names of the datasets that its texts are taken from, where its TFDS name does not say.
    """

    name: str
    cluster: str
    tfds_name: str
    splits: Mapping[str, str]
    example: Callable[[Row], Example | None]
    metrics: tuple[str, ...]
    train_rows: int
    templates: str
    collection: str = "flan2021"
    rationale: bool = False
    inverted: str = ""
    weight: int | None = None
    kept: float = 1.0
    prefix: str = ""
    store: str = "tfds"
    sources: tuple[str, ...] = ()

    @property
    def tfds_dataset(self) -> str:
        """The TFDS name without its version: `super_glue/rte`."""
        return self.tfds_name.split(":")[0]

    @property
    def version(self) -> str:
        return self.tfds_name.split(":")[1]


class SpecRegistry:
    """Dataset specs by name. Task modules fill one; nothing is read from disk."""

    def __init__(self) -> None:
        self._specs: dict[str, DatasetSpec] = {}

    def add(self, specs: Sequence[DatasetSpec]) -> None:
        """Adds specs; adding the same one again changes nothing, another one under a taken name is refused."""
        for spec in specs:
            present = self._specs.get(spec.name)
            if present is not None and present != spec:
                raise errors.FlanError(
                    f"dataset {spec.name!r} is defined twice: {present.tfds_name} and {spec.tfds_name}"
                )
            if ":" not in spec.tfds_name:
                raise errors.FlanError(
                    f"dataset {spec.name!r}: {spec.tfds_name!r} has no version; expected e.g. 'glue/sst2:2.0.0'"
                )
            self._specs[spec.name] = spec

    def __getitem__(self, name: str) -> DatasetSpec:
        if name not in self._specs:
            raise errors.unknown("dataset", name, self._specs)
        return self._specs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self):
        return iter(self._specs.values())

    def __len__(self) -> int:
        return len(self._specs)

    def clusters(self) -> dict[str, list[DatasetSpec]]:
        """Specs grouped by cluster, both in the order of registration."""
        found: dict[str, list[DatasetSpec]] = {}
        for spec in self:
            found.setdefault(spec.cluster, []).append(spec)
        return found


# What a task of the Flan Collection shows: no exemplars (zero-shot) or some (few-shot), the options or not.
KINDS = ZSOPT, ZSNOOPT, FSOPT, FSNOOPT = "zsopt", "zsnoopt", "fsopt", "fsnoopt"


def _no_datasets() -> tuple[DatasetSpec, ...]:
    return ()


@dataclasses.dataclass(frozen=True)
class Collection:
    """Datasets that are mixed as one source of a blend.

    Attributes:
      name: `niv2`.
      styles: for each of `KINDS` that it has, the styles of its tasks (last parts of their names).
      datasets: gives the datasets that are defined by this collection alone: thousands, or read from a file, so they are
        not among a module's `SPECS`. Called when first needed.
      members: gives the names of its datasets, in its order, where they are not those of `datasets`; one that no module
        defines must be in `left_out`. If neither is there, the members are the datasets whose `collection` is its name.
      left_out: gives name -> why it is not there, for members that nobody can get.
      published: how many tasks its paper counts.
      maximum: the number of examples past which a task weighs no more; None for no limit.
      inverted: what a row of a dataset's inverted form counts, where it has one, beside a row of the dataset; 0 for none.
      about: one sentence for `flan data doctor`.
    """

    name: str
    styles: Mapping[str, tuple[str, ...]]
    datasets: Callable[[], tuple[DatasetSpec, ...]] = _no_datasets
    members: Callable[[], tuple[str, ...]] | None = None
    left_out: Callable[[], Mapping[str, str]] = dict
    published: int = 0
    maximum: int | None = None
    inverted: float = 0.0
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a blend takes of one collection.

    Attributes:
      collection: its name.
      share: of all draws; shares are divided by their sum.
      kinds: out of `KINDS`, and how the share is divided among them.
      maximum: the number of examples past which a task weighs no more, instead of the collection's.
      datasets: how many of its datasets are taken, an arbitrary but fixed choice; all where None.
      without: patterns (as of a shell: `*_input_inversion_*`) of the tasks that are not taken.
      style: the one style in which all are asked, instead of those of `kinds`.
      cap: rows that are used of a dataset, at most, where the blend's cap is larger.
    """

    collection: str
    share: float
    kinds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    maximum: int | None = None
    datasets: int | None = None
    without: tuple[str, ...] = ()
    style: str = ""
    cap: int | None = None


@dataclasses.dataclass(frozen=True)
class Blend:
    """A mixture of collections in given proportions.

    Within a part and kind, a task is drawn in proportion to min(examples, maximum).

    Attributes:
      name: what `MIXTURE_OR_TASK_NAME` says.
      parts: what it is made of.
      cap: rows that are used of a dataset, at most, instead of what its collection uses.
      about: what it is for, in a few words.
    """

    name: str
    parts: tuple[Part, ...]
    cap: int | None = None
    about: str = ""
