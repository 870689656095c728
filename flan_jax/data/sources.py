"""Rows of a prepared TFDS directory, by index.

A training stream that can seek needs random access, which tf.data does not give on TFRecord files. A TFRecord file is a
run of (8-byte length, 4-byte checksum, payload, 4-byte checksum), so walking the lengths once per shard gives every
row's offset; payloads are `tf.train.Example` messages, decoded here without TensorFlow (7 us a row against 136 us for
TFDS's own NumPy parser, measured on RTE).
"""

import bisect
import dataclasses
import functools
import itertools
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import spec as spec_lib

SAMPLE = "sample"  # the data_dir that stands for the embedded sample
_SLICE = re.compile(r"(?P<base>\w+)(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?")
_HEADER, _FOOTER = 12, 4  # bytes around a TFRecord payload
_LENGTH = struct.Struct("<Q")


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
            "no data directory: expected --tfds_data_dir=DIR with prepared TFDS datasets "
            "(`flan data import` makes them), $TFDS_DATA_DIR or ~/tensorflow_datasets; "
            "--tfds_data_dir=sample reads the embedded sample"
        )
    if "://" not in chosen and not os.path.isdir(chosen):
        raise errors.FlanError(
            f"data directory {chosen!r} does not exist; expected prepared TFDS datasets or the word 'sample'"
        )
    return chosen


Range = tuple[str, int, int]  # split, first row, row after the last


def resolve_splits(splits: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, Range | errors.FlanError]:
    """Resolves a dataset's split expressions to rows, so that train shares no row with the others.

    On data of the published size the expressions mean what they mean to TFDS, but for train's head slice: FLAN writes
    `train[:30000]` beside `validation = train[-200:]`, which overlap below 30,200 rows. That slice is a cap on the examples
    used, not a property of the data, and is left to the caller (see `slice_rows`), so that rows which a filter drops can be
    made up from beyond it.

    On a small copy slices shrink together instead of failing. Where several expressions cut one split, tails (`[-k:]`) are
    kept while three of the longest fit, else the longest becomes a quarter of the rows and the others keep their ratio to
    it; windows (`[30000:30200]`) past the rows that the tails leave are scaled down to these.

        train[:-200], train[-200:]                            of 2,490 rows: 0-2290, 2290-2490;  of 40: 0-30, 30-40
        train[:-600], train[-600:-500], train[-500:]          of 44 rows:    0-33, 33-35, 35-44
        train[:30000], train[30000:30200], train[-3000:]      of 60 rows:    0-44, 44-45, 45-60

    Args:
      splits: split name -> `train`, `train[:30000]`, `train[-200:]`, `train[100:200]`.
      sizes: rows of each split that is there.

    Returns:
      For each split its rows, or the error that asking for it should raise: there is no such split.

    Raises:
      FlanError: an expression does not parse.
    """
    parsed = {name: _parse(expression) for name, expression in splits.items()}
    found: dict[str, Range | errors.FlanError] = {}
    for name, (base, start, stop) in parsed.items():
        if base not in sizes:
            found[name] = errors.unknown("split", base, sizes)
            continue
        mine = [(a, b) for other, a, b in parsed.values() if other == base]
        place = _placer(mine, sizes[base])
        if name == "train" and slice_rows(splits[name]) is not None and not start and not _windows(mine):
            stop = None
        first, last = place(start or 0), sizes[base] if stop is None else place(stop)
        found[name] = (base, first, max(first, last))
    if "train" in found and not isinstance(found["train"], errors.FlanError):
        found["train"] = _without_held_rows(found)
    return found


def _parse(expression: str) -> tuple[str, int | None, int | None]:
    match = _SLICE.fullmatch(expression)
    if not match:
        raise errors.FlanError(
            f"split {expression!r} is not understood; expected e.g. 'train', 'train[:30000]' or 'train[-200:]'"
        )
    start, stop = (int(match[side]) if match[side] else None for side in ("start", "stop"))
    return match["base"], start, stop


def _windows(slices: Sequence[tuple[int | None, int | None]]) -> bool:
    """Whether one of the slices starts in the middle, counted from the front."""
    return any(start is not None and start > 0 for start, _ in slices)


