"""What the readers and writers of all checkpoint formats share: how a tensor is described, placed, and refused."""

import contextlib
import dataclasses
import errno
import functools
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from etils import epath

from flan_jax import errors
from flan_jax.models import api

# Of parameters. Anything else in a checkpoint is a mistake, or quantised.
FLOATS = ("float32", "bfloat16", "float16")
_DETAILS = " See full TensorStore details"


class BrokenCheckpoint(errors.FlanError):
    """A checkpoint that is half written, truncated or altered, as opposed to one of another model."""


class StorageUnavailable(errors.FlanError):
    """A checkpoint that cannot be read now and may be as good as ever: the storage, the network or a permission is at fault."""


# How TensorStore and gRPC say so; TensorFlow's file systems say it by the name of their exception.
_UNAVAILABLE = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED)\b"
)
_UNAVAILABLE_NAMES = {
    "UnavailableError", "DeadlineExceededError", "PermissionDeniedError", "UnauthenticatedError", "ResourceExhaustedError",
    "AbortedError", "CancelledError",
}  # fmt: skip
# A file that is missing, or something else than a file, is damage.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor as a checkpoint holds it.

    Attributes:
      shape: its shape.
      dtype: its NumPy dtype, bfloat16 included.
      file: where it lies: what an error about it names.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str = ""

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter of our tree of separate layers lies in a checkpoint.

    Attributes:
      tensor: name of the tensor.
      shape: of the parameter, in our tree.
      layer: its index along axis 1 of a tensor of stacked layers; None for a tensor of its own.
      transposed: whether its axes are swapped.
    """

    tensor: str
    shape: tuple[int, ...]
    layer: int | None = None
    transposed: bool = False

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Our parameter from the stored one, without the axis of layers; heads that are kept apart are joined."""
        return value.T if self.transposed else value.reshape(self.shape)

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """The inverse, for what we write: heads are joined there as well."""
        return value.T if self.transposed else value


Places = Mapping[tuple[str, ...], Place]  # by path in our tree of separate layers


class Source(Protocol):
    """A checkpoint that is open for reading, one tensor at a time."""

    path: epath.Path
    tensors: Mapping[str, Stored]

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns a tensor, or a part of it, in its stored dtype.

        Raises:
          BrokenCheckpoint: naming tensor and file.
        """
        ...

    def layers_at_once(self, name: str) -> int:
        """Returns how many stacked layers cost as much to read as one."""
        ...


class Sink(Protocol):
    """A checkpoint that is being written into a folder of its own, one tensor at a time, in any order."""

    def write(self, name: str, value: np.ndarray, layer: int | None = None) -> None:
        """Writes a tensor, or one layer of a tensor of stacked layers, converted to the dtype it was announced with."""
        ...

    def close(self) -> None:
        """Writes what can only be written when all tensors are there."""
        ...


def absolute(path: str | os.PathLike) -> epath.Path:
    """Returns the path as Orbax and TensorStore need it: absolute, `~` expanded, gs:// and the like as they are."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


def broken(path: Any, name: str, file: Any, problem: str) -> BrokenCheckpoint:
    """Builds the error about one tensor of a checkpoint."""
    return BrokenCheckpoint(f"checkpoint {path}: tensor {name}: {file}: {problem}")


def is_unavailable(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the storage did not answer: another time it may."""
    while error is not None:
        if isinstance(error, OSError) and error.errno not in _DAMAGE:
            return True
        if any(kind.__name__ in _UNAVAILABLE_NAMES for kind in type(error).__mro__) or _UNAVAILABLE.search(str(error)):
            return True
        if any(int(number) not in _DAMAGE for number in re.findall(r"OS error (\d+)", str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False


def unreadable(path: Any, what: str, error: BaseException) -> BrokenCheckpoint | StorageUnavailable:
    """Builds the error about a checkpoint of which something cannot be read: damaged, or out of reach for now."""
    if is_unavailable(error):
        return StorageUnavailable(
            f"checkpoint {path}: {what} cannot be read now: {first_line(error)}; nothing was moved: "
            "the same command goes on from there when the storage answers"
        )
    return BrokenCheckpoint(f"checkpoint {path}: {what} cannot be read: {first_line(error)}")


@contextlib.contextmanager
def reading(path: Any, what: str) -> Iterator[None]:
    """Turns storage that does not answer inside into one line; whatever else is raised is left as it is."""
    try:
        yield
    except errors.FlanError:
        raise
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise unreadable(path, what, error) from error


def first_line(error: BaseException) -> str:
    """Returns what an error of another library says, without what it appends for its own authors."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if (
        _DETAILS in text
    ):  # Orbax tells the place within an array, and dumps its TensorStore; TensorStore said what is wrong.
        return first_line(error.__cause__) if error.__cause__ else text.partition(_DETAILS)[0]
    return re.sub(r"\s*\[(tensorstore_spec|source locations)=.*", "", text)[:500]


def is_float(stored: Stored) -> bool:
    return stored.dtype.name in FLOATS


def parse_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a name, bfloat16 included.

    Raises:
      TypeError: no dtype has this name.
    """
    return np.dtype(getattr(jnp, name) if name == "bfloat16" else name)


def check(
    path: Any,
    model: str,
    wanted: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, Stored],
    spare: Iterable[str] = (),
) -> None:
    """Refuses a checkpoint whose tensors are not those of the model.

    Args:
      path: the checkpoint, for the message.
      model: what model it is, for the message.
      wanted: shape of every tensor of the model by its name there.
      stored: every tensor of the checkpoint.
      spare: tensors that it may hold besides.

    Raises:
      FlanError: with the list of tensors that are missing, unknown, of another shape, or not floating point.
    """
    known = {*wanted, *spare}
    problems = {
        "missing": [name for name in wanted if name not in stored],
        "unknown": [name for name in stored if name not in known],
        "of another shape": [
            f"{name} is {tuple(stored[name].shape)}, expected {tuple(shape)}"
            for name, shape in wanted.items()
            if name in stored and tuple(stored[name].shape) != tuple(shape)
        ],
        f"of a dtype other than {', '.join(FLOATS)}": [
            f"{name} is {stored[name].dtype.name} in {stored[name].file}"
            for name in wanted
            if name in stored and not is_float(stored[name])
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{kind}: {listed(found)}" for kind, found in problems.items() if found)
        raise errors.FlanError(f"{path}: the tensors are not those of this {model} model; {told}")


@functools.lru_cache(maxsize=16)  # tracing a model takes a second
def parameters(config: api.Config) -> Mapping[tuple[str, ...], tuple[int, ...]]:
    """The shape of every parameter by its path in our tree of separate layers."""
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    # Of stacked layers one is traced, however many there are.
    for path, leaf in flat(api.abstract_params(dataclasses.replace(config, scan_layers=True))).items():
        if path[1:2] == ("layers",):
            shape = (leaf.shape[0], *leaf.shape[2:])
            found |= {(path[0], f"layers_{layer}", *path[2:]): shape for layer in range(leaf.shape[1])}
        else:
            found[path] = tuple(leaf.shape)
    return types.MappingProxyType(found)


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, so many at most."""
    ordered = sorted(names)
    more = f", ... ({len(ordered)} in all)" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def flat(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """A nested dict's leaves by their paths."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {at: leaf for name, child in tree.items() for at, leaf in flat(child, (*path, name)).items()}


def nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree
