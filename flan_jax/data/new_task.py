"""`flan new-task`: a module, a template file and a test for a dataset of the user's own, from its TFDS features."""

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.data import (
    features_json,
    mixtures,
    prepared,
    quiet,
    scaffold,
    scaffold_text,
    sources,
    spec,
    template_lint,
)

# Names of tasks and mixtures are made of dataset names and these: `rte_type_3`, `rte_10templates_five_shot`.
_STYLED = re.compile(r".*_(\d+templates|type_\d+|shot|eval|options)(_.*)?")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TFDS_NAME = re.compile(r"(?P<dataset>[a-z][a-z0-9_]*(/[\w+\-.]+)?)(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
_LOOKED_AT = 50  # rows of a split, to see whether its labels are withheld


@dataclasses.dataclass(frozen=True)
class Builder:
    """What is known about a TFDS dataset.

    Attributes:
      name: `super_glue/rte:1.0.2`.
      schema: of a row.
      rows: of each split, where the dataset is prepared.
      data_dir: where it is prepared, or None.
    """

    name: str
    schema: features_json.Struct
    rows: Mapping[str, int]
    data_dir: str | None


def create(
    name: str,
    tfds_name: str,
    *,
    out: str | os.PathLike[str] = ".",
    cluster: str | None = None,
    data_dir: str | None = None,
    module: str | None = None,
) -> list[pathlib.Path]:
    """Writes `NAME_task.py`, `NAME.yaml` and `test_NAME_task.py`.

    Args:
      name: of the dataset; tasks are called after it (`NAME_type_0`).
      tfds_name: `NAME[/CONFIG][:VERSION]`, prepared in `data_dir` or known to TFDS.
      out: an existing or new folder.
      cluster: what the dataset is held out with; its own name if not given.
      data_dir: of prepared datasets, or `sample`; looked at before TFDS's own builders.
      module: whose datasets' names are taken, or None.

    Returns:
      The files, in the order above. Either all of them are written or none.

    Raises:
      FlanError: a name cannot be used or is taken, there is no such dataset, a file exists already, or a row has
        nothing to ask about.
    """
    _check_name(name, "dataset name")
    cluster = cluster or name
    _check_name(cluster, "cluster")
    taken = mixtures.Catalogue.from_modules(module).specs
    if name in taken:
        raise errors.FlanError(
            f"dataset name {name!r} is taken: {taken[name].tfds_name} in {module}; expected e.g. 'my_{name}'"
        )
    folder = pathlib.Path(out)
    files = [folder / f"{name}_task.py", folder / f"{name}.yaml", folder / f"test_{name}_task.py"]
    for file in files:
        if file.exists():
            raise errors.FlanError(f"{file} exists and is left as it is; expected another name, or --out=FOLDER")
    builder = find_builder(tfds_name, data_dir)
    try:
        plan = scaffold.plan(builder.schema)
    except errors.FlanError as error:
        raise errors.FlanError(f"{builder.name}: {error}") from None
    # Of a dataset that is not here, the catalogue knows the splits if it has it under another name.
    same = next((ours for ours in taken if ours.tfds_name == builder.name), None) if not builder.rows else None
    splits = dict(same.splits) if same else choose_splits(builder, plan)
    rows = {splits.get("train", "").partition("[")[0]: same.train_rows} if same else builder.rows
    source = scaffold_text.module(name, cluster, builder.name, plan, splits, rows)
    # Put together out of sight, so that a failure leaves nothing behind.
    with tempfile.TemporaryDirectory() as hidden:
        made = [pathlib.Path(hidden) / file.name for file in files]
        made[0].write_text(source, encoding="utf-8")
        made[1].write_text(scaffold_text.templates(name, plan), encoding="utf-8")
        dataset = _load(made[0])
        problems = template_lint.lint(dataset)
        if problems:
            raise AssertionError(f"templates made for {builder.name}: {problems}")
        made[2].write_text(scaffold_text.test(name, plan, dataset, builder.data_dir), encoding="utf-8")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in zip(files, [path.read_text(encoding="utf-8") for path in made], strict=True):
                with open(file, "x", encoding="utf-8") as opened:
                    opened.write(content)
        except OSError as problem:
            raise errors.FlanError(f"{problem.filename or folder}: cannot be written ({problem.strerror})") from None
    return files


def _check_name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name) or _STYLED.fullmatch(name):
        raise errors.FlanError(
            f"{kind} {name!r} is refused; expected lower-case letters, digits and '_', a letter first, "
            "and no ending of a task's name such as '_type_0' or '_10templates'"
        )


def _load(file: pathlib.Path) -> spec.DatasetSpec:
    """Imports a module that was just written, under no name that anything else could find."""
    found = importlib.util.spec_from_file_location(f"_flan_jax_{file.stem}", file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.SPECS[0]


def find_builder(tfds_name: str, data_dir: str | None) -> Builder:
    """Returns what is known about a dataset: from its prepared directory, else from TFDS's builder, offline.

    Args:
      tfds_name: `NAME[/CONFIG][:VERSION]`.
      data_dir: of prepared datasets, `sample`, or None for TFDS's builders and `$TFDS_DATA_DIR`.

    Raises:
      FlanError: it is neither prepared nor known to TFDS, or TFDS does not know its features without the network.
    """
    match = _TFDS_NAME.fullmatch(tfds_name)
    if not match:
        raise errors.FlanError(
            f"--tfds {tfds_name!r} is not understood; expected NAME[/CONFIG][:VERSION], such as 'super_glue/rte:1.0.2'"
        )
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    root = sources.resolve_data_dir(chosen) if chosen else os.path.expanduser("~/tensorflow_datasets")
    present = prepared.prepared_datasets(root)
    versions = [found for found in present if found.name.partition(":")[0] == match["dataset"]]
    fitting = [found for found in versions if match["version"] in (None, found.name.partition(":")[2])]
    if fitting:
        newest = max(fitting, key=lambda found: tuple(map(int, found.name.partition(":")[2].split("."))))
        schema = _schema(newest.name, _prepared_info(newest.directory))
        return Builder(newest.name, schema, newest.splits, chosen or root)
    if versions:
        known = ", ".join(found.name.partition(":")[2] for found in versions)
        raise errors.FlanError(f"{match['dataset']!r} is prepared in {root} in version {known}, not {match['version']}")
    name, info = _tfds_info(match["dataset"], match["version"], [found.name for found in present])
    return Builder(name, _schema(name, info), {}, None)


def _prepared_info(directory: pathlib.Path) -> Any:
    quiet.tensorflow()
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(directory)).info


