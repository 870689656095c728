"""Where the rows of a dataset lie: a prepared TFDS directory, or a checkout of Natural Instructions."""

import contextlib
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from flan_jax import errors
from flan_jax.data import natural_instructions, sources, spec

TFDS, NATURAL_INSTRUCTIONS = "tfds", "natural_instructions"


class Opened(Protocol):
    """A dataset whose rows can be read."""

    directory: str

    def rows(self, splits: Mapping[str, str], name: str) -> Sequence[spec.Row]:
        """The rows of a split, given the dataset's split expressions. Raises NotPrepared where there is none."""
        ...

    def exemplars(self) -> Sequence[spec.Row]:
        """The examples that were written for it; none in most."""
        ...


# The prepared datasets in use, by directory and by when it was written: the tasks of a dataset share one.
_in_use: weakref.WeakValueDictionary[tuple[str, str, int], sources.PreparedDataset] = weakref.WeakValueDictionary()


def opened(dataset: spec.DatasetSpec, data_dir: str) -> Opened:
    """Opens a dataset.

    Raises:
      NotPrepared: it is not there.
      FlanError: it is there and cannot be used.
    """
    if dataset.store == NATURAL_INSTRUCTIONS:
        return natural_instructions.checkout(data_dir).task(dataset.tfds_dataset.partition("/")[2])
    if dataset.store != TFDS:
        raise errors.unknown(f"store of dataset {dataset.name!r}", dataset.store, (TFDS, NATURAL_INSTRUCTIONS))
    written = 0
    with contextlib.suppress(OSError):  # gs:// is no local path, and what is not there is for PreparedDataset to say
        info = os.path.join(data_dir, dataset.tfds_name.replace(":", "/"), "dataset_info.json")
        written = os.stat(info).st_mtime_ns
    key = (data_dir, dataset.tfds_name, written)
    found = _in_use.get(key)
    if found is None:
        found = _in_use[key] = sources.PreparedDataset(data_dir, dataset.tfds_name)
    return found


def prepare(datasets: Iterable[spec.DatasetSpec], data_dir: str) -> None:
    """Does together what would take longer dataset by dataset: files of Natural Instructions are noted in parallel."""
    tasks = [d.tfds_dataset.partition("/")[2] for d in datasets if d.store == NATURAL_INSTRUCTIONS]
    if tasks:
        with contextlib.suppress(sources.NotPrepared):  # opening them says so
            natural_instructions.checkout(data_dir).note(tasks)
