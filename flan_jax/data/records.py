"""The files that `flan data import` reads: one record after the other, each with its line number.

JSON lines hold one JSON object a line. TSV holds one record a line, its cells separated by single tabs and taken as they
are: there is no quoting, as most public files have none and `"` stands for itself. Cells are text; a cell cannot hold a
line break, so the two characters `\\n` stand for one, as the chain-of-thought files of the Flan Collection have it. The
first line names the columns unless the names are given.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flan_jax import errors
from flan_jax.data import features_json, import_plan


def read(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, record) of a file, gzipped or not.

    Args:
      path: ends in `.jsonl` or `.tsv`, and `.gz` behind it if it is compressed.
      columns: names of the columns of a TSV file; None where its first line has them.

    Raises:
      FlanError: the file is empty or cannot be read, or a line of it holds no record; it is named.
    """
    tsv = import_plan.TSV in path.suffixes
    kind = "TSV" if tsv else "JSON lines"
    line = found = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            # Bytes, split at b"\n" only: str.splitlines would also cut inside a text at U+2028.
            for line, content in enumerate(file, start=1):
                if not tsv:
                    yield line, _object(path, line, content)
                elif columns is None:
                    columns = _names(path, _cells(path, line, content))
                    continue
                else:
                    yield line, _named(path, line, _cells(path, line, content), columns)
                found += 1
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        after = f" after line {line}" if line else ""
        packed = "gzip-compressed " if path.suffix == ".gz" else ""
        raise errors.FlanError(f"{path}: cannot be read{after} ({reason}); expected {packed}{kind}") from None
    if not found:
        beyond = " after the names of its columns" if line else ""
        raise errors.FlanError(f"{path}: no records{beyond}; expected one {'record' if tsv else 'JSON object'} a line")


def _names(path: Path, cells: list[str]) -> tuple[str, ...]:
    hint = "; name the columns of a file that does not, with --columns"
    try:
        return import_plan.column_names(cells, f"{path}, line 1, which has to name the columns")
    except errors.FlanError as error:
        raise errors.FlanError(f"{error}{hint}") from None


def _cells(path: Path, line: int, content: bytes) -> list[str]:
    text = _text(path, line, content)
    if line == 1:
        text = text.removeprefix("\ufeff")  # spreadsheets start a file with it
    return [cell.replace("\\n", "\n") for cell in text.rstrip("\n").removesuffix("\r").split("\t")]


def _named(path: Path, line: int, cells: list[str], columns: tuple[str, ...]) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise errors.FlanError(
            f"{path}, line {line}: given {len(cells)} cells, {features_json.shown(cells)}; "
            f"expected {len(columns)}, separated by tabs: {', '.join(columns)}"
        )
    return dict(zip(columns, cells, strict=True))


def _object(path: Path, line: int, content: bytes) -> dict[str, Any]:
    text = _text(path, line, content)
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        given = features_json.shown(text.strip())
        raise errors.FlanError(
            f"{path}, line {line}: not JSON ({problem}): given {given}; expected one JSON object"
        ) from None
    if type(record) is not dict:
        raise errors.FlanError(f"{path}, line {line}: given {features_json.shown(record)}; expected a JSON object")
    return record


def _text(path: Path, line: int, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise errors.FlanError(f"{path}, line {line}: not UTF-8 at byte {problem.start}; expected UTF-8 text") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
