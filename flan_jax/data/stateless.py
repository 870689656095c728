"""Random choices as pure functions of integers: no generator, no order of calls, nothing to checkpoint.

Every choice of the data path (which task, which row, which template) is a hash of what it is for: (seed, task, row,
epoch ...). The same key gives the same choice in any process, on any host count, at any time.
"""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_FEISTEL_ROUNDS = 4


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


def permute(index: np.ndarray, size: int, key: int | np.ndarray) -> np.ndarray:
    """Returns where a keyed permutation of `range(size)` sends each index, without ever building the permutation.

    A four-round Feistel network on the next even power of two, walked until it lands below `size` (four tries at most on
    average). `sorted(permute(np.arange(10), 10, 7)) == list(range(10))`.

    Args:
      index: int64 array [N], each in `[0, size)`.
      size: how many elements are permuted.
      key: one key for all, or an array [N] (rows of different epochs are permuted differently).

    Returns:
      int64 array [N].
    """
    if size <= 1:
        return np.zeros_like(index)
    half = (int(size - 1).bit_length() + 1) // 2
    mask = np.uint64((1 << half) - 1)
    result = np.asarray(index, np.int64).copy()
    keys = np.broadcast_to(np.asarray(key), result.shape)
    todo = np.arange(result.size)
    while todo.size:
        value = result[todo].astype(np.uint64)
        left, right = value >> np.uint64(half), value & mask
        for number in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (hash64(keys[todo], number, right) & mask)
        result[todo] = ((left << np.uint64(half)) | right).astype(np.int64)
        todo = todo[result[todo] >= size]
    return result
