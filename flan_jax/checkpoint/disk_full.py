"""No room for a checkpoint: one line that says so, in place of what four threads and a C++ library have to say."""

import contextlib
import logging
import shutil
from collections.abc import Iterator

from etils import epath

from flan_jax import errors
from flan_jax.checkpoint import folders

# TensorStore's errors are ValueErrors that carry the operating system's words.
_WORDS = ("No space left on device", "Disk quota exceeded")


def is_it(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that there is no room left."""
    while error is not None:
        if errors.out_of_space(error) or any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def reported(directory: epath.Path, step: int | None = None) -> Iterator[None]:
    """Turns running out of space inside into one line.

    Args:
      directory: MODEL_DIR.
      step: what is being saved; None where an earlier save is waited for.

    Raises:
      FlanError: there is no room; it names the newest checkpoint that is whole.
    """
    absl = logging.getLogger("absl")
    absl.addFilter(_not_about_space)  # adding it twice does nothing
    try:
        yield
    except Exception as error:
        if not is_it(error):
            raise
        what = f"checkpoint_{step}" if step is not None else "a checkpoint"
        raise errors.FlanError(
            f"{what} could not be written: no space left in {directory}{_free(directory)}; {_whole(directory)}"
        ) from error


def _not_about_space(record: logging.LogRecord) -> bool:
    """Whether a log line is to be shown: those of Orbax's threads are not, since the error itself is."""
    error = record.exc_info[1] if record.exc_info else None
    return not is_it(error) and not any(words in str(record.msg) for words in _WORDS)


def _free(directory: epath.Path) -> str:
    try:
        return f" ({shutil.disk_usage(directory).free / 2**20:,.0f} MiB free)"
    except OSError:
        return ""


def _whole(directory: epath.Path) -> str:
    newest, _ = folders.newest_complete(directory, folders.OWN)
    if newest is None:
        return "there is no other one; make room and start again"
    return f"{newest.name} is whole: make room, and the same command goes on from there"
