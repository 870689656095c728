"""Writes T5X's two checkpoint layouts (see `t5x_files`) one tensor at a time, so that no model need fit in memory.

Both are written with TensorStore alone: Orbax takes whole trees. A test holds what the Orbax layout says of itself
against what Orbax writes for the same tree.
"""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts
from etils import epath

from flan_jax.checkpoint import fingerprint, t5x_files
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Stored

_CHUNK_BYTES = 64 * 2**20  # T5X's limit
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"


class _Arrays:
    """Zarr arrays that are created when something is first written to them."""

    def __init__(self, specs: Mapping[str, Stored], stacked: set[str], compressor: Mapping[str, Any]) -> None:
        """Args:
        specs: shape and dtype of each.
        stacked: those that hold layers along axis 1 and are written one layer at a time.
        compressor: as zarr's metadata names it.
        """
        self.specs, self._stacked, self._compressor = specs, stacked, dict(compressor)
        self._open: dict[str, Any] = {}
        # Whoever renames the folder syncs it once before; a sync for every chunk takes most of the time.
        self._context = ts.Context({"file_io_sync": False})

    def write(self, name: str, value: np.ndarray, layer: int | None, kvstore: dict[str, Any]) -> None:
        if name not in self._open:
            self._open[name] = ts.open(self._spec(name, kvstore), context=self._context).result()
        array = self._open[name]
        (array if layer is None else array[:, layer]).write(value).result()
        if layer is None:
            del self._open[name]

    def metadata(self, name: str) -> dict[str, Any]:
        return {
            "shape": list(self.specs[name].shape),
            "chunks": chunks(self.specs[name], name in self._stacked),
            "compressor": self._compressor,
        }

    def _spec(self, name: str, kvstore: dict[str, Any]) -> dict[str, Any]:
        dtype = self.specs[name].dtype
        return {
            "driver": "zarr",
            "kvstore": kvstore,
            "metadata": {**self.metadata(name), "dtype": "bfloat16" if dtype.name == "bfloat16" else dtype.str},
            "create": True,
            "store_data_equal_to_fill_value": True,
        }


def chunks(spec: Stored, stacked: bool) -> list[int]:
    """The shape of an array's chunks: 64 MiB at most, and of stacked layers one each, so that each is read by itself.

    The largest axis is halved until a chunk is small enough.
    """
    shape = list(spec.shape)
    if stacked:
        shape[1] = 1
    while math.prod(shape) * spec.dtype.itemsize > _CHUNK_BYTES:
        largest = shape.index(max(shape))
        shape[largest] = -(-shape[largest] // 2)
    return shape


class LegacySink:
    """Writes the legacy layout.

    Args:
      folder: an empty one.
      specs: shape and dtype of every tensor, by its dotted name.
      stacked: the tensors of stacked layers.
    """

    def __init__(self, folder: epath.Path, specs: Mapping[str, Stored], stacked: set[str]) -> None:
        self._folder, self._specs = folder, specs
        self._arrays = _Arrays(specs, stacked, {"id": "gzip", "level": 1})
        self._inside: dict[str, np.ndarray] = {}

    def write(self, name: str, value: np.ndarray, layer: int | None = None) -> None:
        value = np.asarray(value, self._specs[name].dtype)
        if _is_inside(name, self._specs[name]):
            self._inside[name] = value
        else:
            self._arrays.write(name, value, layer, t5x_files.kvstore(self._folder / name))

    def close(self) -> None:
        leaves = {tuple(name.split(".")): self._leaf(name) for name in self._specs}
        index = {"version": 3, "optimizer": tensors_lib.nested(leaves)}
        (self._folder / t5x_files.INDEX).write_bytes(bytes(msgpack.packb(index, use_bin_type=True) or b""))

    def _leaf(self, name: str) -> Any:
        if name in self._inside:
            value = self._inside[name]
            packed = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
            return msgpack.ExtType(t5x_files.NDARRAY, packed)
        return {
            "driver": "zarr",
            "dtype": self._specs[name].dtype.name,
            "kvstore": {"driver": "file", "path": f"{name}/"},
            "metadata": self._arrays.metadata(name),
        }


def _is_inside(name: str, spec: Stored) -> bool:
    """Whether T5X keeps an array in the index: what it does not partition."""
    return name.startswith("state.") and (name.endswith((".v_row", ".v_col")) or spec.shape in ((), (1,)))


class OrbaxSink:
    """Writes the Orbax layout, with the fingerprints by which `manager` notices a checkpoint that was altered.

    Args:
      folder: an empty one.
      specs: shape and dtype of every tensor, by its dotted name.
      stacked: the tensors of stacked layers.
      notes: JSON that the checkpoint says about itself.
    """

    def __init__(
        self, folder: epath.Path, specs: Mapping[str, Stored], stacked: set[str], notes: Mapping[str, Any]
    ) -> None:
        self._folder, self._specs, self._notes = folder, specs, dict(notes)
        self._arrays = _Arrays(specs, stacked, {"id": "zstd", "level": 1})
        self._marks = dict.fromkeys(specs, 0)
        self._began = time.time_ns()
        (folder / "state").mkdir()
        self._base = t5x_files.kvstore(folder / "state")

    def write(self, name: str, value: np.ndarray, layer: int | None = None) -> None:
        spec = self._specs[name]
        value = np.asarray(value, spec.dtype)
        self._marks[name] = (self._marks[name] + fingerprint.of_part(value, spec.shape, layer)) % 2**32
        self._arrays.write(name, value, layer, {"driver": "ocdbt", "base": self._base, "path": f"{name}/"})

    def close(self) -> None:
        entries = {}
        for name, spec in self._specs.items():
            keys = name.split(".")
            entries[str(tuple(keys))] = {
                "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # 2: a key of a dict
                "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": spec.shape},
            }
        state = self._folder / "state"
        tree = {"tree_metadata": entries, "use_ocdbt": True, "use_zarr3": False}
        tree |= {"store_array_data_equal_to_fill_value": True, "custom_metadata": None}
        (state / "_METADATA").write_text(json.dumps(tree))
        about = {
            "item_handlers": {"state": _HANDLER},
            "metrics": {},
            "performance_metrics": {},
            "init_timestamp_nsecs": self._began,
            "commit_timestamp_nsecs": time.time_ns(),
            "custom_metadata": {**self._notes, "fingerprints": self._marks},
        }
        (self._folder / "_CHECKPOINT_METADATA").write_text(json.dumps(about))
        for folder in (state, self._folder):
            (folder / "commit_success.txt").write_text("Checkpoint commit was successful\n")
