"""One 32-bit number per array, so that a checkpoint that reads back differently is noticed.

Orbax's array files carry no checksum of the array data (only of the index above it): a flipped bit in a file of the
right length restores without an error. The fingerprint is taken of the arrays on the device before a save and again
after a restore, so it covers the whole way and does not depend on how the arrays are sharded.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np


def name_of(path: tuple) -> str:
    """Returns a leaf's name as T5X writes it: `target.encoder.layers_0.attention.query.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree) -> dict[str, jax.Array]:
    """Returns the leaves of a tree by dotted name, in tree order."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def fingerprints(leaves: Iterable[tuple[str, jax.Array]]) -> dict[str, int]:
    """Returns name -> fingerprint. All are dispatched before the first is waited for; one compilation a shape."""
    pending = {name: _fingerprint(leaf) for name, leaf in leaves}
    return {name: int(value) for name, value in jax.device_get(pending).items()}


def of_part(value: np.ndarray, shape: tuple[int, ...], layer: int | None = None) -> int:
    """Returns what a part on the host adds to an array's fingerprint: the whole, or one index along axis 1.

    The sum of `_fingerprint` taken row by row: a weight is that of its row's start plus twice the place in the row.

    Args:
      value: the part, without axis 1 if `layer` is given; then of elements of up to 4 bytes.
      shape: of the whole array.
      layer: its index along axis 1; None where the part is the whole.
    """
    width = min(value.dtype.itemsize, 4)
    words = np.ascontiguousarray(value).reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[width])
    # Numbers that lie together in the whole array, how far apart such rows are there, and where the first begins.
    row = math.prod(shape[2:]) if layer is not None else math.gcd(words.size, 2**20)
    apart, first = (row * shape[1], row * layer) if layer is not None else (row, 0)
    rows = words.reshape(-1, max(row, 1))
    place_1xR = np.arange(rows.shape[1], dtype=np.uint32)[None, :] * np.uint32(2) + np.uint32(1)
    at_once = max(2**20 // rows.shape[1], 1)
    total = 0
    for begin in range(0, len(rows), at_once):
        part = rows[begin : begin + at_once].astype(np.uint32)
        start_N = (
            np.arange(begin, begin + len(part), dtype=np.uint64) * np.uint64(apart) + np.uint64(first)
        ) * np.uint64(2)
        part *= place_1xR + start_N.astype(np.uint32)[:, None]
        total += int(np.sum(part, dtype=np.uint32))
    return total % 2**32


@jax.jit
def _fingerprint(x: jax.Array) -> jax.Array:
    """Sum over elements of bits * (2 * index + 1), modulo 2**32.

    Every weight is odd, hence invertible modulo 2**32: changing any one element changes the sum. Weights differ by
    position, so that exchanged elements are seen. Integer addition is associative: any sharding gives the same number.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    width = min(x.dtype.itemsize, 4)
    # A 64-bit element becomes a trailing axis of two 32-bit words.
    words = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width]).astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        index = index + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    return jnp.sum(words * (index * np.uint32(2) + np.uint32(1)), dtype=jnp.uint32)
