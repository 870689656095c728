"""What `flan data import` finds in a folder: which records make which dataset, before anything is read or written."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from flan_jax import errors, shipped

MANIFEST = "MANIFEST.json"
# As TFDS reads a name: NAME[/CONFIG][:VERSION]; its naming.py allows + - . in a config only. A config of dots alone
# would be a path upwards.
_TFDS_NAME = re.compile(r"([a-z][a-z0-9_]*)(?:/(?!\.+(?::|$))([\w+\-.]+))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
_SPLIT = re.compile(r"(?!all$)[a-zA-Z_]\w*", re.ASCII)
_COLUMN = re.compile(r"[a-zA-Z_]\w*", re.ASCII)
TSV = ".tsv"
_SUFFIXES = tuple(kind + packed for kind in (".jsonl", TSV) for packed in ("", ".gz"))
_EXPECTED = "<key>/<split>.jsonl or .tsv, perhaps with .gz"


@dataclasses.dataclass(frozen=True)
class Source:
    """The records of one dataset.

    Attributes:
      keys: the folders under the source directory. More than one where a manifest gives several folders one TFDS name:
        they are then joined in its order.
      name: `NAME[/CONFIG]` as TFDS will know it.
      version: the version asked for, or None for the builder's default (1.0.0 without a builder).
      builder: True if a manifest says that TFDS has a builder, False if it says that it has none, None if nobody says.
      fields: the manifest's description of a record, or None.
      columns: names of the columns of its TSV files, or None where their first line gives them.
      files: each split's files, in order.
      problem: why this dataset cannot be imported, if that is known already.
    """

    keys: tuple[str, ...]
    name: str
    version: str | None
    builder: bool | None
    fields: Any
    columns: tuple[str, ...] | None
    files: Mapping[str, tuple[Path, ...]]
    problem: str | None = None

    @property
    def label(self) -> str:
        """How progress and the report call it: its key, or its TFDS name where it has several."""
        return self.keys[0] if len(self.keys) == 1 else self.name


def find_sources(
    source_dir: Path, keys: Iterable[str] | None = None, columns: Sequence[str] | None = None
) -> list[Source]:
    """Returns the datasets under `source_dir`, those of the manifest first and in its order.

    Args:
      source_dir: a folder of `<key>/<split>.jsonl[.gz]` and `<key>/<split>.tsv[.gz]`, with or without MANIFEST.json.
      keys: keys (or TFDS names) to keep; None for all. One key of a joined dataset selects the whole of it.
      columns: names of the columns of TSV files without a line of names, where neither the manifest nor flan_jax's own
        list of public files (`tasks/manual_downloads.yaml`) knows better.

    Raises:
      FlanError: for a folder without records, an unreadable manifest, a key or name that leaves the folder or that TFDS
        cannot hold, or an unknown key.
    """
    if not source_dir.is_dir():
        raise errors.FlanError(f"{source_dir}: no such folder; expected a folder with {_EXPECTED}")
    folders = _record_folders(source_dir)
    entries = _read_manifest(source_dir)
    sources: dict[str, Source] = {}
    for key, entry in {**dict.fromkeys(entries), **dict.fromkeys(folders)}.items():
        entry = entries.get(key)
        source = _source(source_dir, key, entry, folders.get(key, ()), columns)
        identity = f"{source.name}:{source.version}"
        sources[identity] = _join(sources[identity], source) if identity in sources else source
    if not sources:
        raise errors.FlanError(f"{source_dir}: no records; expected files named {_EXPECTED}")
    return _select(list(sources.values()), keys)


def _select(sources: Sequence[Source], keys: Iterable[str] | None) -> list[Source]:
    if keys is None:
        return list(sources)
    wanted = list(keys)
    known = {name for source in sources for name in (*source.keys, source.name)}
    for key in wanted:
        if key not in known:
            raise errors.unknown("key", key, known)
    return [source for source in sources if not {*source.keys, source.name}.isdisjoint(wanted)]


def _record_folders(source_dir: Path) -> dict[str, list[Path]]:
    """Returns the record files of each folder, by key, sorted."""
    found: dict[str, list[Path]] = {}
    for folder, below, files in os.walk(source_dir):
        below[:] = sorted(name for name in below if not name.startswith("."))
        records = sorted(name for name in files if name.endswith(_SUFFIXES) and not name.startswith("."))
        if records and Path(folder) != source_dir:
            found[Path(folder).relative_to(source_dir).as_posix()] = [Path(folder) / name for name in records]
        elif records:
            raise errors.FlanError(
                f"{Path(folder) / records[0]}: records lie in a folder named after their dataset, <key>/{records[0]}"
            )
    return found


def _read_manifest(source_dir: Path) -> dict[str, dict[str, Any]]:
    """Returns the manifest's entries by key, in its order; none without a manifest."""
    path = source_dir / MANIFEST
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise errors.FlanError(f"{path}: not readable as JSON ({problem})") from None
    datasets = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(datasets, list):
        raise errors.FlanError(f"{path}: expected an object with the list 'datasets'")
    entries: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(datasets):
        key = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(key, str):
            raise errors.FlanError(f"{path}: datasets[{index}] has no 'key'; expected the folder of its records")
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or "\\" in key or ".." in parts or PurePosixPath(key).as_posix() != key:
            raise errors.FlanError(
                f"{path}: key {key!r} is refused; expected a plain path below the folder, such as 'mgsm/de'"
            )
        if key in entries:
            raise errors.FlanError(f"{path}: key {key!r} is listed twice")
        entries[key] = entry
    return entries


