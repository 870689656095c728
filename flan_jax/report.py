"""`flan report`: results of one evaluation, or of two, as Markdown and as a page."""

import argparse
import pathlib
from collections.abc import Sequence

from flan_jax import errors, log
from flan_jax.evaluation import report_markdown, report_page, report_view, results

FILES = ("report.md", "report.html")


def main(argv: Sequence[str]) -> int:
    """Entry point of `flan report`."""
    parser = argparse.ArgumentParser(
        prog="flan report",
        description="Writes what an evaluation found as Markdown and as a page that needs no network.",
    )
    parser.add_argument("results", metavar="RESULTS_DIR", help="output directory of `flan eval`, with results.json")
    parser.add_argument(
        "other", metavar="OTHER_DIR", nargs="?", help="another checkpoint's, to be held against the first"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help=f"gets {' and '.join(FILES)}")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="predictions shown of each subtask")
    parser.add_argument("--changes", type=int, default=6, metavar="N", help="changed examples shown of each subtask")
    given = parser.parse_args(argv)
    log.set_up()
    for path in write(given.results, given.other, given.out, samples=given.samples, changes=given.changes):
        print(path)
    return 0


def write(
    directory: str, other: str | None, out: str, *, samples: int = 4, changes: int = 6
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the report of one or two results.

    Args:
      directory: with `results.json`.
      other: the same of another checkpoint, or None.
      out: directory that gets the files; made where it is not there.
      samples: predictions shown of each subtask.
      changes: examples shown of each subtask that the two answer differently.

    Returns:
      The Markdown file and the page.

    Raises:
      FlanError: results that are missing or not whole; `out` cannot be written.
    """
    for name, value in (("samples", samples), ("changes", changes)):
        if value < 0:
            raise errors.FlanError(f"{name} is {value}; expected 0 or more")
    second = None if other is None else results.load(other)
    view = report_view.view(results.load(directory), second, samples=samples, changes=changes)
    folder = pathlib.Path(out)
    texts = (report_markdown.render(view), report_page.render(view))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(FILES, texts, strict=True):
            partial = folder / f".{name}"
            partial.write_bytes(text.encode("utf-8", "backslashreplace"))
            partial.replace(folder / name)
    except OSError as error:
        raise errors.FlanError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return folder / FILES[0], folder / FILES[1]
