"""Opening a checkpoint of any format for reading: its tensors, its model, and where each parameter lies."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from flan_jax import errors
from flan_jax.checkpoint import fingerprint, folders, hugging_face, t5x_files, t5x_tree
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Place
from flan_jax.models import api

FORMATS = ("t5x", "hf", "orbax")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint to read from.

    Attributes:
      kind: its format.
      reader: its tensors.
      config: its model.
      found: how the model was found.
      places: where each parameter is.
      stacked: whether its layers are stacked.
      marks: fingerprints that it was saved with, by tensor.
    """

    kind: str
    reader: tensors_lib.Source
    config: api.Config
    found: str
    places: Mapping[tuple[str, ...], Place]
    stacked: bool = False
    marks: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(stored.nbytes for stored in self.reader.tensors.values())


def detect(path: epath.Path) -> str:
    """The format of a checkpoint.

    Raises:
      FlanError: it is in none.
    """
    if not path.exists():
        raise folders.missing(path)
    if t5x_files.is_orbax(path):
        return "orbax"
    if t5x_files.is_legacy(path):
        return "t5x"
    if hugging_face.is_folder(path) or (path.is_dir() and (path / hugging_face.CONFIG).exists()):
        return "hf"
    raise folders.no_checkpoint(path)


def open_source(path: str | os.PathLike, kind: str = "auto", config: api.Config | None = None) -> Opened:
    """Opens a checkpoint for reading and finds out its model; see `convert`."""
    path = tensors_lib.absolute(path)
    seen = detect(path)
    if kind != "auto" and kind not in FORMATS:
        raise errors.unknown("format", kind, (*FORMATS, "auto"))
    if kind not in ("auto", seen):
        raise errors.FlanError(f"{path} is a checkpoint of format {seen!r}; given: {kind!r}")
    if seen == "hf":
        if config is not None:
            raise errors.FlanError(f"{path} says in its {hugging_face.CONFIG} what model it is; leave the model out")
        folder = hugging_face.Reader(path)
        found = f"read from {hugging_face.CONFIG}, {folder.family}"
        return Opened(seen, folder, folder.config, found, folder.places())
    reader = t5x_files.Reader(path)
    adapter, marks = _notes(path) if seen == "orbax" else (False, {})
    if adapter:
        raise errors.FlanError(f"{path} holds an adapter, not a model: flan merge makes one of it and its base")
    found = "as given"
    if config is None:
        config, found = t5x_tree.infer(reader.tensors, path)
    places = t5x_tree.places(config, reader.tensors, path)
    t5x_tree.check_tables(config, places, reader)
    return Opened(seen, reader, config, found, places, t5x_tree.stacked(reader.tensors), marks)


def _notes(path: epath.Path) -> tuple[bool, Mapping[str, int]]:
    """Whether a checkpoint in the Orbax layout is an adapter's, and the fingerprints that it was saved with."""
    try:
        notes = folders.notes(path)
        return "adapter" in notes, dict(notes.get("fingerprints", {}))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        file = path / "_CHECKPOINT_METADATA"
        raise tensors_lib.BrokenCheckpoint(
            f"checkpoint {path}: {file}: cannot be read: {tensors_lib.first_line(error)}"
        ) from error


def values(opened: Opened) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Every parameter in our layout and its stored dtype, in the order in which the source is read."""
    by_tensor: dict[str, list[tuple[tuple[str, ...], Place]]] = {}
    for at, place in opened.places.items():
        by_tensor.setdefault(place.tensor, []).append((at, place))
    for name, members in by_tensor.items():
        if members[0][1].layer is None:
            whole = read(opened, name)
            yield from ((at, place.to_ours(whole)) for at, place in members)
            continue
        shape, mark = opened.reader.tensors[name].shape, 0
        at_once = opened.reader.layers_at_once(name)
        in_layer = {place.layer: (at, place) for at, place in members}
        for first in range(0, len(in_layer), at_once):
            part = opened.reader.read(name, (slice(None), slice(first, min(first + at_once, len(in_layer)))))
            for layer in range(part.shape[1]):
                at, place = in_layer[first + layer]
                mark += fingerprint.of_part(part[:, layer], shape, first + layer) if name in opened.marks else 0
                yield at, place.to_ours(part[:, layer])
        _check_mark(opened, name, mark)


def on_demand(opened: Opened) -> api.Params:
    """The parameters as a tree of separate layers, float32, each read when it is asked for, and kept by nobody here.

    A model that is applied to it operation by operation needs memory for its largest tensors, not for all of them: Linen
    asks for a parameter where it is used, and holds the embedding alone. Fingerprints are not looked at.
    """
    return {name: _OnDemand(opened, node) for name, node in tensors_lib.nested(opened.places).items()}


class _OnDemand(Mapping[str, Any]):
    """A branch of the tree of `on_demand`; the trunk is a dict, since Linen asks for one."""

    def __init__(self, opened: Opened, node: Mapping[str, Any]) -> None:
        self._opened, self._node = opened, node

    def __getitem__(self, name: str) -> Any:
        child = self._node[name]
        if isinstance(child, Place):
            return jnp.asarray(value(self._opened, child), jnp.float32)
        return _OnDemand(self._opened, child)

    def __contains__(self, name: object) -> bool:
        return name in self._node  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._node)

    def __len__(self) -> int:
        return len(self._node)


def value(opened: Opened, place: Place) -> np.ndarray:
    """One parameter in our layout and its stored dtype; of stacked layers only what lies in a chunk with it is read."""
    if place.layer is None:
        return place.to_ours(opened.reader.read(place.tensor))
    part = opened.reader.read(place.tensor, (slice(None), slice(place.layer, place.layer + 1)))
    return place.to_ours(part[:, 0])


def read(opened: Opened, name: str) -> np.ndarray:
    """Reads a whole tensor, and refuses it if it is not what was saved."""
    value = opened.reader.read(name)
    _check_mark(opened, name, fingerprint.of_part(value, value.shape) if name in opened.marks else 0)
    return value


def _check_mark(opened: Opened, name: str, mark: int) -> None:
    if mark % 2**32 != opened.marks.get(name, 0):
        file = opened.reader.tensors[name].file
        raise tensors_lib.broken(opened.reader.path, name, file, "its data was altered after it was saved")
