"""SIGTERM: the step that is under way is finished and saved, and the program ends with exit code 0.

Cloud machines send it some 30 seconds before they take a machine away; so do SLURM, Kubernetes and `kill`. With one
process it is a flag that the loop looks at after every step. With several, JAX's preemption service catches the signal
and agrees on a step that all processes reach, since only together can they save.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_NOTHING = "flan: stopped by SIGTERM before the first step: there is nothing to save\n"


class Stopped(BaseException):
    """Ends what can be given up: an evaluation. Not an error."""


class _Signal:
    """What is known of the signal, in this process."""

    def __init__(self) -> None:
        self.inside = False  # a `handled` block
        self.deferred = False  # whether there is something to save
        self.came = False


_state = _Signal()


def _on_signal(number: int, frame: Any) -> None:
    del number, frame
    if not _state.deferred:
        # At once and without any clean-up, as SIGKILL would: an exception in the middle of an import of C code ends in a
        # segmentation fault (seen, exit code -11), and whatever a start does may be cut off.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _NOTHING.encode())
        os._exit(0)
    _state.came = True  # not logged here: the signal may have come in the middle of a log call


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Inside, SIGTERM ends the run in good order; before the loop has begun, by ending the process.

    Blocks may be nested: the outermost one puts the handler in and takes it out. In a thread, where Python hears of no
    signals, it does nothing; nor where JAX's preemption service listens already.
    """
    if _state.inside or _shared() or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _on_signal)
    _state.inside = True
    try:
        yield
    finally:
        _state.inside = _state.deferred = _state.came = False
        signal.signal(signal.SIGTERM, previous)


def defer() -> None:
    """From here on, to the end of `handled`, the signal is only noted: there is something to finish and to save."""
    _state.deferred = True


def requested(step: int) -> bool:
    """Whether the run is to end after `step`: the same answer in every process. Asked once after every step."""
    if not _shared():
        return _state.came
    from jax.experimental import multihost_utils

    try:
        return multihost_utils.reached_preemption_sync_point(step)
    except RuntimeError:  # The service is turned off (jax_enable_preemption_service).
        return False


def check() -> None:
    """Called between the batches of an evaluation, which in a run of one process is given up when the signal has come.

    Raises:
      Stopped: it has.
    """
    if _state.came and not _shared():
        raise Stopped


def _shared() -> bool:
    """Whether this is one of several processes that JAX knows of. The command line asks before it imports JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
