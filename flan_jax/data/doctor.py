"""`flan data doctor`: which datasets are there, what is wrong with the others, and the command that mends it.

It reads directory listings and `dataset_info.json` files: no network, and no TensorFlow unless it is asked about TFDS's
builders. Licences and the steps of manual downloads are the project's own data, `tasks/licences.yaml` and
`tasks/manual_downloads.yaml`.
"""

import argparse
import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from flan_jax import errors, shipped
from flan_jax.data import (
    benchmarks,
    doctor_collections,
    importer,
    mixtures,
    prepared,
    quiet,
    seqio_tasks,
    sources,
    spec,
)

Status = Literal["prepared", "incomplete", "wrong version", "download", "manual"]

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_UNSTATED = {"licence": "unstated", "use": "unstated", "basis": ""}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is known about one dataset of the catalogue.

    Attributes:
      dataset: its name in the catalogue.
      cluster: its cluster.
      tfds_name: `super_glue/rte:1.0.2`.
      status: `prepared`; `incomplete` where a split, a file or more is missing; `wrong version` where only others are
        there; `download` where TFDS can fetch it; `manual` where somebody has to fetch files for TFDS.
      splits: rows of each TFDS split that is there.
      bytes: size on disk.
      imported: whether `flan data import` made it, so that it may be a sample.
      published: rows of the TFDS split that training reads, as published.
      licence: its terms.
      use: `open`, `research` or `unstated`.
      licence_basis: `seen` or `recalled` (see `tasks/licences.yaml`); empty where nothing is known.
      problems: what is wrong, one sentence each; empty for `prepared`, but for a remark about the builder.
      steps: what to do by hand before `fix`.
      fix: the shell command that prepares it; empty where nothing needs to be done.
      builder_version: what the installed TFDS builds; None if it was not asked or has no such dataset.
    """

    dataset: str
    cluster: str
    tfds_name: str
    status: Status
    splits: Mapping[str, int]
    bytes: int
    imported: bool
    published: Mapping[str, int]
    licence: str
    use: str
    licence_basis: str
    problems: tuple[str, ...]
    steps: tuple[str, ...]
    fix: str
    builder_version: str | None = None

    @property
    def ready(self) -> bool:
        return self.status == "prepared"


def examine(
    catalogue: mixtures.Catalogue,
    data_dir: str,
    name: str | None = None,
    *,
    splits: Sequence[str] = seqio_tasks.SPLITS,
    builders: bool = False,
) -> list[Finding]:
    """Looks at the datasets of a mixture or task, or of the whole catalogue.

    Args:
      catalogue: knows the datasets.
      data_dir: of prepared TFDS datasets, local or gs://.
      name: a mixture or task; None for every dataset.
      splits: out of `train`, `validation` and `test`, those that have to be there, in datasets that have them.
      builders: whether to ask the installed TFDS which versions it builds (imports TensorFlow: several seconds).

    Raises:
      FlanError: unknown name or split.
    """
    for split in splits:
        if split not in seqio_tasks.SPLITS:
            raise errors.unknown("split", split, seqio_tasks.SPLITS)
    licences, manual = _project_data("licences"), _project_data("manual_downloads")
    found = []
    for dataset in _datasets(catalogue, name):
        finding = _examine(dataset, data_dir, splits, manual.get(dataset.tfds_dataset, {}))
        terms = licences.get(dataset.tfds_dataset, _UNSTATED)
        finding = dataclasses.replace(finding, licence=terms["licence"], use=terms["use"], licence_basis=terms["basis"])
        ask = builders and not _public_files(manual.get(dataset.tfds_dataset, {}))
        found.append(_with_builder(finding, dataset, data_dir) if ask else finding)
    return found


def show(
    found: Sequence[Finding],
    data_dir: str,
    *,
    as_json: bool,
    not_examined: Sequence[str] = (),
    collections: Sequence[doctor_collections.CollectionFinding] = (),
) -> int:
    """Prints the findings as a table with what there is to do below it, or as JSON.

    Returns:
      The exit code: 0 if every dataset and every collection that counts is ready, else 1.
    """
    ready = all(finding.ready for finding in found) and all(c.ready for c in collections if c.counts)
    if as_json:
        entries = [{**dataclasses.asdict(finding), "ready": finding.ready} for finding in found]
        content = {"data_dir": data_dir, "ready": ready, "datasets": entries, "not_examined": list(not_examined)}
        content["collections"] = [{**dataclasses.asdict(finding), "ready": finding.ready} for finding in collections]
        json.dump(content, sys.stdout, indent=1, ensure_ascii=False)
        print()
        return 0 if ready else 1
    if found:
        _print_table(found)
        _print_remedies(found)
    doctor_collections.show(collections)
    missing = sum(not finding.ready for finding in found)
    # Several datasets of the catalogue may read one prepared directory.
    there = {finding.tfds_name: finding for finding in found}.values()
    rows, size = sum(sum(finding.splits.values()) for finding in there), sum(finding.bytes for finding in there)
    if found:
        print(
            f"\n{len(found) - missing} of {len(found)} datasets are ready in {data_dir}: {rows:,} rows, {_size(size)}"
        )
    if not_examined:
        print(f"not examined, as seqio's registries hold them: {', '.join(not_examined)}")
    return 0 if ready else 1


def add_parser(commands: Any, default_module: str) -> None:
    """Adds `doctor` to the commands of `flan data`.

    Args:
      commands: what `ArgumentParser.add_subparsers` returned.
      default_module: module that defines SPECS if none is given.
    """
    parser = commands.add_parser("doctor", help="what is prepared, what is missing, and the command that mends it")
    parser.add_argument("name", nargs="?", help="a mixture or task; every dataset of the module if not given")
    parser.add_argument("--module", default=default_module, help="module that defines SPECS")
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument(
        "--splits", default=",".join(seqio_tasks.SPLITS), help="comma-separated splits that have to be there"
    )
    parser.add_argument("--suite", help="of `flan eval --suite`: look for what it reads instead")
    parser.add_argument("--builders", action="store_true", help="ask the installed TFDS which versions it builds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(given: argparse.Namespace) -> int:
    """Runs `flan data doctor`; returns its exit code, 1 if a dataset is not ready."""
    # Before the first download there may be no directory; one that is named has to exist.
    chosen = given.tfds_data_dir or os.environ.get("TFDS_DATA_DIR")
    data_dir = sources.resolve_data_dir(chosen) if chosen else os.path.expanduser("~/tensorflow_datasets")
    if given.suite:
        return benchmarks.show(data_dir, [given.suite])
    catalogue = mixtures.Catalogue.from_modules(given.module)
    found = examine(catalogue, data_dir, given.name, splits=given.splits.split(","), builders=given.builders)
    others = _not_examined(catalogue, given.name)
    collections = doctor_collections.examine(catalogue, data_dir, given.name)
    if not found and not collections:
        raise errors.FlanError(f"no dataset to examine in {given.name or given.module!r}")
    return show(found, data_dir, as_json=given.json, not_examined=others, collections=collections)


def _datasets(catalogue: mixtures.Catalogue, name: str | None) -> list[spec.DatasetSpec]:
    if name is None:
        return list(catalogue.specs)
    tasks = (catalogue.tasks.find(task) for task in catalogue.mixture(name).tasks)
    own = catalogue.blends.own  # of collections, which are summed up
    return list({t.dataset.name: t.dataset for t in tasks if t is not None and t.dataset.name not in own}.values())


def _not_examined(catalogue: mixtures.Catalogue, name: str | None) -> list[str]:
    """Tasks that a user has put into seqio's registries: where their rows are is theirs to know."""
    if name is None:
        return []
    return [task for task in catalogue.mixture(name).tasks if catalogue.tasks.find(task) is None]


