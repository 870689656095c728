"""Rows of a prepared TFDS directory, by index.

A training stream that can seek needs random access, which tf.data does not give on TFRecord files. A TFRecord file is a
run of (8-byte length, 4-byte checksum, payload, 4-byte checksum), so walking the lengths once per shard gives every
row's offset; payloads are `tf.train.Example` messages, decoded here without TensorFlow (7 us a row against 136 us for
TFDS's own NumPy parser, measured on RTE).
"""

import functools
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import spec as spec_lib

SAMPLE = "sample"  # the data_dir that stands for the embedded sample
_SLICE = re.compile(r"^(?P<base>\w+)(?:\[(?P<start>-?\d*):(?P<stop>-?\d*)\])?$")
_HEADER, _FOOTER = 12, 4  # bytes around a TFRecord payload


def resolve_data_dir(data_dir: str | None) -> str:
    """Returns the directory of prepared datasets.

    The first of: the given one; `$TFDS_DATA_DIR`; `~/tensorflow_datasets`, if it is there. `sample` names the embedded
    sample, which is imported into a cache directory on first use.

    Raises:
      FlanError: none of these exists.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    if chosen == SAMPLE:
        from flan_jax.data import sample  # imports tensorflow_datasets only where the sample is asked for

        return sample.prepare()
    home = os.path.expanduser("~/tensorflow_datasets")
    if not chosen and os.path.isdir(home):
        return home
    if not chosen:
        raise errors.FlanError(
            "no data directory: expected --tfds_data_dir=DIR with prepared TFDS datasets (`flan data import` makes them), "
            "$TFDS_DATA_DIR or ~/tensorflow_datasets; --tfds_data_dir=sample reads the embedded sample"
        )
    if "://" not in chosen and not os.path.isdir(chosen):
        raise errors.FlanError(f"data directory {chosen!r} does not exist; expected prepared TFDS datasets or the word 'sample'")
    return chosen


def resolve_split(expression: str, sizes: Mapping[str, int]) -> tuple[str, int, int]:
    """Resolves a TFDS split expression to `(split, start, stop)` rows.

    Slices out of a large split shrink on a small copy of the data instead of failing: a bound past the end is the end, and
    a tail of `k` rows (`[-k:]`, `[:-k]`) is at most a quarter of the split, so that both sides keep rows.
    `resolve_split("train[-200:]", {"train": 2490}) == ("train", 2290, 2490)`; of 40 rows the same gives `(30, 40)`.

    Args:
      expression: `train`, `train[:30000]`, `train[-200:]`, `train[100:200]`.
      sizes: rows of each split that is there.

    Raises:
      FlanError: the expression does not parse, or its split is not there.
    """
    match = _SLICE.match(expression)
    if not match:
        raise errors.FlanError(f"split {expression!r} is not understood; expected e.g. 'train', 'train[:30000]' or 'train[-200:]'")
    base = match["base"]
    if base not in sizes:
        raise errors.unknown("split", base, sizes)
    rows = sizes[base]

    def bound(text: str | None, default: int) -> int:
        if not text:
            return default
        value = int(text)
        return min(value, rows) if value >= 0 else rows - min(-value, rows // 4)

    start, stop = bound(match["start"], 0), bound(match["stop"], rows)
    return base, start, max(start, stop)


def resolve_train_split(splits: Mapping[str, str], sizes: Mapping[str, int]) -> tuple[str, int, int]:
    """Resolves the train split to rows that no other split of the dataset holds.

    FLAN writes `train[:30000]` beside `validation = train[-200:]`, which overlap on a copy of under 30,200 rows. The head
    slice is a cap on the examples used, not a property of the data: it is left to the caller, so that rows which a filter
    drops can be made up from beyond it.
    `resolve_train_split({"train": "train[:30000]", "validation": "train[-200:]"}, {"train": 2000}) == ("train", 0, 1800)`.
    """
    base, start, stop = resolve_split(splits["train"], sizes)
    match = _SLICE.match(splits["train"])
    if match and match["stop"] and int(match["stop"]) > 0:
        stop = sizes[base]
    for name, expression in splits.items():
        other = _SLICE.match(expression)
        if name != "train" and other and other["base"] == base:
            _, held, _ = resolve_split(expression, sizes)
            stop = min(stop, held) if held > start else stop
    return base, start, stop


class NotPrepared(errors.FlanError):
    """A dataset, or a split of it, that is not in the data directory."""


class PreparedDataset:
    """One prepared TFDS directory: its splits, and its rows by index."""

    def __init__(self, data_dir: str, tfds_name: str) -> None:
        """Opens `DATA_DIR/NAME/CONFIG/VERSION`.

        Raises:
          NotPrepared: it is not there.
        """
        import tensorflow_datasets as tfds

        dataset, _, version = tfds_name.partition(":")
        self.directory = os.path.join(data_dir, dataset, version)
        self.name = tfds_name
        try:
            builder = tfds.builder_from_directory(self.directory)
        except (FileNotFoundError, tfds.core.dataset_info.DatasetInfoFileError):
            raise NotPrepared(
                f"dataset {tfds_name!r} is not prepared in {data_dir}{_present_versions(data_dir, dataset)}"
            ) from None
        self._splits = builder.info.splits
        self._leaves = _leaves(builder.info.features.get_serialized_info())
        self._shards: dict[tuple[str, int], _Shard] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split, from the dataset's own metadata."""
        return {name: info.num_examples for name, info in self._splits.items()}

    def rows(self, splits: Mapping[str, str], name: str) -> "Rows":
        """Returns the rows of a dataset's `train`, `validation` or `test` split.

        Args:
          splits: the dataset's split expressions.
          name: which of them.

        Raises:
          NotPrepared: the prepared dataset does not have that split.
        """
        try:
            resolved = resolve_train_split(splits, self.sizes) if name == "train" else resolve_split(splits[name], self.sizes)
        except errors.FlanError as error:
            raise NotPrepared(f"dataset {self.name!r} in {self.directory}: {error}") from None
        return Rows(self, *resolved)

    def read(self, split: str, index: int) -> spec_lib.Row:
        """Reads row `index` of a whole split."""
        info = self._splits[split]
        bounds = _shard_bounds(tuple(info.shard_lengths))
        number = int(np.searchsorted(bounds, index, side="right")) - 1
        shard = self._shards.get((split, number))
        if shard is None:
            shard = _Shard(str(info.filepaths[number]), info.shard_lengths[number])
            self._shards[split, number] = shard
        return _LazyRow(shard[index - int(bounds[number])], self._leaves)


