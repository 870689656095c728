"""T5X's two checkpoint layouts, read one tensor at a time and without flax, Orbax or a device.

Legacy, `checkpoint_<step>/`:

    checkpoint                               msgpack: {'version', 'optimizer': {'target': ..., 'state': ...}}; a leaf is an
                                             array, or a TensorStore spec that names a folder beside it
    target.encoder....query.kernel/          zarr v2, gzip

Orbax, `checkpoint_<step>/state/`:

    _METADATA                                JSON: the names of all arrays
    manifest.ocdbt, d/, ocdbt.process_*/     one OCDBT database of all zarr arrays; without OCDBT, a folder each

The names are the same in both: `target.` and the path of a parameter, `state.step`, and `state.param_states.`, the path
and the slot of an optimizer. What writes them is in `t5x_write`.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts
from etils import epath

from flan_jax import errors
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Stored

INDEX = "checkpoint"  # the msgpack file of the legacy layout
ORBAX_INDEX = "state/_METADATA"
# flax's codes of msgpack extensions.
NDARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")


def is_legacy(path: epath.Path) -> bool:
    return (path / INDEX).is_file()


def is_orbax(path: epath.Path) -> bool:
    return (path / ORBAX_INDEX).exists()


@dataclasses.dataclass(frozen=True)
class _Packed:
    """An extension of msgpack, not yet an array: only there is its name known."""

    code: int
    data: bytes


class Reader:
    """A T5X checkpoint in either layout. Opening it reads the index and every array's metadata, no array data.

    Args:
      path: the `checkpoint_<step>` directory, local or gs://.

    Attributes:
      path: the same, absolute.
      tensors: every array by its name.

    Raises:
      FlanError: there is no T5X checkpoint.
      BrokenCheckpoint: an index or an array's metadata cannot be read.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = tensors_lib.absolute(path)
        self._inside: dict[str, np.ndarray] = {}
        self._arrays: dict[str, Any] = {}
        self._files: dict[str, str] = {}
        # One context, so that an OCDBT database is opened once for all its arrays.
        self._context = ts.Context()
        if is_orbax(self.path):
            specs = self._orbax_specs()
        elif is_legacy(self.path):
            specs = self._legacy_specs()
        else:
            raise errors.FlanError(f"{self.path} is not a T5X checkpoint: it has neither {INDEX} nor {ORBAX_INDEX}")
        opening = {name: ts.open(spec, context=self._context, open=True) for name, spec in specs.items()}
        for name, future in opening.items():
            try:
                self._arrays[name] = future.result()
            except Exception as error:  # TensorStore's errors are ValueErrors and bare Exceptions.
                raise self._broken(name, f"cannot be read: {tensors_lib.first_line(error)}") from error
        self.tensors: Mapping[str, Stored] = {
            name: Stored(tuple(array.shape), self._dtype(name), self._files[name])
            for name, array in {**self._arrays, **self._inside}.items()
        }

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns an array, or a part of it; see `tensors.Source`."""
        if name in self._inside:
            return self._inside[name][index]
        array = self._arrays[name]
        absent = self._absent_chunks(name)
        if absent:
            # A missing chunk would read as zeros: T5X and Orbax store chunks of zeros as well.
            raise self._broken(name, f"{absent[0]} is missing ({len(absent)} of its files)")
        try:
            # A step of None, as JAX writes slices, is a step of 1.
            return array[tuple(slice(part.start, part.stop) for part in index)].read().result()
        except MemoryError:
            raise
        except Exception as error:
            raise self._broken(name, f"cannot be read: {tensors_lib.first_line(error)}") from error

    def layers_at_once(self, name: str) -> int:
        """Returns how many layers a chunk of the array holds."""
        if name in self._inside:
            return self._inside[name].shape[1]
        return self._arrays[name].chunk_layout.read_chunk.shape[1]

    def _broken(self, name: str, problem: str) -> tensors_lib.BrokenCheckpoint:
        return tensors_lib.broken(self.path, name, self._files[name], problem)

    def _dtype(self, name: str) -> np.dtype:
        return self._inside[name].dtype if name in self._inside else self._arrays[name].dtype.numpy_dtype

    def _absent_chunks(self, name: str) -> list[str]:
        """The chunks of a zarr v2 array that are not there, where each is a file of its own."""
        array = self._arrays[name]
        spec = array.spec().to_json()
        if spec["driver"] != "zarr" or spec["kvstore"]["driver"] == "ocdbt":
            return []
        grid = [math.ceil(n / c) for n, c in zip(array.shape, array.chunk_layout.read_chunk.shape, strict=True)]
        separator = spec["metadata"].get("dimension_separator", ".")
        try:
            there = {key.decode() for key in array.kvstore.list().result()}
        except Exception as error:
            raise self._broken(name, f"cannot be read: {tensors_lib.first_line(error)}") from error
        # A scalar's one chunk is called 0.
        wanted = (separator.join(map(str, at)) or "0" for at in np.ndindex(*grid))
        return [chunk for chunk in wanted if chunk not in there]

    # The Orbax layout.

    def _orbax_specs(self) -> dict[str, dict[str, Any]]:
        index = self.path / ORBAX_INDEX
        try:
            content = json.loads(index.read_text())
            names = [
                ".".join(str(key["key"]) for key in entry["key_metadata"])
                for entry in content["tree_metadata"].values()
                if entry["value_metadata"].get("value_type") in _ARRAYS
            ]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise tensors_lib.BrokenCheckpoint(
                f"checkpoint {self.path}: {index}: cannot be read: {tensors_lib.first_line(error)}"
            ) from error
        if not names:
            raise tensors_lib.BrokenCheckpoint(f"checkpoint {self.path}: {index}: it names no array")
        ocdbt, driver = content.get("use_ocdbt", True), "zarr3" if content.get("use_zarr3") else "zarr"
        state = self.path / "state"
        self._files.update({name: str(state if ocdbt else state / name) for name in names})
        base = kvstore(state)
        return {
            name: {
                "driver": driver,
                "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"} if ocdbt else kvstore(state / name),
            }
            for name in names
        }

    # The legacy layout.

    def _legacy_specs(self) -> dict[str, dict[str, Any]]:
        """Reads the index: arrays inside it go to `_inside`, the specs of others are returned."""
        index = self.path / INDEX
        try:
            content = msgpack.unpackb(index.read_bytes(), ext_hook=_Packed, raw=False)
            optimizer = content["optimizer"]
            leaves = _leaves({"target": optimizer["target"], "state": optimizer.get("state", {})})
        except MemoryError:
            raise
        except Exception as error:  # msgpack's errors have no common base, and bytes that were altered can be anything.
            raise tensors_lib.BrokenCheckpoint(
                f"checkpoint {self.path}: {index}: not an index of T5X: {tensors_lib.first_line(error)}"
            ) from error
        specs = {}
        for name, leaf in leaves.items():
            if isinstance(leaf, Mapping) and _CHUNKED not in leaf:
                specs[name] = self._legacy_spec(name, leaf)
                continue
            self._files[name] = str(index)
            try:
                self._inside[name] = _array(leaf)
            except Exception as error:
                raise self._broken(name, f"not an array: {tensors_lib.first_line(error)}") from error
        if not any(name.startswith("target.") for name in leaves):
            raise tensors_lib.BrokenCheckpoint(f"checkpoint {self.path}: {index}: it names no parameter")
        return specs

    def _legacy_spec(self, name: str, leaf: Mapping[str, Any]) -> dict[str, Any]:
        """A spec of ours from T5X's, of which folder, shape and dtype count: nothing else is passed on."""
        self._files[name] = str(self.path / INDEX)
        while leaf.get("driver") == "cast":  # how T5X notes that it stored another dtype than it trained
            leaf = leaf["base"]
        folder = str((leaf.get("kvstore") or {}).get("path", "")).rstrip("/")
        # Relative, and no deeper than the checkpoint: the kvstore of a checkpoint from gs:// names a bucket of no meaning.
        if leaf.get("driver") != "zarr" or not folder or {"..", ""} & set(folder.split("/")):
            raise self._broken(name, f"not a zarr array in a folder of the checkpoint: {str(dict(leaf))[:200]}")
        self._files[name] = str(self.path / folder)
        spec: dict[str, Any] = {"driver": "zarr", "kvstore": kvstore(self.path / folder)}
        # What the index says of an array is held against the array's own metadata when it is opened.
        if isinstance(leaf.get("metadata"), Mapping) and "shape" in leaf["metadata"]:
            spec["metadata"] = {"shape": leaf["metadata"]["shape"]}
        return spec | ({"dtype": leaf["dtype"]} if "dtype" in leaf else {})


