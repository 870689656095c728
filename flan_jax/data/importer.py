"""JSON lines or TSV in, prepared TFDS directories out: `flan data import`.

A row of training data always comes from a prepared TFDS directory. `import_datasets` makes one from
`<key>/<split>.jsonl[.gz]` or `<key>/<split>.tsv[.gz]` (see `records`), so that a sample, a user's own files and a real
download run the same code afterwards.

A dataset is written into a hidden folder of the data directory and renamed into place when it is complete; a reader
sees the old dataset, none, or the new one, never half of one. The order, so that the next
import can repair a killed one:

  1. `DATA_DIR/.flan_jax_import/new/NAME/CONFIG/VERSION` is written;
  2. what lies at `DATA_DIR/NAME/CONFIG/VERSION`, if anything, is renamed to `.flan_jax_import/old/...`;
  3. the new directory is renamed into its place;
  4. the hidden folder is deleted.

A kill between 2 and 3 leaves the old dataset under `old/`, and the next import puts it back before it starts. One
import at a time works on a data directory: the lock is held by the kernel and goes with the process.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from flan_jax import errors
from flan_jax.data import features_json, import_plan, prepared, quiet, records

RECORD = "flan_jax_import.json"
STAGE = ".flan_jax_import"
_LOCK = ".flan_jax_import.lock"
# Part of every signature: raise it when the same records would now be written differently.
_FORMAT = 1
_OWN_VERSION = "1.0.0"
# TFDS reads several shards interleaved; one shard up to here keeps the source's order for all but the largest sets.
_ROWS_PER_SHARD = 500_000
_ROWS_PER_WRITE = 2_000


class Progress(Protocol):
    """What is told while an import runs."""

    def on_start(self, total: int) -> None:
        """`total` datasets are about to be looked at."""

    def on_dataset(self, key: str, status: str, rows: int, seconds: float) -> None:
        """One is done: `status` is `imported`, `unchanged` or `failed`."""


@dataclasses.dataclass(frozen=True)
class ImportedDataset:
    """What became of one dataset.

    Attributes:
      key: its folder, or its TFDS name where several folders were joined.
      name: `super_glue/rte:1.0.2` once that is known.
      status: `imported`, `unchanged` (the same files have been imported before) or `failed`.
      directory: where it lies, or None if it failed.
      splits: rows of each split; empty if it failed.
      seconds: time spent on it.
      problem: why it failed.
      note: what the user may want to know although it worked.
    """

    key: str
    name: str
    status: str
    directory: Path | None
    splits: Mapping[str, int]
    seconds: float
    problem: str | None = None
    note: str | None = None

    @property
    def rows(self) -> int:
        return sum(self.splits.values())


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What became of all of them, in the order of the plan."""

    datasets: tuple[ImportedDataset, ...]

    @property
    def failures(self) -> tuple[ImportedDataset, ...]:
        return tuple(dataset for dataset in self.datasets if dataset.status == "failed")

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