class Rows(Sequence[spec_lib.Row]):
    """The rows of one slice of a split."""

    def __init__(self, dataset: PreparedDataset, split: str, start: int, stop: int) -> None:
        self._dataset, self._split, self._start, self._stop = dataset, split, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index):  # rows are read one by one; slices are not needed by the loader
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._dataset.read(self._split, self._start + index)

    def __iter__(self) -> Iterator[spec_lib.Row]:
        return (self[index] for index in range(len(self)))


class _Shard:
    """A TFRecord file and the offsets of its rows."""

    def __init__(self, path: str, rows: int) -> None:
        if "://" in path:  # object stores have no mmap; a shard is read whole, once
            from etils import epath

            self._data: bytes | mmap.mmap = epath.Path(path).read_bytes()
        else:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        offsets = np.empty(rows + 1, np.int64)
        position, end = 0, len(self._data)
        for row in range(rows):
            offsets[row] = position
            if position + _HEADER > end:
                raise errors.FlanError(f"{path}: file ends after {row} rows, expected {rows}; prepare the dataset again")
            position += _HEADER + struct.unpack_from("<Q", self._data, position)[0] + _FOOTER
        if position != end:
            raise errors.FlanError(f"{path}: {end} bytes, but {rows} rows end at byte {position}; prepare the dataset again")
        offsets[rows] = position
        self._offsets = offsets

    def __getitem__(self, row: int) -> bytes:
        return self._data[int(self._offsets[row]) + _HEADER : int(self._offsets[row + 1]) - _FOOTER]


class _LazyRow(Mapping[str, Any]):
    """A row whose fields are decoded when they are asked for: TriviaQA rows carry 50 kB of evidence nobody reads."""

    def __init__(self, payload: bytes, leaves: Mapping[str, Any]) -> None:
        from tensorflow_datasets.proto import tf_example_pb2

        self._features = tf_example_pb2.Example.FromString(payload).features.feature
        self._leaves = leaves

    def __getitem__(self, key: str) -> Any:
        return _decode(self._features, key, self._leaves[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)


def _decode(features: Mapping[str, Any], key: str, leaf: Any) -> Any:
    """Decodes one field: text as str, a sequence as a list, a sequence of dicts as a dict of lists (as TFDS gives them)."""
    if isinstance(leaf, Mapping):
        return {name: _decode(features, f"{key}/{name}", inner) for name, inner in leaf.items()}
    depth, is_bool = leaf
    if depth >= 2:  # TFDS stores a ragged field flat, with the lengths of each level beside it
        values: list[Any] = _values(features[f"{key}/ragged_flat_values"], is_bool)
        for level in range(depth - 2, -1, -1):
            lengths = _values(features[f"{key}/ragged_row_lengths_{level}"], False)
            ends = np.cumsum(lengths, dtype=np.int64)
            values = [values[end - length : end] for length, end in zip(lengths, ends, strict=True)]
        return values
    values = _values(features[key], is_bool) if key in features else []
    return values if depth else values[0]


def _values(feature: Any, is_bool: bool) -> list[Any]:
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        return [value.decode("utf-8", errors="replace") for value in feature.bytes_list.value]
    values = list(getattr(feature, kind).value) if kind else []
    return [bool(value) for value in values] if is_bool else values


def _leaves(info: Any) -> Any:
    """Reduces TFDS's serialised-feature tree to `(depth, is_bool)` a leaf: all that decoding needs."""
    if isinstance(info, Mapping):
        return {name: _leaves(inner) for name, inner in info.items()}
    return len(info.shape), info.np_dtype == np.bool_


@functools.cache
def _shard_bounds(lengths: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])


def _present_versions(data_dir: str, dataset: str) -> str:
    """Ends the 'not prepared' message with the versions that are there."""
    folder = os.path.join(data_dir, dataset)
    found = os.listdir(folder) if os.path.isdir(folder) else []
    versions = sorted(name for name in found if re.match(r"^\d+\.\d+\.\d+$", name))
    return f", which has version {', '.join(versions)} of it" if versions else ""