def _project_data(name: str) -> dict[str, Any]:
    path = shipped.directory("tasks") / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _examine(dataset: spec.DatasetSpec, data_dir: str, splits: Sequence[str], by_hand: Mapping[str, Any]) -> Finding:
    """Examines one dataset, but for its licence and builder.

    Args:
      dataset: of the catalogue.
      data_dir: of prepared datasets.
      splits: that have to be there.
      by_hand: its entry in `tasks/manual_downloads.yaml`, or nothing.
    """
    from etils import epath

    root = epath.Path(data_dir)
    directory = root / dataset.tfds_dataset / dataset.version
    sizes: dict[str, int] = {}
    public = _public_files(by_hand)
    imported = public
    status: Status = "prepared"
    manual_dir = root / "downloads" / "manual"
    lacking = [file for file in by_hand.get("files", ()) if not (manual_dir / file).exists()]
    train = re.match(r"\w+", dataset.splits.get("train", ""))
    if (directory / "dataset_info.json").exists():
        imported = (directory / importer.RECORD).exists()
        sizes, problems = _prepared_problems(directory, dataset, splits)
        status = "incomplete" if problems else "prepared"
    else:
        versions = _other_versions(root / dataset.tfds_dataset)
        status = "manual" if lacking or public else "download"
        problems = [f"{dataset.tfds_name} is not prepared"]
        if versions:
            status = "wrong version"
            problems = [f"version {dataset.version} is asked for; prepared: {', '.join(versions)}"]
    steps: list[str] = []
    if status != "prepared" and public:
        steps = list(by_hand["steps"])
    elif status == "incomplete" and imported:
        steps = [f"Have the records of every split in a folder RECORDS: {dataset.tfds_dataset}/<split>.jsonl."]
    elif status != "prepared" and lacking:
        problems.append(f"{manual_dir} lacks {', '.join(lacking)}")
        steps = [step.replace("MANUAL_DIR", str(manual_dir)) for step in by_hand["steps"]]
    return Finding(
        dataset=dataset.name,
        cluster=dataset.cluster,
        tfds_name=dataset.tfds_name,
        status=status,
        splits=sizes,
        bytes=_bytes(directory) if sizes else 0,
        imported=imported,
        published={train[0]: dataset.train_rows} if train and dataset.train_rows else {},
        problems=tuple(problems),
        steps=tuple(steps),
        fix="" if status == "prepared" else _fix(dataset.tfds_name, data_dir, imported, again=status == "incomplete"),
        licence="",
        use="",
        licence_basis="",
    )