def import_datasets(
    source_dir: str | Path,
    data_dir: str | Path,
    *,
    keys: Iterable[str] | None = None,
    overwrite: bool = False,
    columns: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Imports the records under `source_dir` into the TFDS data directory `data_dir`.

    A dataset that TFDS has a builder for gets the builder's features and version, without the network; any other takes
    its features from the manifest's `fields`, or from its records, at version 1.0.0. A bad record stops its own dataset
    only.

    Args:
      source_dir: holds `<key>/<split>.jsonl[.gz]`, `<key>/<split>.tsv[.gz]` and perhaps MANIFEST.json (see
        `import_plan`).
      data_dir: where TFDS looks for datasets; created if need be. A local directory.
      keys: the keys to import; None for all.
      overwrite: whether a prepared directory that another program wrote may be replaced.
      columns: of TSV files that do not start with a line of names.
      progress: is told of each dataset.

    Returns:
      The report; `exit_code` is 1 if any dataset failed.

    Raises:
      FlanError: for what concerns no single dataset: no such folder, a bad manifest, an unknown or escaping key.
    """
    if "://" in str(data_dir):
        raise errors.FlanError(
            f"data directory {str(data_dir)!r}: an import needs a local directory; copy it to the bucket afterwards"
        )
    sources = import_plan.find_sources(Path(source_dir), keys, columns)
    root = Path(data_dir).absolute()
    if progress is not None:
        progress.on_start(len(sources))
    done: list[ImportedDataset] = []
    with _stage(root) as stage:
        for source in sources:
            started = time.perf_counter()
            taken = {dataset.directory: dataset.key for dataset in done if dataset.directory}
            try:
                result = _import_source(source, Path(source_dir), root, stage, overwrite, taken)
            except (errors.FlanError, OSError) as problem:  # OSError: a full disk, say, while writing.
                result = ImportedDataset(source.label, source.name, "failed", None, {}, 0.0, problem=str(problem))
            finally:
                _clear(stage, root)
            result = dataclasses.replace(result, seconds=time.perf_counter() - started)
            done.append(result)
            if progress is not None:
                progress.on_dataset(result.key, result.status, result.rows, result.seconds)
    return ImportReport(tuple(done))


@contextlib.contextmanager
def _stage(root: Path) -> Iterator[Path]:
    """Locks the data directory, repairs what a killed import left, and lends the hidden folder until the end."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = open(root / _LOCK, "a")  # noqa: SIM115 (closed by the `with` below)
    except OSError as problem:
        raise errors.FlanError(f"data directory {root}: cannot write there ({problem.strerror})") from None
    with lock:
        # Waits for another import of the same directory: then most of the work is done and found unchanged.
        fcntl.flock(lock, fcntl.LOCK_EX)
        stage = root / STAGE
        _clear(stage, root)
        try:
            yield stage
        finally:
            _clear(stage, root)


def _clear(stage: Path, root: Path) -> None:
    """Deletes the hidden folder, after putting back a dataset whose replacement never took its place."""
    for version in [*(stage / "old").glob("*/*"), *(stage / "old").glob("*/*/*")]:
        target = root / version.relative_to(stage / "old")
        if version.is_dir() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(version, target)
    shutil.rmtree(stage, ignore_errors=True)


def _import_source(
    source: import_plan.Source, source_dir: Path, root: Path, stage: Path, overwrite: bool, taken: Mapping[Path, str]
) -> ImportedDataset:
    if source.problem:
        raise errors.FlanError(source.problem)
    signature = _signature(source, source_dir)
    present = _find_unchanged(root / source.name, signature)
    if present is not None:
        directory, splits = present
        return ImportedDataset(source.label, f"{source.name}:{directory.name}", "unchanged", directory, splits, 0.0)

    info, schema, note = _dataset_info(source, stage / "new")
    staged = Path(info.data_dir)
    target = root / staged.relative_to(stage / "new")
    if target in taken:
        raise errors.FlanError(
            f"{target} has just been written from {taken[target]!r}; two folders cannot become one dataset"
        )
    replaces = target.exists() and any(target.iterdir())
    if replaces and not overwrite and not (target / RECORD).exists():
        raise errors.FlanError(
            f"{target} exists and was not written by an import; expected nothing there, or --overwrite to replace it"
        )

    staged.mkdir(parents=True)
    _write(source, info, schema)
    _write_record(staged, signature)
    if replaces:
        old = stage / "old" / target.relative_to(root)
        old.parent.mkdir(parents=True)
        os.replace(target, old)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, target)
    splits = prepared.split_sizes(target / "dataset_info.json")
    name = "/".join(target.relative_to(root).parts[:-1])
    return ImportedDataset(source.label, f"{name}:{target.name}", "imported", target, splits, 0.0, note=note)


def _signature(source: import_plan.Source, source_dir: Path) -> dict[str, Any]:
    """Returns everything that decides what an import writes; equal signatures mean equal datasets."""
    files: dict[str, list[list[str]]] = {}
    for split, paths in source.files.items():
        files[split] = []
        for path in paths:
            try:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as problem:
                raise errors.FlanError(f"{path}: cannot be read ({problem.strerror})") from None
            files[split].append([path.relative_to(source_dir).as_posix(), digest])
    of_tsv = {} if source.columns is None else {"columns": list(source.columns)}
    return {
        "format": _FORMAT,
        "tfds": importlib.metadata.version("tensorflow-datasets"),
        "name": source.name,
        "version": source.version,
        "builder": source.builder,
        "fields": source.fields,
        "sources": files,
        **of_tsv,
    }


def _find_unchanged(folder: Path, signature: Mapping[str, Any]) -> tuple[Path, dict[str, int]] | None:
    """Returns the directory that an equal import wrote and its split sizes, if all its files are still there."""
    # Two levels: a builder's default config may have been chosen for a name without one.
    for record in sorted(itertools.chain(folder.glob(f"*/{RECORD}"), folder.glob(f"*/*/{RECORD}"))):
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            written: dict[str, int] = content["written"]
            if content["signature"] != signature:
                continue
            if all((record.parent / name).stat().st_size == size for name, size in written.items()):
                return record.parent, prepared.split_sizes(record.parent / "dataset_info.json")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, errors.FlanError):
            continue  # A damaged dataset of ours is imported again.
    return None


def _write_record(directory: Path, signature: Mapping[str, Any]) -> None:
    written = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    content = {"signature": signature, "written": written}
    (directory / RECORD).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _dataset_info(source: import_plan.Source, data_dir: Path) -> tuple[Any, features_json.Schema, str | None]:
    """Returns the `tfds.core.DatasetInfo` to write under, what a record must look like, and a note for the user.

    Its `data_dir` is DATA_DIR/NAME[/CONFIG]/VERSION below the given `data_dir`, which holds nothing yet: TFDS would
    otherwise read the splits of a dataset that is already there.
    """
    note = None
    if source.builder is not False:
        info, note = _builder_info(source, data_dir)
        if info is not None:
            return info, features_json.from_features(info.features), None
        note = f"{note}; features taken from {'the records' if source.fields is None else 'the fields in the manifest'}"
    schema = _own_schema(source)
    return _own_info(source, schema, data_dir), schema, note


