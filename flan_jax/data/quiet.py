"""Imports of TensorFlow and seqio without their start-up chatter on stderr (C++ log lines that no setting turns off)."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any


def seqio() -> Any:
    """Returns the seqio module, which imports TensorFlow: about 6 s the first time."""
    with _stderr_held_back("seqio"):
        import seqio as module
    return module


def tensorflow() -> Any:
    """Returns the TensorFlow module."""
    with _stderr_held_back("tensorflow"):
        import tensorflow as module
    return module


@contextlib.contextmanager
def _stderr_held_back(module: str) -> Iterator[None]:
    """Holds back what is written to stderr, by C++ code too; shows it all the same if the import fails."""
    if module in sys.modules:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
