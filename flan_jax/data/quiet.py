"""TensorFlow, seqio and TFDS without their chatter on stderr: C++ log lines that no setting turns off, and TFDS about itself."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from flan_jax import errors


def seqio() -> Any:
    """Returns the seqio module, which imports TensorFlow: about 6 s the first time."""
    with _stderr_held_back("seqio"):
        try:
            import seqio as module
        except ModuleNotFoundError as error:
            raise _missing(error) from None
    return module


def tensorflow() -> Any:
    """Returns the TensorFlow module."""
    with _stderr_held_back("tensorflow"):
        try:
            import tensorflow as module
        except ModuleNotFoundError as error:
            raise _missing(error) from None
    return module


@contextlib.contextmanager
def tfds_writes() -> Iterator[None]:
    """Drops what TFDS says of its own code while it writes: its writer reads `TensorInfo.dtype`, ten lines say it is deprecated."""

    def about_the_user(record: logging.LogRecord) -> bool:
        return "TensorInfo.dtype` is deprecated" not in record.getMessage()

    absl = logging.getLogger("absl")
    absl.addFilter(about_the_user)
    try:
        yield
    finally:
        absl.removeFilter(about_the_user)


def _missing(error: ModuleNotFoundError) -> errors.FlanError:
    return errors.FlanError(
        f"{error}: without TensorFlow and seqio a run reads packed caches only, PACKED_CACHE for training and "
        "PACKED_EVAL_CACHE (or train_script.train.train_eval_dataset_cfg = None) for the held-back loss"
    )


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