def _builder_info(source: import_plan.Source, data_dir: Path) -> tuple[Any, str | None]:
    """Returns the `DatasetInfo` of TFDS's builder, or None and the reason why there is no usable one."""
    quiet.tensorflow()  # the builders import it, with chatter
    import tensorflow_datasets as tfds

    name, _, config = source.name.partition("/")
    where = f"key {source.keys[0]!r}: TFDS"
    try:
        builder_cls = tfds.builder_cls(name)
    except tfds.core.DatasetNotFoundError:
        hint = errors.nearest(name, tfds.list_builders(with_community_datasets=False), show=0)
        hint = hint if "did you mean" in hint else ""
        if source.builder and source.fields is None:
            raise errors.FlanError(
                f"{where} has no dataset {name!r}{hint}; expected a TFDS name, or 'fields' in the manifest"
            ) from None
        return None, f"TFDS has no dataset {name!r}{hint}"
    if config and config not in builder_cls.builder_configs:
        raise errors.FlanError(
            f"{where} dataset {name!r} has no config {config!r}{errors.nearest(config, builder_cls.builder_configs)} "
            f"(a dataset of your own needs another folder name or an entry in {import_plan.MANIFEST} without tfds_name)"
        )
    try:
        builder = tfds.builder(source.name, data_dir=str(data_dir), file_format="tfrecord")
        known = [str(version) for version in builder.versions]
        if source.version not in (None, *known):
            raise errors.FlanError(
                f"{where} dataset {source.name!r} has no version {source.version!r}; known: {', '.join(known)}"
            )
        if source.version:
            builder = tfds.builder(f"{source.name}:{source.version}", data_dir=str(data_dir), file_format="tfrecord")
        info = builder.info
    except errors.FlanError:
        raise
    except Exception as problem:  # Builders are third-party code: some download in order to know their features.
        return (
            None,
            f"the TFDS builder of {source.name!r} cannot be used offline ({type(problem).__name__}: {problem})",
        )
    if not isinstance(info.features, tfds.features.FeaturesDict):
        return None, f"the TFDS builder of {source.name!r} does not know its features without the network"
    return info, None


def _own_schema(source: import_plan.Source) -> features_json.Struct:
    """Returns the schema of a dataset without a builder: the manifest's, or the one that its records show."""
    if source.fields is None:
        inference = features_json.Inference()
        for path in itertools.chain.from_iterable(source.files.values()):
            for line, record in records.read(path, source.columns):
                try:
                    inference.add(record)
                except features_json.Mismatch as problem:
                    raise _bad_record(path, line, problem) from None
        return inference.schema()
    schema = features_json.from_fields(source.fields, f"key {source.keys[0]!r}: fields")
    if not isinstance(schema, features_json.Struct):
        raise errors.FlanError(f"key {source.keys[0]!r}: fields: expected an object of named types")
    return schema


def _own_info(source: import_plan.Source, schema: features_json.Struct, data_dir: Path) -> Any:
    """Returns the `DatasetInfo` of a dataset without a builder."""
    import tensorflow_datasets as tfds

    name, _, config = source.name.partition("/")
    version = source.version or _OWN_VERSION
    identity = tfds.core.DatasetIdentity(
        name=name,
        version=tfds.core.Version(version),
        data_dir=str(data_dir / source.name / version),
        module_name=__name__,
        config_name=config or None,
    )
    return tfds.core.DatasetInfo(builder=identity, features=features_json.to_features(schema))


def _write(source: import_plan.Source, info: Any, schema: features_json.Schema) -> None:
    """Checks every record and writes the splits, with TFDS's metadata, into `info.data_dir`."""
    import tensorflow_datasets as tfds

    check = features_json.checker(schema)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=_ROWS_PER_SHARD, file_format="tfrecord")
    writer.initialize_splits(list(source.files))
    add = quiet.tfds_writes()(writer.add_examples)
    for split, paths in source.files.items():
        for path in paths:
            batch: list[Any] = []
            for line, record in records.read(path, source.columns):
                try:
                    batch.append(check(record))
                except features_json.Mismatch as problem:
                    raise _bad_record(path, line, problem) from None
                if len(batch) == _ROWS_PER_WRITE:
                    add({split: batch})
                    batch = []
            add({split: batch})
    writer.close_all()


def _bad_record(path: Path, line: int, problem: features_json.Mismatch) -> errors.FlanError:
    return errors.FlanError(f"{path}, line {line}: {problem}")
