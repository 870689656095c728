"""Endless streams of tokenised training examples, read by position.

Position p of a task's stream is fixed by (seed, task, p). A stream of flan_jax's own tasks reads any position at once; one
over a foreign seqio task has to read its way there, and says how long that took.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from flan_jax.data import seqio_tasks, vocabulary

logger = logging.getLogger(__name__)


class Stream(Protocol):
    """Examples by position."""

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        """Returns the examples at int64 positions [N], in that order."""
        ...


class FlanStream:
    """The stream of one of flan_jax's tasks."""

    def __init__(
        self, rows: seqio_tasks.TaskRows, tokenizer: vocabulary.Tokenizer, lengths: dict[str, int], seed: int
    ) -> None:
        self._rows, self._tokenizer, self._lengths, self._seed = rows, tokenizer, lengths, seed

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        return seqio_tasks.tokenise(self._rows.draw(positions, self._seed), self._tokenizer, self._lengths)


class SeqioStream:
    """The stream of a task out of seqio's registry: shuffled and repeated by seqio, read from the front."""

    def __init__(self, task: Any, split: str, lengths: dict[str, int], seed: int) -> None:
        self._task, self._split, self._lengths, self._seed = task, split, lengths, seed
        self._restart()

    def _restart(self) -> None:
        dataset = self._task.get_dataset(
            sequence_length=self._lengths, split=self._split, shuffle=True, seed=self._seed, num_epochs=None
        )
        self._elements = dataset.as_numpy_iterator()
        self._next = 0
        # Lanes read the stream a little out of step: what one lane has passed over, another is about to ask for.
        self._passed: dict[int, seqio_tasks.Tokenised] = {}

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        wanted = [int(position) for position in positions]
        if any(position < self._next and position not in self._passed for position in wanted):
            self._restart()
        ahead = max(wanted) - self._next
        started = time.monotonic()
        while self._next <= max(wanted):
            element = next(self._elements)
            self._passed[self._next] = _trimmed(element, self._lengths)
            self._next += 1
        if ahead > 10_000:
            seconds = time.monotonic() - started
            logger.info("task %s: skipped %d examples in %.1f s to resume", self._task.name, ahead, seconds)
        return [self._passed.pop(position) for position in wanted]


def _trimmed(element: dict[str, Any], lengths: dict[str, int]) -> seqio_tasks.Tokenised:
    def ids(name: str) -> list[int]:
        values: Iterable[Any] = element.get(name, ())
        return [int(value) for value in values][: lengths[name]]

    return seqio_tasks.Tokenised(ids("inputs"), ids("targets"))