def unreadable(path: str | os.PathLike, names: Iterable[str], error: BaseException) -> str:
    """Returns what of a checkpoint cannot be read, which Orbax does not say when it fails: one such array and its file.

    Args:
      path: the `checkpoint_<step>` directory.
      names: of the arrays that were asked for. They are read once more, one at a time, until one cannot be.
      error: what reading them ended in; arrays that it or its cause names come first.
    """
    told = f"{error} {error.__cause__}"
    try:
        reader = Reader(path)
        for name in sorted(names, key=lambda name: name not in told):
            try:
                reader.read(name)
            except tensors_lib.BrokenCheckpoint:
                return f"tensor {name}: {reader.tensors[name].file}: array data"
    except errors.FlanError as refused:
        # The array's metadata: the reader names the array.
        named = re.search(r": (tensor \S+: \S+): ", str(refused))
        return f"{named[1]}: array data" if named else "array data"
    return "array data"


def kvstore(folder: epath.Path) -> dict[str, Any]:
    """TensorStore's spec of a folder.

    Raises:
      FlanError: neither a local path nor gs://.
    """
    text = os.fspath(folder)
    if text.startswith("gs://"):
        bucket, _, inside = text.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{inside}/"}
    if "://" in text:
        raise errors.FlanError(f"{text}: expected a local path or gs://")
    return {"driver": "file", "path": f"{text}/"}


def _leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Leaves of the index by dotted name; None, where a model has nothing, is none."""
    if isinstance(tree, Mapping) and "driver" not in tree and _CHUNKED not in tree:
        found: dict[str, Any] = {}
        for key, child in tree.items():
            found |= _leaves(child, f"{name}.{key}" if name else str(key))
        return found
    return {} if tree is None else {name: tree}


def _array(leaf: Any) -> np.ndarray:
    """The array of a leaf that is inside the index; one beyond 1 GiB is cut in pieces by flax.

    Raises:
      Exception: any, if it is none.
    """
    if isinstance(leaf, Mapping):
        shape = [leaf["shape"][str(axis)] for axis in range(len(leaf["shape"]))]
        return np.concatenate([_array(leaf["chunks"][str(at)]) for at in range(len(leaf["chunks"]))]).reshape(shape)
    if not isinstance(leaf, _Packed):
        return np.asarray(leaf)
    if leaf.code not in (NDARRAY, _SCALAR):
        raise ValueError(f"an extension of code {leaf.code}")
    shape, dtype, data = msgpack.unpackb(leaf.data, raw=True)
    return np.frombuffer(data, tensors_lib.parse_dtype(dtype.decode())).reshape(shape)
