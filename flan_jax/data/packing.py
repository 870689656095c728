"""Packing by best fit over a bounded look-ahead, for all streams of an example at once.

A row starts with the oldest waiting example, so nothing waits for ever, and then takes, again and again, the waiting
example that fits in every stream and uses most of what is left (the dot product of its sizes and the room left, as shares
of a row). seqio's packer keeps one open row and closes it at the first example that
does not fit.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class BestFitPacker:
    """A pool of waiting examples, known by their sizes, out of which rows are made.

    Sizes 5, 4, 3, 3, 2, 1 into rows of 6 (one stream, all waiting at once) give rows of examples
    `[0, 5]`, `[1, 4]`, `[2, 3]`: each row starts with the oldest and ends full.
    """

    def __init__(self, capacity: Sequence[int], window: int) -> None:
        """Args:
        capacity: tokens of a row, one number a stream (inputs, targets).
        window: how many examples may wait at once; 256 fills 0.957 of the inputs of rows of 512 + 114 (see docs/LOG.md).
        """
        self._capacity = np.asarray(capacity, np.int64)
        self._window = window
        self._sizes = np.zeros((0, len(capacity)), np.int64)
        self._examples: list[object] = []

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def room(self) -> int:
        """How many more examples fit in the look-ahead."""
        return self._window - len(self._examples)

    @property
    def waiting(self) -> list[object]:
        """The waiting examples, oldest first."""
        return list(self._examples)

    def add(self, examples: Sequence[object], sizes: Sequence[Sequence[int]]) -> None:
        """Adds waiting examples.

        Args:
          examples: whatever stands for them (tokens, or a key to find them again).
          sizes: [N, streams] tokens of each; none may exceed the capacity.
        """
        if not examples:
            return
        added = np.asarray(sizes, np.int64)
        if (added > self._capacity).any():
            raise ValueError(
                f"an example of {added.max(axis=0).tolist()} tokens cannot fit rows of {self._capacity.tolist()}"
            )
        self._sizes = np.concatenate([self._sizes, added])
        self._examples.extend(examples)

    def row(self) -> list[object]:
        """Takes the examples of one row out of the pool; empty when nothing waits."""
        if not self._examples:
            return []
        taken = [0]
        sizes = self._sizes
        left = self._capacity - sizes[0]
        free = np.ones(len(sizes), bool)
        free[0] = False
        # Whole numbers, so that every machine packs alike: shares of a row, times the square of the capacities' product.
        per_token = (self._capacity.prod() // self._capacity) ** 2
        while True:
            fits = free & (sizes <= left).all(axis=1)
            if not fits.any():
                break
            # A stream counts the more, the more of it is left: with inputs of median 118 and targets of median 15 in rows of
            # 512 + 114 this fills 0.957 of the inputs, the largest inputs first 0.947, seqio's open row 0.740.
            best = int(np.where(fits, sizes @ (per_token * left), -1).argmax())
            taken.append(best)
            free[best] = False
            left = left - sizes[best]
        row = [self._examples[i] for i in taken]
        self._examples = [example for example, keep in zip(self._examples, free, strict=True) if keep]
        self._sizes = sizes[free]
        return row

    def oldest(self) -> list[object]:
        """Takes the oldest waiting example alone: the row of an unpacked stream."""
        self._sizes = self._sizes[1:]
        taken, self._examples = self._examples[:1], self._examples[1:]
        return taken


def pack(sizes: Iterable[Sequence[int]], capacity: Sequence[int], window: int = 256) -> Iterator[list[int]]:
    """Packs a finite sequence of examples, given by their sizes alone.

    `list(pack([[5], [4], [3], [3], [2], [1]], [6])) == [[0, 5], [1, 4], [2, 3]]`

    Args:
      sizes: of each example, one number a stream.
      capacity: tokens of a row, one number a stream.
      window: look-ahead, in examples.

    Yields:
      The indices of the examples of each row.
    """
    packer = BestFitPacker(capacity, window)
    numbered = enumerate(sizes)
    while True:
        chunk = list(itertools.islice(numbered, packer.room))
        packer.add([index for index, _ in chunk], [size for _, size in chunk])
        row = packer.row()
        if not row:
            return
        yield row  # type: ignore[misc]  # indices went in, so indices come out