def _public_files(by_hand: Mapping[str, Any]) -> bool:
    """Whether TFDS has no builder, so that a dataset is imported from public files."""
    return "columns" in by_hand or "fields" in by_hand


def _prepared_problems(
    directory: Any, dataset: spec.DatasetSpec, splits: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """Returns the rows of each TFDS split in a prepared directory, and what is wrong with it."""
    info = directory / "dataset_info.json"
    try:
        sizes = prepared.split_sizes(info)
    except errors.FlanError as error:
        return {}, [str(error)]
    content = json.loads(info.read_text(encoding="utf-8"))
    problems = []
    file_format = content.get("fileFormat", "tfrecord")
    if file_format != "tfrecord":
        problems.append(f"stored as {file_format}; expected tfrecord")
    for split in content.get("splits", ()) if not problems else ():
        shards, files = len(split.get("shardLengths", ())), len(list(directory.glob(f"*-{split['name']}.tfrecord*")))
        if files < shards:
            problems.append(f"split {split['name']!r} has {files} of {shards} files")
    resolved = sources.resolve_splits(dataset.splits, sizes)
    for name in splits:
        found = resolved.get(name)  # wsc273 has a test split only
        if isinstance(found, errors.FlanError):
            problems.append(f"{name} is {dataset.splits[name]!r}: {found}")
        elif found is not None and found[1] == found[2]:
            problems.append(f"{name} is {dataset.splits[name]!r}: no rows")
    return sizes, problems


def _other_versions(folder: Any) -> list[str]:
    if not folder.exists():
        return []
    names = (entry.name for entry in folder.iterdir() if (entry / "dataset_info.json").exists())
    return sorted(name for name in names if _VERSION.fullmatch(name))


def _fix(tfds_name: str, data_dir: str, imported: bool, again: bool) -> str:
    """The command that prepares a dataset; `again` where TFDS would take what is there for the whole."""
    if imported:
        return f"flan data import RECORDS --data_dir {shlex.quote(data_dir)} --keys {tfds_name.split(':')[0]}"
    arguments = f"{json.dumps(tfds_name)}, data_dir={json.dumps(data_dir)}"
    if again:
        config = "tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)"
        arguments += f', download_and_prepare_kwargs={{"download_config": {config}}}'
    return f"python -c {shlex.quote(f'import tensorflow_datasets as tfds; tfds.load({arguments})')}"


def _with_builder(finding: Finding, dataset: spec.DatasetSpec, data_dir: str) -> Finding:
    """Adds what the installed TFDS builds under this name."""
    quiet.tensorflow()
    import tensorflow_datasets as tfds

    try:
        # A directory that is not there, as TFDS would otherwise answer from the prepared files.
        builder = tfds.builder(dataset.tfds_dataset, data_dir=os.path.join(data_dir, ".no-such-directory"))
        versions = [str(version) for version in builder.versions]
        default = str(builder.version)
    except Exception as problem:  # builders are third-party code, and not all of them work offline
        first_line = str(problem).strip().partition("\n")[0]
        remark, default, versions = f"the installed TFDS has no builder that can be used: {first_line}", None, []
    else:
        remark = f"the installed TFDS builds version {', '.join(versions)}, not {dataset.version}"
    if dataset.version in versions:
        return dataclasses.replace(finding, builder_version=default)
    # Nothing that TFDS could be told would prepare it: records have to be imported.
    fix = finding.fix and _fix(finding.tfds_name, data_dir, imported=True, again=False)
    return dataclasses.replace(
        finding, builder_version=default, problems=(*finding.problems, remark), fix=fix, steps=()
    )


def _bytes(directory: Any) -> int:
    return sum(entry.stat().length for entry in directory.iterdir() if entry.is_file())


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _print_table(found: Sequence[Finding]) -> None:
    from rich import console, table, text

    grid = table.Table()
    for column in ("dataset", "TFDS", "status", "rows", "size", "licence"):
        grid.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for finding in found:
        rows = ", ".join(_rows(split, count, finding.published) for split, count in finding.splits.items())
        rows = rows or ", ".join(f"{split} {count:,} (published)" for split, count in finding.published.items())
        licence = finding.licence + (" (recalled)" if finding.licence_basis == "recalled" else "")
        size = _size(finding.bytes) if finding.bytes else ""
        status = text.Text(finding.status, style="green" if finding.ready else "bold red")
        # Text, as rich would read "[...]" in a string as markup.
        cells = [text.Text(cell) for cell in (finding.dataset, finding.tfds_name, rows, size, licence)]
        grid.add_row(*cells[:2], status, *cells[2:])
    console.Console(width=max(140, console.Console().width)).print(grid)


def _rows(split: str, count: int, published: Mapping[str, int]) -> str:
    """`train 2,000 of 392,702` where a sample is there, else `train 2,490`."""
    whole = published.get(split, 0)
    return f"{split} {count:,} of {whole:,}" if count < whole else f"{split} {count:,}"


def _print_remedies(found: Sequence[Finding]) -> None:
    """Prints what is wrong and what to do about it, once for datasets that read the same directory."""
    named: dict[tuple[Any, ...], list[str]] = {}
    for finding in found:
        key = (finding.tfds_name, finding.problems, finding.steps, finding.fix)
        if finding.problems:
            named.setdefault(key, []).append(finding.dataset)
    for (_, problems, steps, fix), datasets in named.items():
        print(f"\n{', '.join(datasets)}: {'; '.join(problems)}")
        for number, step in enumerate(steps, 1):
            print(f"  {number}. {step}")
        if fix:
            print(f"  {fix}")
