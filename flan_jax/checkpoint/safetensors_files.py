"""Reads and writes safetensors files one tensor at a time.

The format: eight bytes with the header's length, little endian; the header, JSON of each tensor's dtype, shape and
place; the tensors' bytes, row-major, end to end. The safetensors package writes a file from tensors that are all in
memory, has no bfloat16 for NumPy, and does not say which tensor is cut off; tests hold both against it.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Stored

# The format's names of dtypes -> NumPy's; of those that it also has, no parameter of a float model is kept in one.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_NAMES = {numpy: name for name, numpy in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, as in the package


class File:
    """A safetensors file that is open for reading. Opening it reads the header and checks that all of it is there.

    Args:
      path: the file.
      checkpoint: what it is a part of, for messages.

    Attributes:
      tensors: every tensor by its name.

    Raises:
      BrokenCheckpoint: it is no safetensors file, or not all of one.
    """

    def __init__(self, path: pathlib.Path, checkpoint: Any) -> None:
        self._path, self._checkpoint = path, checkpoint
        try:
            self._size = path.stat().st_size
            header = self._header()
        except OSError as error:
            raise tensors_lib.BrokenCheckpoint(
                f"checkpoint {checkpoint}: {path}: cannot be read: {tensors_lib.first_line(error)}"
            ) from error
        self._places: dict[str, int] = {}
        self.tensors: dict[str, Stored] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                self._add(name, entry)
        self._check_extent()

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in its stored dtype."""
        stored = self.tensors[name]
        count = math.prod(stored.shape)
        try:
            # Not mapped into memory: what has been read is freed with the array.
            with open(self._path, "rb") as file:
                file.seek(self._start + self._places[name])
                value = np.fromfile(file, stored.dtype, count)
        except OSError as error:
            raise self._broken(name, f"cannot be read: {tensors_lib.first_line(error)}") from error
        if value.size != count:
            raise self._broken(name, f"cut off: {value.size} of {count} elements are there")
        return value.reshape(stored.shape)

    def _broken(self, name: str, problem: str) -> tensors_lib.BrokenCheckpoint:
        return tensors_lib.broken(self._checkpoint, name, self._path, problem)

    def _header(self) -> dict[str, Any]:
        problem = f"checkpoint {self._checkpoint}: {self._path}: not a safetensors file"
        with open(self._path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if self._size < 8 or not 2 <= length <= min(self._size - 8, _LONGEST_HEADER):
                raise tensors_lib.BrokenCheckpoint(
                    f"{problem}: it says that its header has {length} bytes; the file has {self._size}"
                )
            text = file.read(length)
        self._start = 8 + length
        try:
            header = json.loads(text)
        except ValueError as error:  # also of bytes that are not UTF-8
            raise tensors_lib.BrokenCheckpoint(f"{problem}: its header: {tensors_lib.first_line(error)}") from error
        if not isinstance(header, dict):
            raise tensors_lib.BrokenCheckpoint(f"{problem}: its header is no JSON object")
        return header

    def _add(self, name: str, entry: Any) -> None:
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sound = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and begin <= end
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(name, f"its header entry is {str(entry)[:100]}") from error
        if dtype not in DTYPES:
            raise self._broken(name, f"dtype {dtype!r} is not known; known: {', '.join(DTYPES)}")
        stored = Stored(tuple(shape), tensors_lib.parse_dtype(DTYPES[dtype]), str(self._path))
        if not sound or end - begin != stored.nbytes:
            raise self._broken(
                name, f"{dtype} {tuple(shape)} takes {stored.nbytes} bytes; its header gives bytes {begin} to {end}"
            )
        if self._start + end > self._size:
            raise self._broken(name, f"cut off: it ends at byte {self._start + end}, the file at {self._size}")
        self.tensors[name], self._places[name] = stored, begin

    def _check_extent(self) -> None:
        """Refuses gaps, overlaps and bytes that belong to no tensor: signs of a header that was altered."""
        at = 0
        # An empty tensor ends where it begins, before or behind another that begins there.
        for name in sorted(self._places, key=lambda name: (self._places[name], self.tensors[name].nbytes)):
            if self._places[name] != at:
                raise self._broken(name, f"it begins at byte {self._places[name]} of the data; expected {at}")
            at += self.tensors[name].nbytes
        if self._start + at != self._size:
            raise tensors_lib.BrokenCheckpoint(
                f"checkpoint {self._checkpoint}: {self._path}: its tensors end at byte {self._start + at}, the file at {self._size}"
            )


class Writer:
    """Writes a safetensors file whose tensors come in any order.

    Args:
      path: the file.
      specs: shape and dtype of every tensor.
    """

    def __init__(self, path: pathlib.Path, specs: Mapping[str, Stored]) -> None:
        # transformers refuses files that do not say this.
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at, self._places, self._specs = 0, {}, dict(specs)
        for name, spec in specs.items():
            self._places[name] = at
            header[name] = {
                "dtype": _NAMES[spec.dtype.name],
                "shape": list(spec.shape),
                "data_offsets": [at, at + spec.nbytes],
            }
            at += spec.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
        self._path, self._start = path, 8 + len(text)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(self._start + at)

    def write(self, name: str, value: np.ndarray) -> None:
        value = np.ascontiguousarray(value, self._specs[name].dtype)
        with open(self._path, "r+b") as file:
            file.seek(self._start + self._places[name])
            file.write(value.reshape(-1).view(np.uint8).data)
