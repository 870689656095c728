"""The packed cache on disk: rows of features in ArrayRecord shards, and a manifest that says what they are.

    DIR/plan.json                          what the cache is a function of; written first, so a directory holds one cache
    DIR/rows-00003-of-00016.array_record   one record a row; ArrayRecord's own footer indexes them
    DIR/rows-00003-of-00016.json           what is in the shard; written after it, so it says that the shard is whole
    DIR/manifest.json                      written last: the plan, counts a task, and of every shard rows, bytes and SHA-256

A record is the row's features one after the other, then as int32 how many of its tokens are not padding, and the task of
each of its examples. Every file is written under another name, flushed to the disk and renamed; on an object store it
is copied there when it is finished. Nothing here needs TensorFlow.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from flan_jax import errors
from flan_jax.data import features, vocabulary

VERSION = 1  # of the layout; another one is refused
PLAN, MANIFEST = "plan.json", "manifest.json"
TEMPORARY = ".writing-"  # begins the name of a file that is being written
# One record a group: a row is read without its neighbours. zstd makes a row of 1024 + 256 about a sixth of its int32s.
WRITER_OPTIONS = "group_size:1,zstd:3"
_TAIL = np.dtype("<i4")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of rows.

    Attributes:
      file: its name.
      rows: how many it holds.
      bytes: its size.
      sha256: of its content.
      tokens: of its rows, padding not counted.
      examples: of each task.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    tokens: int
    examples: tuple[int, ...]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Shard":
        return cls(**{**entry, "examples": tuple(entry["examples"])})


class Records:
    """Rows to records and back."""

    def __init__(self, spec: Mapping[str, Mapping[str, Any]]) -> None:
        """Args:
        spec: feature -> `dtype` and `shape`, in the order of the record.
        """
        self._parts: list[tuple[str, np.dtype, tuple[int, ...], int, int]] = []
        start = 0
        for name, entry in spec.items():
            dtype, shape = np.dtype(entry["dtype"]).newbyteorder("<"), tuple(entry["shape"])
            stop = start + dtype.itemsize * math.prod(shape)
            self._parts.append((name, dtype, shape, start, stop))
            start = stop
        self._fixed = start

    @staticmethod
    def spec(row: features.Features) -> dict[str, dict[str, Any]]:
        """What the constructor takes, for rows like this one: whatever features the converter gives."""
        return {name: {"dtype": value.dtype.name, "shape": list(value.shape)} for name, value in row.items()}

    def encode(self, row: features.Features, tokens: int, tasks: Sequence[int]) -> bytes:
        """Returns the record of a row with so many tokens and examples of these tasks."""
        body = b"".join(
            np.ascontiguousarray(row[name], dtype).reshape(shape).tobytes() for name, dtype, shape, _, _ in self._parts
        )
        return body + np.asarray([tokens, *tasks], _TAIL).tobytes()

    def decode(self, records: Sequence[bytes]) -> tuple[features.Features, list[int], list[np.ndarray]]:
        """Returns the features of N rows, stacked, and of each its tokens and the tasks of its examples.

        Raises:
          ValueError: a record is too short.
        """
        if any(len(record) < self._fixed + _TAIL.itemsize for record in records):
            raise ValueError(f"a record is shorter than the {self._fixed + _TAIL.itemsize} bytes of a row")
        fixed = np.stack([np.frombuffer(record, np.uint8, self._fixed) for record in records])
        found = {
            name: np.ascontiguousarray(fixed[:, start:stop]).view(dtype).reshape(len(records), *shape)
            for name, dtype, shape, start, stop in self._parts
        }
        tails = [np.frombuffer(record, _TAIL, offset=self._fixed) for record in records]
        return found, [int(tail[0]) for tail in tails], [tail[1:] for tail in tails]


@dataclasses.dataclass(frozen=True)
class Cache:
    """A complete cache: `directory`, and `manifest` as it is on disk."""

    directory: str
    manifest: Mapping[str, Any]

    @functools.cached_property
    def shards(self) -> list[Shard]:
        return [Shard.from_json(entry) for entry in self.manifest["shards"]]

    @property
    def rows(self) -> int:
        return self.manifest["rows"]

    @property
    def records(self) -> Records:
        return Records(self.manifest["features"])

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, by the number that stands for them in a record."""
        return [task["name"] for task in self.manifest["tasks"]]

    @property
    def clusters(self) -> list[str | None]:
        """The cluster of each task; None where it has none, and in caches that were made before they were written down."""
        return [task.get("cluster") for task in self.manifest["tasks"]]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that no other cache has: a hash of the manifest, the shards' own hashes with it."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:16]


