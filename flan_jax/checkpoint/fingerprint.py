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
