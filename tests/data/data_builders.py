"""Small tasks and mixtures for the tests of the data path: rows in memory, templates in a file."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from importer_records import write

from flan_jax.data import importer, mixtures, seqio_tasks, spec, streams, vocabulary

LENGTHS = {"inputs": 64, "targets": 16}
OPTIONS = ("yes", "no")

TEMPLATES = "".join(
    f'- inputs: "{ask} {{text}}\\n\\n{{options}}"\n  targets: "{{answer}}"\n'
    for ask in ("Is it so?", "Would you agree?", "Say yes or no.", "True?")
)


def rows(count: int, *, words: int = 3) -> list[dict[str, Any]]:
    """Rows whose text tells them apart; lengths differ."""
    return [{"text": f"row {i} " + "word " * (i % (words + 1)), "label": i % 2} for i in range(count)]


def example(row: spec.Row) -> spec.Example | None:
    if row["label"] < 0:
        return None
    return spec.Example(fields={"text": row["text"]}, answer=OPTIONS[row["label"]], options=OPTIONS)


def dataset(
    folder: pathlib.Path,
    name: str = "mini",
    *,
    build: Callable[[spec.Row], spec.Example | None] = example,
    splits: Mapping[str, str] | None = None,
    templates: str = TEMPLATES,
    cluster: str = "mine",
    tfds_name: str | None = None,
) -> spec.DatasetSpec:
    """A user's dataset, its templates in a YAML file of their own."""
    path = folder / f"{name}.yaml"
    path.write_text(templates, encoding="utf-8")
    return spec.DatasetSpec(
        name=name,
        cluster=cluster,
        tfds_name=tfds_name or f"{name}:1.0.0",
        splits=splits or {"train": "train", "validation": "validation", "test": "test"},
        example=build,
        metrics=("accuracy",),
        train_rows=100,
        templates=str(path),
    )


def task(
    of: spec.DatasetSpec, templates: Sequence[int] = (0, 1, 2, 3), *, options: bool = True
) -> seqio_tasks.FlanTask:
    return seqio_tasks.FlanTask(of, f"{len(templates)}templates", seqio_tasks.Style(tuple(templates), options=options))


@functools.cache
def tokenizer() -> vocabulary.Tokenizer:
    return vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary())


def prepare(root: pathlib.Path, name: str, **splits: list[dict[str, Any]]) -> str:
    """Writes records as a prepared TFDS directory; returns the data directory."""
    write(root / "records", name, **splits)
    report = importer.import_datasets(root / "records", root / "tfds")
    assert not report.failures, report.failures
    return str(root / "tfds")


def mixture(
    folder: pathlib.Path,
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
    shuffle: bool = True,
    lengths: dict[str, int] | None = None,
) -> mixtures.OpenMixture:
    """An open mixture over rows in memory."""
    members = []
    for name, count in sizes.items():
        named = [{**row, "text": f"{row['text']}{name}"} for row in rows(count)]
        taken = seqio_tasks.TaskRows(task(dataset(folder, name)), named, cap=None)
        stream = streams.FlanStream(taken, tokenizer(), lengths or LENGTHS, seed, shuffle)
        members.append(mixtures.Member(name, count, float((rates or sizes)[name]), stream))
    return mixtures.OpenMixture("mix", members, shuffle)
