"""Endless streams of tokenised training examples, read by position.

Position p of a task's stream is fixed by (seed, task, p). A stream of flan_jax's own tasks reads any position at once;
one over a foreign seqio task has to read its way there, and says how long that took.
"""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from flan_jax import errors
from flan_jax.data import seqio_tasks, vocabulary

logger = logging.getLogger(__name__)


class Stream(Protocol):
    """Examples by position."""

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        """Returns the examples at int64 positions [N], in that order."""
        ...

    def seek(self, first: Mapping[int, int], lanes: int) -> None:
        """Announces the readers: lane l reads positions l, l + lanes, ... from `first[l]` on, once; others none."""
        ...


class FlanStream:
    """The stream of one of flan_jax's tasks."""

    def __init__(
        self,
        rows: seqio_tasks.TaskRows,
        tokenizer: vocabulary.Tokenizer,
        lengths: dict[str, int],
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self.tokenizer, self.lengths = tokenizer, lengths
        self.rows, self.seed, self.shuffle = rows, seed, shuffle

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        return read_together([(self, positions)])[0]

    def seek(self, first: Mapping[int, int], lanes: int) -> None:
        """Nothing to do: any position is read at once."""


def read_together(requests: Sequence[tuple[Stream, np.ndarray]]) -> list[list[seqio_tasks.Tokenised]]:
    """Reads positions of several streams of one mixture: they share seed, order, tokenizer and lengths.

    flan_jax's own are drawn and tokenised in one call each: 64 examples of sixty tasks at once take a third of the time of
    sixty small calls.
    """
    found: list[list[seqio_tasks.Tokenised]] = [[] for _ in requests]
    ours = [(i, stream, positions) for i, (stream, positions) in enumerate(requests) if isinstance(stream, FlanStream)]
    if ours:
        _, one, _ = ours[0]
        drawn = seqio_tasks.draw_together([(stream.rows, at) for _, stream, at in ours], one.seed, one.shuffle)
        examples = iter(seqio_tasks.tokenise(list(itertools.chain(*drawn)), one.tokenizer, one.lengths))
        for i, _, positions in ours:
            found[i] = list(itertools.islice(examples, len(positions)))
    for i, (stream, positions) in enumerate(requests):
        if not isinstance(stream, FlanStream):
            found[i] = stream.read(positions)
    return found


class SeqioStream:
    """The stream of a task out of seqio's registry: shuffled and repeated by seqio, read from the front."""

    def __init__(self, task: Any, split: str, lengths: dict[str, int], seed: int, shuffle: bool = True) -> None:
        """Reads a first example, because seqio would look for ever for one in a task whose filters drop every row.

        Raises:
          FlanError: there is none.
        """
        self._task, self._split, self._lengths, self._seed, self._shuffle = task, split, lengths, seed, shuffle
        self._first: Mapping[int, int] | None = None
        self._lanes = 1
        if next(self._open(num_epochs=1), None) is None:
            raise errors.FlanError(
                f"seqio task {task.name!r} is empty: its preprocessors drop every row of split {split!r}"
            )
        self._restart()

    def _open(self, num_epochs: int | None) -> Iterator[dict[str, Any]]:
        dataset = self._task.get_dataset(
            sequence_length=self._lengths,
            split=self._split,
            shuffle=self._shuffle,
            seed=self._seed,
            num_epochs=num_epochs,
        )
        return dataset.as_numpy_iterator()

    def _restart(self) -> None:
        self._elements = self._open(num_epochs=None)
        self._next = 0
        # Lanes read the stream a little out of step: what one lane has passed over, another is about to ask for.
        self._passed: dict[int, seqio_tasks.Tokenised] = {}

    def seek(self, first: Mapping[int, int], lanes: int) -> None:
        self._first, self._lanes = dict(first), lanes

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        wanted = [int(position) for position in positions]
        if any(position < self._next and position not in self._passed for position in wanted):
            self._restart()
        ahead = max(wanted) - self._next
        started = time.monotonic()
        while self._next <= max(wanted):
            element = next(self._elements)
            if self._is_ahead(self._next):
                self._passed[self._next] = _trimmed(element, self._lengths)
            self._next += 1
        if ahead > 10_000:
            seconds = time.monotonic() - started
            logger.info("task %s: skipped %d examples in %.1f s to resume", self._task.name, ahead, seconds)
        return [self._passed.pop(position) for position in wanted]

    def _is_ahead(self, position: int) -> bool:
        """Whether a lane of this process will ask for it; others would be kept for ever."""
        if self._first is None:
            return True
        first = self._first.get(position % self._lanes)
        return first is not None and position >= first


def _trimmed(element: Mapping[str, Any], lengths: dict[str, int]) -> seqio_tasks.Tokenised:
    def ids(name: str) -> list[int]:
        return np.asarray(element.get(name, ()), np.int64)[: lengths[name]].tolist()

    return seqio_tasks.Tokenised(ids("inputs"), ids("targets"))
