"""What the processes of one run tell each other, and arrays that lie on the devices of all of them."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flan_jax import errors


def first() -> bool:
    """Whether this is process 0, which alone writes files."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Returns the JSON values that all processes give, by process index. Every process calls it, at the same point."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Arrays that are gathered have one shape: the sizes first, then everybody's bytes at the largest.
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(mine.size))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: mine.size] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def from_first(make: Callable[[], Any]) -> Any:
    """What process 0 makes, in every process: it alone reads and writes files. Every process calls it, at the same point.

    Args:
      make: called in process 0; returns JSON.

    Raises:
      FlanError: in every process, where `make` raises one in process 0.
    """
    if jax.process_count() == 1:
        return make()
    from jax.experimental import multihost_utils

    said: dict[str, Any] = {}
    if first():
        try:
            said = {"made": make()}
        except errors.FlanError as error:
            said = {"error": str(error)}
    mine = np.frombuffer(json.dumps(said).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(mine.size)))
    padded = np.zeros(size, np.uint8)
    if first():
        padded[:] = mine
    said = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes())
    if "error" in said:
        raise errors.FlanError(said["error"])
    return said["made"]


def agree(about: str, value: Any) -> None:
    """Returns in every process if all give the same JSON value. Every process calls it, at the same point.

    Raises:
      FlanError: in every process, naming those that do not.
    """
    mine, *others = gather([about, value])
    apart = [(process, other) for process, other in enumerate(others, start=1) if other != mine]
    if apart:
        said = "; ".join(f"process {process} has {what}: {given}" for process, (what, given) in [(0, mine), *apart])
        raise errors.FlanError(f"the processes are not asked the same: {said[:1000]}; is their data the same?")


def put(arrays: Any, where: jax.sharding.Sharding) -> Any:
    """Arrays of the host, the same in every process, as global ones: each process puts its devices' parts of them."""
    if where.is_fully_addressable:
        return jax.device_put(arrays, where)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, where, lambda part: x[part]), arrays)


def fetch(arrays: Any) -> Any:
    """The whole of arrays that may lie on the devices of all processes, as NumPy arrays in each of them.

    Every process calls it, at the same point: what follows (texts, stop strings) is then the same in all.
    """

    def whole(x: Any) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, arrays)
