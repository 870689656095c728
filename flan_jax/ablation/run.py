"""Runs the steps of a sweep as processes of this machine, several at a time; what is finished is never run again.

    ROOT/<key>/               a step's folder: MODEL_DIR of a training, output of an evaluation
    ROOT/<key>/step.json      what the step is
    ROOT/<key>/log.txt        what it printed
    ROOT/<key>/attempts.jsonl a line each time that it was started and came to an end

Whether a step is finished is seen by what it wrote: the checkpoint of its last step, or its results. So it does not matter who
ran it or how the runner ended. A file that the process holds locked keeps two sweeps from running one step.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from flan_jax import errors, progress
from flan_jax.ablation import scores
from flan_jax.ablation import steps as steps_lib

logger = logging.getLogger(__name__)

Command = Callable[[steps_lib.Step, pathlib.Path], Sequence[str]]
_POLL = 0.2  # seconds
_GRACE = 120.0  # seconds in which a child that was told to stop may save
_TAIL = 2000  # bytes of a log that are looked at for what went wrong


@dataclasses.dataclass
class _Running:
    step: steps_lib.Step
    process: subprocess.Popen
    slot: int
    began: float
    lock: TextIO


class Stopped(Exception):
    """The sweep was told to stop by this signal; its children have ended."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def finished(step: steps_lib.Step, root: pathlib.Path) -> bool:
    """Whether a step has written all that it was to write."""
    folder = root / step.key
    if step.kind == steps_lib.TRAIN:
        from flan_jax.checkpoint import folders, manager  # which take seconds to import

        checkpoint = manager.absolute(folder / f"checkpoint_{step.steps}")
        return checkpoint.exists() and not folders.incomplete(checkpoint, folders.OWN)
    return scores.read(folder) is not None


def command(step: steps_lib.Step, root: pathlib.Path) -> list[str]:
    """How a step is run here: this Python, this flan_jax; what one step compiled the next finds compiled."""
    cache = [f"--compilation_cache_dir={root.parent / 'compiled'}"] if step.kind in ("train", "evaluate") else []
    return [sys.executable, "-m", "flan_jax.cli", *step.argv(root), *cache]


def sweep(
    steps: Mapping[str, steps_lib.Step], root: pathlib.Path, *, jobs: int = 1, make: Command = command
) -> list[str]:
    """Runs what is not finished.

    Args:
      steps: by key.
      root: the folder of their folders.
      jobs: processes at a time; the machine's processors are divided among them.
      make: the command of a step.

    Returns:
      A sentence for each step that failed, and for each that could not be run for it; empty if all are finished.

    Raises:
      Stopped: SIGINT or SIGTERM came; the children were told, and have ended.
    """
    if jobs < 1:
        raise errors.FlanError(f"--jobs is {jobs}; expected at least 1")
    root.mkdir(parents=True, exist_ok=True)
    done = {key for key, step in steps.items() if finished(step, root)}
    if done:
        logger.info("%d of %d steps are finished already", len(done), len(steps))
    runner = _Runner(steps, root, jobs, make, done)
    with _signals() as came, progress.Progress("ablate", len(steps), start=len(done)) as bar:
        try:
            while runner.advance(bar):
                if came:
                    raise Stopped(came[0])
                time.sleep(_POLL)
        finally:
            runner.end()
    return runner.failures


