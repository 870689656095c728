"""The texts in which contamination is looked for: rows of datasets as they are, without a template's words."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from flan_jax.data import mixtures, seqio_tasks, spec


@dataclasses.dataclass(frozen=True)
class Opened:
    """The datasets of a mixture.

    Attributes:
      rows: of each dataset, once, however many tasks ask it.
      left_out: tasks that are no dataset of flan_jax with fields, and so are not looked at.
    """

    rows: dict[str, seqio_tasks.TaskRows]
    left_out: list[str]


def opened(catalogue: mixtures.Catalogue, name: str, data_dir: str, split: str, missing: str) -> Opened:
    """Opens a split of every dataset of a task or mixture.

    Raises:
      FlanError: no such mixture; data is missing, and `missing` is `error`.
    """
    first: dict[str, Any] = {}
    left_out = []
    for member in catalogue.mixture(name, data_dir).tasks:
        task = catalogue.tasks.find(member)
        if not isinstance(task, seqio_tasks.FlanTask):
            left_out.append(f"{member}, which is no dataset with fields")
        elif split not in task.dataset.splits:
            left_out.append(f"{member}, which has no {split} split")
        else:
            first.setdefault(task.dataset.name, task)
    found = mixtures.open_tasks(list(first.values()), data_dir, split, missing)
    names = {task.name: name for name, task in first.items()}
    return Opened({names[task]: rows for task, rows in found if isinstance(rows, seqio_tasks.TaskRows)}, left_out)


def trained_on(rows: seqio_tasks.TaskRows) -> Iterator[str]:
    """Of every row that may be trained on: its fields, and what is to be answered."""
    for row in range(rows.num_examples):
        example = rows.read(row)[1]
        yield fields(example)
        yield example.answer


def asked(rows: seqio_tasks.TaskRows, limit: int | None) -> Iterator[tuple[int, str]]:
    """Yields (row, fields) of every example that is evaluated; its answer is not looked for."""
    for found in itertools.islice(rows.in_order(), limit):
        yield found.row, fields(found.example)


def fields(example: spec.Example) -> str:
    """The fields of an example as one text, in the order in which its dataset names them."""
    return "\n".join(example.fields.values())