def _placer(slices: Sequence[tuple[int | None, int | None]], rows: int) -> Callable[[int], int]:
    """Returns where a bound of one of these slices of a split lies in a copy of `rows` rows."""
    bounds = [bound for pair in slices for bound in pair if bound]
    longest = max((-bound for bound in bounds if bound < 0), default=0)
    shrunk = longest if len(slices) == 1 or 3 * longest <= rows else rows // 4
    body = max(rows - shrunk, 0)
    furthest = max((bound for bound in bounds if bound > 0), default=0)
    crowded = _windows(slices) and len(slices) > 1 and furthest > body

    def place(bound: int) -> int:
        if bound < 0:
            tail = -bound if shrunk == longest else min(max(1, round(-bound * shrunk / longest)), shrunk)
            return max(rows - tail, 0)
        return bound * body // furthest if crowded else min(bound, rows)

    return place


def _without_held_rows(found: Mapping[str, Range | errors.FlanError]) -> Range:
    """The train rows without those of other splits; of rows held out in the middle, those before them are left."""
    train = found["train"]
    assert not isinstance(train, errors.FlanError)
    base, start, stop = train
    others = [other for name, other in found.items() if name != "train" and not isinstance(other, errors.FlanError)]
    for _, held_start, held_stop in sorted(other for other in others if other[0] == base):
        if held_start <= start < held_stop:
            start = held_stop
        elif start < held_start < held_stop:
            stop = min(stop, held_start)
    return base, start, max(start, stop)


def slice_rows(expression: str) -> int | None:
    """The rows that a slice from the front asks for: `slice_rows("train[:30000]") == 30000`; None for any other."""
    match = _SLICE.fullmatch(expression)
    if not match or not match["stop"]:
        return None
    start, stop = int(match["start"] or 0), int(match["stop"])
    return stop - start if 0 <= start < stop else None


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
            info: Any = tfds.builder_from_directory(self.directory).info
        except (FileNotFoundError, tfds.core.dataset_info.DatasetInfoFileError):
            raise NotPrepared(
                f"dataset {tfds_name!r} is not prepared in {data_dir}{_present_versions(data_dir, dataset)}"
            ) from None
        if info.file_format != tfds.core.FileFormat.TFRECORD:
            raise errors.FlanError(
                f"dataset {tfds_name!r} in {self.directory} is stored as {info.file_format.value}; expected tfrecord"
            )
        self._splits = {name: _Split(split) for name, split in info.splits.items()}
        self._leaves = _leaves(info.features.get_serialized_info())

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split, from the dataset's own metadata."""
        return {name: split.bounds[-1] for name, split in self._splits.items()}

    def rows(self, splits: Mapping[str, str], name: str) -> "Rows":
        """Returns the rows of a dataset's `train`, `validation` or `test` split.

        Args:
          splits: the dataset's split expressions.
          name: which of them.

        Raises:
          NotPrepared: the prepared dataset does not have that split.
        """
        try:
            resolved = resolve_splits(splits, self.sizes)[name]
            if isinstance(resolved, errors.FlanError):
                raise resolved
        except errors.FlanError as error:
            raise NotPrepared(f"dataset {self.name!r} in {self.directory}: {error}") from None
        return Rows(self, *resolved)

    def exemplars(self) -> Sequence[spec_lib.Row]:
        """The examples that were written for the dataset: none."""
        return ()

    def read(self, split: str, index: int) -> spec_lib.Row:
        """Reads row `index` of a whole split.

        Raises:
          FlanError: its shard is missing or damaged.
        """
        return _LazyRow(self._splits[split].features(index), self._leaves)


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


class _Split:
    """The shards of one split, opened when a row of theirs is asked for."""

    def __init__(self, info: Any) -> None:
        self._info = info
        self.bounds = [0, *itertools.accumulate(info.shard_lengths)]
        self._shards: dict[int, _Shard] = {}

    def features(self, index: int) -> Mapping[str, Any]:
        number = bisect.bisect_right(self.bounds, index) - 1
        shard = self._shards.get(number)
        if shard is None:
            shard = _Shard(str(self._info.filepaths[number]), self._info.shard_lengths[number])
            self._shards[number] = shard
        return shard.features(index - self.bounds[number])