class _Runner:
    def __init__(
        self, steps: Mapping[str, steps_lib.Step], root: pathlib.Path, jobs: int, make: Command, done: set[str]
    ) -> None:
        self._steps, self._root, self._make, self._done = steps, root, make, done
        self._waiting = collections.deque(key for key in steps if key not in done)
        self._running: list[_Running] = []
        self._free = list(range(jobs))
        self._jobs = jobs
        self._failed: dict[str, str] = {}
        self._elsewhere: set[str] = set()

    @property
    def failures(self) -> list[str]:
        return list(self._failed.values())

    def advance(self, bar: progress.Progress) -> bool:
        """Looks after children and starts what can be; returns whether anything is left."""
        for one in list(self._running):
            if one.process.poll() is not None:
                self._ended(one)
                if one.step.key in self._done:
                    bar.advance(1, step=one.step.label)
        for _ in range(len(self._waiting)):
            key = self._waiting.popleft()
            step = self._steps[key]
            lost = [need for need in step.needs if need in self._failed]
            if lost:
                self._failed[key] = f"{step.label}: not run, for want of {self._steps[lost[0]].label}"
            elif not self._free or any(need not in self._done for need in step.needs) or not self._start(step, bar):
                self._waiting.append(key)
        return bool(self._waiting or self._running)

    def _start(self, step: steps_lib.Step, bar: progress.Progress) -> bool:
        """Starts a step; False where another sweep runs it."""
        folder = self._root / step.key
        folder.mkdir(exist_ok=True)
        lock = open(folder / ".lock", "a", encoding="utf-8")  # noqa: SIM115  # held until the child ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            if step.key not in self._elsewhere:
                self._elsewhere.add(step.key)
                logger.info("%s is being run by another process; waiting for it", step.label)
            return False
        if finished(step, self._root):
            lock.close()
            self._done.add(step.key)
            bar.advance(1, step=step.label)
            return True
        told = {**dataclasses.asdict(step), "argv": step.argv(self._root)}
        _write(folder / "step.json", json.dumps(told, indent=1, default=str))
        slot = self._free.pop(0)
        logger.info("%s: %s", step.label, folder)
        with open(folder / "log.txt", "ab") as log:
            process = _spawn(self._make(step, self._root), log, lock, slot, self._jobs)
        self._running.append(_Running(step, process, slot, time.time(), lock))
        return True

    def _ended(self, one: _Running) -> None:
        code, folder = one.process.returncode, self._root / one.step.key
        self._let_go(one)
        self._free.append(one.slot)
        if code == 0 and finished(one.step, self._root):
            self._done.add(one.step.key)
            return
        why = _last_line(folder / "log.txt") if code else "it ended before its last step"
        self._failed[one.step.key] = f"{one.step.label} failed (exit code {code}): {why}; see {folder / 'log.txt'}"
        logger.warning("%s", self._failed[one.step.key])

    def end(self) -> None:
        """Tells the children to stop, and waits for them."""
        for one in self._running:
            one.process.terminate()
        deadline = time.monotonic() + _GRACE
        for one in list(self._running):
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            self._let_go(one)

    def _let_go(self, one: _Running) -> None:
        line = {
            "began": one.began,
            "seconds": time.time() - one.began,
            "code": one.process.returncode,
            "jobs": self._jobs,
        }
        with open(self._root / one.step.key / "attempts.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        one.lock.close()
        self._running.remove(one)


def _spawn(argv: Sequence[str], log: Any, lock: TextIO, slot: int, jobs: int) -> subprocess.Popen:
    """Starts a child on its share of the processors.

    The child inherits the lock, so that it stays locked if the runner is killed; and SIGINT blocked, so that Ctrl-C reaches
    the runner alone, which tells its children to save. XLA takes as many threads as there are processors to run on.
    """
    processors = _processors(slot, jobs)
    environment = dict(os.environ)
    if processors is not None:
        threads = str(len(processors))
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), threads)
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = os.sched_getaffinity(0) if processors is not None else None
    try:
        if processors is not None:
            os.sched_setaffinity(0, processors)
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=(lock.fileno(),)
        )
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _processors(slot: int, jobs: int) -> set[int] | None:
    """The processors of one of several jobs; None where all have them all."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    mine = sorted(os.sched_getaffinity(0))
    return set(mine[slot % len(mine) :: jobs]) or set(mine)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM that come inside."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda got, frame: came.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: pathlib.Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def seconds(step: steps_lib.Step, root: pathlib.Path) -> float | None:
    """How long a step took in all that was seen of it; None if nothing was."""
    file = root / step.key / "attempts.jsonl"
    if not file.is_file():
        return None
    return sum(json.loads(line)["seconds"] for line in file.read_text(encoding="utf-8").splitlines())
