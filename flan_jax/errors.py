"""Errors that a user can act on.

The command line prints a `FlanError` as one message without a traceback and exits with code 1; anything else that escapes
is a bug of flan_jax and keeps its traceback.
"""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator


def out_of_space(error: BaseException) -> bool:
    """Whether the operating system says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class FlanError(Exception):
    """A mistake in what the user gave: it names what was given, what was expected and what exists."""


def unknown(kind: str, given: str, known: Iterable[str], *, show: int = 12) -> FlanError:
    """Builds the error for a name that does not exist.

    Args:
      kind: what was looked up, in the singular ("task", "option").
      given: the name as the user wrote it.
      known: every name that would have been accepted.
      show: how many known names to list when nothing is close.

    Returns:
      The error, to be raised by the caller: `unknown task 'rtee'; did you mean 'rte'?`.
    """
    return FlanError(f"unknown {kind} {given!r}{nearest(given, known, show=show)}")


def nearest(given: str, known: Iterable[str], *, show: int = 12) -> str:
    """Returns the hint that ends an error: `; did you mean 'rte'?`, or the first `show` known names."""
    names = sorted(set(known))
    if close := close_to(given, names):
        return did_you_mean(close)
    if not names:
        return "; none exist"
    listed = ", ".join(names[:show])
    more = f", ... ({len(names)} in all)" if len(names) > show else ""
    return f"; known: {listed}{more}"


def close_to(given: str, known: Iterable[str]) -> list[str]:
    """Returns the names nearest to what was given, three at most, whatever is written large or small; else longer ones.

    `close_to("batch_size", ["BATCH_SIZE"]) == ["BATCH_SIZE"]`, `close_to("rte", ["rte_10templates"]) == ["rte_10templates"]`
    """
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(given.casefold(), folded, n=3, cutoff=0.6)
    if not close and len(given) > 2:
        close = [name for name in folded if name.startswith(given.casefold())][:3]
    return [folded[name] for name in close]


def did_you_mean(names: Iterable[str]) -> str:
    """Returns the hint that ends an error whose name was meant to be one of these."""
    return "; did you mean " + " or ".join(repr(name) for name in names) + "?"


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Prints a `FlanError` raised inside as one message on stderr and exits with code 1; so it does with a full disk.

    Ctrl-C exits with 130.

    A reader that closes the pipe early (`| head`) ends the program quietly with 141, as it ends other tools.
    """
    try:
        yield
        sys.stdout.flush()
    except FlanError as error:
        print(f"flan: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("flan: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Python writes what is still buffered when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if not out_of_space(error):
            raise
        print(f"flan: {error.strerror}: {error.filename or 'the disk that was being written to'}", file=sys.stderr)
        sys.exit(1)