class _Shard:
    """A TFRecord file and the offsets of its rows."""

    def __init__(self, path: str, rows: int) -> None:
        try:
            self._data = _contents(path)
        except OSError as error:
            raise errors.FlanError(
                f"{path}: cannot be read ({error.strerror or error}); prepare the dataset again"
            ) from None
        offsets = np.empty(rows + 1, np.int64)
        position, end = 0, len(self._data)
        for row in range(rows):
            offsets[row] = position
            if position + _HEADER <= end:
                position += _HEADER + _LENGTH.unpack_from(self._data, position)[0] + _FOOTER
            if position > end or offsets[row] == position:
                raise errors.FlanError(
                    f"{path}: damaged: row {row} of {rows} runs past its end; prepare the dataset again"
                )
        if position != end:
            raise errors.FlanError(
                f"{path}: {end} bytes, but {rows} rows end at byte {position}; prepare the dataset again"
            )
        offsets[rows] = position
        self._offsets, self._path = offsets, path

    def features(self, row: int) -> Mapping[str, Any]:
        """The `tf.train.Feature` messages of a row, by key."""
        parse, parse_error = _parser()
        try:
            payload = self._data[int(self._offsets[row]) + _HEADER : int(self._offsets[row + 1]) - _FOOTER]
            return parse(payload).features.feature
        except parse_error:
            raise errors.FlanError(
                f"{self._path}: damaged: row {row} is no tf.train.Example; prepare the dataset again"
            ) from None


def _contents(path: str) -> bytes | mmap.mmap:
    if "://" in path:  # object stores have no mmap; a shard is read whole, once
        from etils import epath

        return epath.Path(path).read_bytes()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""


@functools.cache
def _parser() -> tuple[Callable[[bytes], Any], type[Exception]]:
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString, message.DecodeError


class _LazyRow(Mapping[str, Any]):
    """A row whose fields are decoded when they are asked for: TriviaQA rows carry 50 kB of evidence nobody reads."""

    def __init__(self, features: Mapping[str, Any], leaves: Mapping[str, Any]) -> None:
        self._features, self._leaves = features, leaves

    def __getitem__(self, key: str) -> Any:
        return _decode(self._features, key, self._leaves[key])

    def __contains__(self, key: object) -> bool:
        return key in self._leaves  # Mapping's own would decode the field

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """How one field is stored.

    Attributes:
      depth: levels of sequence around it.
      shape: of one element; unknown sizes are -1.
      is_bool: whether its integers are truth values.
    """

    depth: int
    shape: tuple[int, ...]
    is_bool: bool


def _decode(features: Mapping[str, Any], key: str, leaf: Any) -> Any:
    """Decodes one field: text as str, a sequence as a list, a sequence of dicts as a dict of lists (as TFDS does)."""
    if type(leaf) is dict:
        return {name: _decode(features, f"{key}/{name}", inner) for name, inner in leaf.items()}
    if leaf.depth < 2:
        values = _values(features[key], leaf.is_bool)
        if leaf.shape:
            values = np.reshape(np.asarray(values, object), (-1, *leaf.shape) if leaf.depth else leaf.shape).tolist()
        return values if leaf.depth or leaf.shape else values[0]
    # TFDS stores a ragged field flat, with the lengths of each level beside it.
    values = _values(features[f"{key}/ragged_flat_values"], leaf.is_bool)
    if leaf.shape:
        values = np.reshape(np.asarray(values, object), (-1, *leaf.shape)).tolist()
    for level in range(leaf.depth - 2, -1, -1):
        lengths = _values(features[f"{key}/ragged_row_lengths_{level}"], False)
        ends = itertools.accumulate(lengths)
        values = [values[end - length : end] for length, end in zip(lengths, ends, strict=True)]
    return values


def _values(feature: Any, is_bool: bool) -> list[Any]:
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        values = feature.bytes_list.value
        if len(values) == 1:  # nearly always
            return [values[0].decode("utf-8", "replace")]
        return [value.decode("utf-8", "replace") for value in values]
    values = list(getattr(feature, kind).value) if kind else []
    return [bool(value) for value in values] if is_bool else values


def _leaves(info: Any) -> Any:
    """Reduces TFDS's serialised-feature tree to a `_Leaf` a field: all that decoding needs."""
    if isinstance(info, Mapping):
        return {name: _leaves(inner) for name, inner in info.items()}
    shape = tuple(-1 if size is None else size for size in info.shape[info.sequence_rank :])
    return _Leaf(info.sequence_rank, shape, info.np_dtype == np.bool_)


def _present_versions(data_dir: str, dataset: str) -> str:
    """Ends the 'not prepared' message with the versions that are there."""
    folder = os.path.join(data_dir, dataset)
    found = os.listdir(folder) if os.path.isdir(folder) else []
    versions = sorted(name for name in found if re.match(r"^\d+\.\d+\.\d+$", name))
    return f", which has version {', '.join(versions)} of it" if versions else ""