def _tfds_info(dataset: str, version: str | None, present: Sequence[str]) -> tuple[str, Any]:
    quiet.tensorflow()
    import tensorflow_datasets as tfds

    name, _, config = dataset.partition("/")
    try:
        builder_cls = tfds.builder_cls(name)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *(p.partition(":")[0] for p in present)]
        raise errors.FlanError(
            f"{errors.unknown('dataset', dataset, known)}; a dataset of your own is prepared by `flan data import` and "
            "found with --tfds_data_dir=DIR"
        ) from None
    if config and config not in builder_cls.builder_configs:
        raise errors.unknown(f"config of {name}", config, builder_cls.builder_configs)
    with tempfile.TemporaryDirectory() as empty:
        try:
            builder = tfds.builder(dataset, data_dir=empty)
            known = [str(known) for known in builder.versions]
            if version not in (None, *known):
                raise errors.unknown(f"version of {dataset}", str(version), known)
            if version:
                builder = tfds.builder(f"{dataset}:{version}", data_dir=empty)
            # A dataset with configs has a default one; the name says which.
            chosen = f"{name}/{builder.builder_config.name}" if builder.builder_config else name
            return f"{chosen}:{builder.version}", builder.info
        except errors.FlanError:
            raise
        except Exception as problem:  # builders are third-party code: some download in order to know their features
            raise errors.FlanError(
                f"the TFDS builder of {dataset!r} does not know its features without the network "
                f"({type(problem).__name__}: {problem}); prepare it and give --tfds_data_dir=DIR"
            ) from None


def _schema(name: str, info: Any) -> features_json.Struct:
    schema = features_json.from_features(info.features) if info.features is not None else None
    if not isinstance(schema, features_json.Struct):
        raise errors.FlanError(f"{name}: its rows are no dictionaries of named features, so there is nothing to go by")
    return schema


def choose_splits(builder: Builder, plan: scaffold.Plan) -> dict[str, str]:
    """Picks train, validation and test; a split whose labels are withheld is passed over, one that is not there carved.

    Of a dataset that is neither prepared nor in the catalogue the names are a guess: its own train and test split.
    """
    if not builder.rows:
        return {"train": "train[:-200]", "validation": "train[-200:]", "test": "test"}
    there = [name for name, rows in builder.rows.items() if rows and not _withheld(builder, name, plan)]
    train = next((name for name in there if name.startswith("train")), None)
    validation = next((name for name in there if name.startswith(("validation", "valid", "val", "dev"))), None)
    test = next((name for name in there if name.startswith("test")), None)
    if train is None and validation is None:
        return {"test": test or there[0]} if there else {"test": next(iter(builder.rows))}
    if train is None:
        train, validation = validation, None
    if test is None:
        test, validation = validation, None
    if test is None:
        return {"train": f"{train}[:-400]", "validation": f"{train}[-400:-200]", "test": f"{train}[-200:]"}
    if validation is None:
        return {"train": f"{train}[:-200]", "validation": f"{train}[-200:]", "test": test}
    return {"train": str(train), "validation": validation, "test": test}


def _withheld(builder: Builder, split: str, plan: scaffold.Plan) -> bool:
    """Whether the first rows of a prepared split all have -1 for a label, as GLUE's test splits do."""
    if builder.data_dir is None or not isinstance(plan.answer.schema, features_json.Label):
        return False
    rows = sources.PreparedDataset(sources.resolve_data_dir(builder.data_dir), builder.name).rows({split: split}, split)
    for index in range(min(_LOOKED_AT, len(rows))):
        value: Any = rows[index]
        for name in plan.answer.path:
            value = value[name]
        if value >= 0:
            return False
    return True


def run(argv: Sequence[str], default_module: str) -> int:
    """Runs `flan new-task`; prints what to do next; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="flan new-task", description="Writes a module, a template file and a test for a dataset of your own."
    )
    parser.add_argument("name", help="what to call it: lower-case letters, digits and '_'")
    parser.add_argument("--tfds", required=True, metavar="NAME", help="TFDS name, such as super_glue/rte:1.0.2")
    parser.add_argument("--out", default=".", help="folder for the three files; the current one if not given")
    parser.add_argument("--cluster", help="what it is held out with; a cluster of its own if not given")
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    given = parser.parse_args(argv)
    files = create(
        given.name,
        given.tfds,
        out=given.out,
        cluster=given.cluster,
        data_dir=given.tfds_data_dir,
        module=default_module,
    )
    print("wrote " + ", ".join(map(str, files)))
    print(scaffold_text.next_steps(given.name, files, given.tfds_data_dir))
    clusters = mixtures.Catalogue.from_modules(default_module).specs.clusters()
    if given.cluster and given.cluster not in clusters and "did you mean" in errors.nearest(given.cluster, clusters):
        print(f"note: cluster {given.cluster!r} is new{errors.nearest(given.cluster, clusters)}")
    return 0
