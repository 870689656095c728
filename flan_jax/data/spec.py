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
