"""Random choices as pure functions of integers: no generator, no order of calls, nothing to checkpoint.

Every choice of the data path (which task, which row, which template) is a hash of what it is for: (seed, task, row,
epoch ...). The same key gives the same choice in any process, on any host count, at any time.
"""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_FEISTEL_ROUNDS = 6  # with 4, the places that an element of 3 to 6 is sent to are not equally likely


def name_key(name: str) -> int:
    """Returns a stable 32-bit integer for a name (Python's own `hash` changes from run to run)."""
    return zlib.crc32(name.encode("utf-8"))


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """Hashes integers, broadcast against each other, to uniform 64-bit integers (the SplitMix64 finaliser, chained).

    `hash64(1, 2)` differs from `hash64(2, 1)`; arrays hash element by element.
    """
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        for key in keys:
            mixed = np.asarray(key).astype(np.uint64) + _GOLDEN + state
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
            state = mixed ^ (mixed >> np.uint64(31))
    return np.asarray(state)


def below(limit: int | np.ndarray, *keys: int | np.ndarray) -> np.ndarray:
    """Returns integers uniform on `[0, limit)`; the bias of the remainder is under `limit / 2**64`."""
    return (hash64(*keys) % np.asarray(limit).astype(np.uint64)).astype(np.int64)


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Returns floats uniform on `[0, 1)`, from the top 53 bits of the hash."""
    return (hash64(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: int | np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """Returns where a keyed permutation of `range(size)` sends each index, without ever building the permutation.

    A Feistel network on the next square number m * m, adding modulo m, walked until it lands below `size`: one try
    nearly always, since m * m exceeds `size` by 2 * sqrt(size) at most.
    `sorted(permute(np.arange(10), 10, 7)) == list(range(10))`.

    Args:
      index: int64 array [N], each in `[0, size)`.
      size: how many elements are permuted, at least 1: one number for all, or an array [N] of one under 2**52 for each.
      key: one key for all, or an array [N] (rows of different epochs are permuted differently).

    Returns:
      int64 array [N].
    """
    result = np.array(index, np.int64)
    sizes = np.broadcast_to(np.asarray(size, np.int64), result.shape)
    sides = np.sqrt(sizes - 1).astype(np.int64) + 1
    keys = np.broadcast_to(np.asarray(key), result.shape)
    todo = np.arange(result.size)
    while todo.size:
        side = sides[todo]
        left, right = np.divmod(result[todo], side)
        for number in range(_FEISTEL_ROUNDS):
            left, right = right, (left + below(side, keys[todo], number, right)) % side
        result[todo] = left * side + right
        todo = todo[result[todo] >= sizes[todo]]
    return result