def _source(
    source_dir: Path,
    key: str,
    entry: Mapping[str, Any] | None,
    files: Sequence[Path],
    given: Sequence[str] | None,
) -> Source:
    tfds_name = entry.get("tfds_name") if entry else None
    known = _public_files().get(key, {}) if entry is None else entry
    fields, columns = known.get("fields"), known.get("columns", given)
    if tfds_name is not None:
        matched = _TFDS_NAME.fullmatch(tfds_name) if isinstance(tfds_name, str) else None
        if not matched:
            raise errors.FlanError(
                f"{source_dir / MANIFEST}: key {key!r} has the tfds_name {tfds_name!r}; "
                "expected NAME[/CONFIG][:VERSION], such as 'super_glue/rte' or 'glue/sst2:2.0.0'"
            )
        builder = True
    else:
        matched = _TFDS_NAME.fullmatch(key)
        builder = False if entry else None
    if matched:
        name, version = "/".join(part for part in matched.group(1, 2) if part), matched.group(3)
    else:
        name, version = legal_name(key), None
    splits, problem = _splits(files)
    if not files:
        problem = f"no records: {source_dir / key} has no file <split>.jsonl or <split>.tsv, perhaps with .gz"
    columns = None if columns is None else column_names(columns, f"key {key!r}: columns")
    if columns is not None and not any(TSV in path.suffixes for path in files):
        columns = None  # of no account for JSON lines
    paths = {split: (path,) for split, path in splits.items()}
    return Source((key,), name, version, builder, fields, columns, paths, problem)


def column_names(columns: Any, where: str) -> tuple[str, ...]:
    """Checks names of columns; `where` starts the error."""
    names = tuple(columns) if isinstance(columns, (list, tuple)) else ()
    wrong = [name for name in names if not isinstance(name, str) or not _COLUMN.fullmatch(name)]
    if not names or wrong or len(set(names)) < len(names):
        shown = wrong[0] if wrong else columns
        raise errors.FlanError(
            f"{where}: given {str(shown)[:60]!r}; expected different names of letters, digits and '_'"
        )
    return names


@functools.cache
def _public_files() -> dict[str, Any]:
    """What is known of files that no TFDS builder reads, by the key that they are imported under."""
    path = shipped.directory("tasks") / "manual_downloads.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _splits(files: Sequence[Path]) -> tuple[dict[str, Path], str | None]:
    """Returns the file of each split, and what is wrong with them, if anything."""
    splits: dict[str, Path] = {}
    for path in files:
        split = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(TSV)
        if not _SPLIT.fullmatch(split):
            return (
                {},
                f"{path}: {split!r} cannot name a split; expected letters, digits and '_', not 'all', no digit first",
            )
        if split in splits:
            return {}, f"{path}: the split {split!r} is there twice; {splits[split].name} lies beside it"
        splits[split] = path
    return splits, None


def _join(first: Source, second: Source) -> Source:
    """Joins two folders that a manifest gives one TFDS name; two other keys that only look alike are a mistake."""
    keys = first.keys + second.keys
    if not (first.builder and second.builder):
        problem = (
            f"the folders {' and '.join(map(repr, keys))} would both become the dataset {first.name!r}; rename one"
        )
        return dataclasses.replace(first, keys=keys, problem=problem)
    files = dict(first.files)
    for split, paths in second.files.items():
        files[split] = files.get(split, ()) + paths
    return dataclasses.replace(first, keys=keys, files=files, problem=first.problem or second.problem)


def legal_name(key: str) -> str:
    """Returns the TFDS name of a key that is none by itself: lower case, `NAME[/CONFIG]`, deeper levels joined by `_`.

    >>> legal_name("My-Set"), legal_name("mgsm/de"), legal_name("a/b/c"), legal_name("2wiki")
    ('my_set', 'mgsm/de', 'a/b_c', 'd_2wiki')
    """
    head, *rest = PurePosixPath(key).parts or (key,)
    name = re.sub(r"[^a-z0-9_]", "_", head.lower())
    name = name if name[0].isalpha() else f"d_{name}"
    config = re.sub(r"[^\w+\-.]", "_", "_".join(rest), flags=re.ASCII)
    return f"{name}/{config}" if config else name
