"""A thread that looks whether steps go on, and where they do not, says what every thread is doing.

A step that hangs waits for another host: one that has stopped shows in the stacks of the others.
"""

import contextlib
import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)


class Watchdog:
    """Dumps the stacks of all threads once for every step that takes longer than the limit."""

    def __init__(self, limit: float, *, who: str = "", file: Any = None) -> None:
        """Args:
        limit: seconds; 0 watches nothing.
        who: this process, for the message.
        file: where stacks go, with a file descriptor; stderr where None.
        """
        self._limit, self._who, self._file = limit, who, file
        self._step, self._since = 0, time.monotonic()
        self._pauses, self._told = 0, False
        self._stop = threading.Event()
        if limit > 0:
            threading.Thread(target=self._watch, daemon=True, name="flan-watchdog").start()

    def beat(self, step: int) -> None:
        """Says that a step has been given to the devices, and so that those before the last are done."""
        self._step, self._since, self._told = step, time.monotonic(), False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is watched: evaluations and checkpoints have other lengths."""
        self._pauses += 1
        try:
            yield
        finally:
            self.beat(self._step)
            self._pauses -= 1

    def close(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(self._limit / 4, 10.0)):
            waited = time.monotonic() - self._since
            if self._pauses or self._told or waited < self._limit:
                continue
            self._told = True
            file = self._file or sys.__stderr__
            logger.warning(
                "%sno step has followed step %d for %.0f s (limit %.0f s): the stacks of all threads",
                f"{self._who}: " if self._who else "",
                self._step,
                waited,
                self._limit,
            )
            if file is not None:
                faulthandler.dump_traceback(file, all_threads=True)
                file.flush()