def open_cache(directory: str) -> Cache:
    """Reads the manifest of a complete cache and looks whether its files are there; reads none of them.

    Raises:
      FlanError: there is no cache, it is not complete, of another version, or a file is missing or of another size.
    """
    path = os.path.join(directory, MANIFEST)
    if not epath.Path(path).exists():
        if epath.Path(directory, PLAN).exists():
            raise errors.FlanError(
                f"packed cache {directory} is not complete: the same `flan data cache` command goes on where it stopped"
            )
        raise errors.FlanError(f"no packed cache in {directory}: it has no {MANIFEST}; `flan data cache` writes one")
    manifest = read_json(path)
    if manifest.get("version") != VERSION:
        raise errors.FlanError(
            f"packed cache {directory} is of version {manifest.get('version')}, this flan_jax reads {VERSION}: "
            "write it again with `flan data cache`"
        )
    cache = Cache(directory, manifest)
    for shard in cache.shards:
        problem = whole(directory, shard)
        if problem:
            raise errors.FlanError(
                f"packed cache {directory}: {shard.file} {problem}; remove it, and the same `flan data cache` command "
                "writes it again"
            )
    return cache


def whole(directory: str, shard: Shard) -> str:
    """Returns what is wrong with a shard's file as far as its size shows, or ''."""
    path = epath.Path(directory, shard.file)
    if not path.exists():
        return "is missing"
    size = path.stat().length
    return f"has {size} bytes, expected {shard.bytes}" if size != shard.bytes else ""


def shard_file(shard: int, shards: int) -> str:
    """`shard_file(3, 16) == "rows-00003-of-00016.array_record"`."""
    return f"rows-{shard:05}-of-{shards:05}.array_record"


def note_file(file: str) -> str:
    """The name of the JSON file that says what is in a shard."""
    return file.removesuffix(".array_record") + ".json"


def describe_vocabulary(of: Any) -> dict[str, Any]:
    """What the plan holds of a vocabulary; two with one `sha256` give the same ids."""
    return {"name": vocabulary.name(of), "sha256": vocabulary.fingerprint(of), "pieces": int(of.vocab_size)}


def describe_converter(converter: features.Converter) -> dict[str, Any]:
    """What the plan holds of how rows are laid out: the family's name and its settings."""
    settings = dataclasses.asdict(converter) if dataclasses.is_dataclass(converter) else {}
    return {"name": converter.name, **settings}


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Returns `KEY: is THEIRS there, OURS here` for each of `keys` on which two plans differ."""

    def shown(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 120 else f"{text[:120]}..."

    return [
        f"{key}: {shown(theirs.get(key))} there, {shown(ours.get(key))} here"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]


def vocabulary_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The same of what `describe_vocabulary` gave: only the pieces count, not what their file is called."""

    def shown(of: Mapping[str, Any]) -> str:
        return f"{of['name']} ({of['pieces']} pieces, SHA-256 {of['sha256'][:12]}...)"

    if theirs["sha256"] == ours["sha256"]:
        return []
    return [f"vocabulary: {shown(theirs)} there, {shown(ours)} here"]


def read_json(path: str) -> Any:
    """Reads a JSON file of a cache.

    Raises:
      FlanError: it is not JSON.
    """
    try:
        return json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise errors.FlanError(f"{path} is damaged: {error}") from None


def write_json(path: str, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = temporary_name(path)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    put_in_place(temporary, path)


def remote(path: str) -> bool:
    """Whether a path is of an object store: it is written whole there, and ArrayRecord cannot read it in place."""
    return "://" in path


def require_local(directory: str) -> None:
    """Refuses to read rows from an object store.

    Raises:
      FlanError: the directory is on one.
    """
    if remote(directory):
        raise errors.FlanError(
            f"packed cache {directory}: rows are read from local or mounted files; mount the bucket (gcsfuse), or copy it"
        )


def temporary_name(path: str) -> str:
    """Where a file is written before it is put in place; two writers of the same file, on any machine, do not meet."""
    folder, name = os.path.split(path)
    if remote(path):
        folder = tempfile.gettempdir()
    return os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{name}")


def put_in_place(temporary: str, path: str) -> None:
    """Renames a finished file, once its content has reached the disk; to an object store it is copied."""
    if remote(path):
        epath.Path(temporary).copy(path, overwrite=True)
        os.remove(temporary)
        return
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def listing(directory: str) -> list[str]:
    """The names in a directory, sorted; none where it does not exist."""
    path = epath.Path(directory)
    return sorted(child.name for child in path.iterdir()) if path.exists() else []
