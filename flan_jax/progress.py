"""Progress of long work: a bar with time left on a terminal, log lines otherwise."""

import logging
import sys
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


_LOG_EVERY = 10.0  # seconds between log lines


class Progress:
    """Counts steps of something. Use as a context manager.

    On a terminal it is a bar with the time left; elsewhere a log line every ten seconds and at the end.
    """

    def __init__(self, what: str, total: int | None, *, start: int = 0, unit: str = "steps") -> None:
        """Args:
        what: what goes on, in one or two words.
        total: how many steps there will be, if that is known.
        start: steps done before.
        unit: the plural of what is counted.
        """
        self._what, self._total, self._done, self._start, self._unit = what, total, start, start, unit
        self._started = self._logged = time.monotonic()
        self._reported = start  # steps done at the last log line
        self._fields: dict[str, str] = {}
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich import console, progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=console.Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, completed=self._start, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._done > self._reported:
            self._log()

    def advance(self, steps: int = 1, **fields: Any) -> None:
        """Counts steps done; `fields` (loss=..., tokens_per_second=...) are shown beside the count."""
        self._done += steps
        self._fields.update(
            {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in fields.items()}
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=self._note())
        elif time.monotonic() - self._logged > _LOG_EVERY:
            self._log()

    def _note(self) -> str:
        return " ".join(f"{name} {value}" for name, value in self._fields.items())

    def _log(self) -> None:
        self._logged, self._reported = time.monotonic(), self._done
        seconds = self._logged - self._started
        left = ""
        if self._total and self._done > self._start:
            rest = seconds / (self._done - self._start) * (self._total - self._done)
            left = f", {_clock(rest)} left" if rest > 1 else ""
        of = f"/{self._total}" if self._total else ""
        logger.info(
            "%s: %d%s %s in %s%s %s", self._what, self._done, of, self._unit, _clock(seconds), left, self._note()
        )


def _clock(seconds: float) -> str:
    """`_clock(3725) == "1:02:05"`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
