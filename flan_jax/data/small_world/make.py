"""`flan data small-world`: a seed in, prepared datasets, text to pre-train on and a vocabulary out."""

import argparse
import json
import logging
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from flan_jax import errors, shipped
from flan_jax.data import importer, templates
from flan_jax.data.small_world import corpus, pieces, records
from flan_jax.data.small_world import world as world_lib

logger = logging.getLogger(__name__)

NAME = "small-world"
PREFIX = "small_world_"  # of the names of the prepared datasets
TEXT = "small_world_text"
CUT = "small_world_cut"  # the same text in two parts, of which the second can be told from the first
VOCABULARY = "vocabulary.model"
ROWS = 1_000
_FIELD = re.compile(r"\{\w+\}")
_DOCUMENTS = 30  # for one training record of a dataset
# Held back are as many as let 3 points of accuracy be told between arms of five seeds, over two clusters of four datasets.
_TEST, _VALIDATION = 200, 100


def add_parser(commands: Any) -> None:
    """Adds `flan data small-world` to the subcommands of `flan data`."""
    parser = commands.add_parser(
        NAME,
        help="generate the small world: tasks, text and a vocabulary for models of less than a million parameters",
        description="Generates the datasets of flan_jax.tasks.small_world, plain text of the same world to pre-train on, and a "
        "vocabulary of its words. The same seed gives the same rows; another seed has other facts and another invented language.",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where they go; then --tfds_data_dir=DIR")
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"training rows of a dataset, {ROWS} if not given")


def run(given: argparse.Namespace) -> int:
    """Makes a world, as the flags say; returns the exit code."""
    rows = make(given.out, given.seed, given.rows)
    print(f"small world of seed {given.seed}: {len(rows)} datasets, {sum(rows.values()):,} rows in {given.out}")
    print(f"vocabulary: {pathlib.Path(given.out) / VOCABULARY}")
    return 0


def make(out: str, seed: int = 0, rows: int = ROWS) -> dict[str, int]:
    """Writes a world's prepared datasets and vocabulary; what is there of the same world stays as it is.

    Args:
      out: the data directory; a world of another seed that is there is replaced.
      seed: of the world.
      rows: training rows of a dataset; a test split has 200 rows, a validation split 100, fewer where `rows` is less.

    Returns:
      Rows of each dataset, all splits.

    Raises:
      FlanError: `rows` is not positive, `seed` is negative, or nothing can be written there.
    """
    if rows < 1:
        raise errors.FlanError(f"--rows {rows}: expected a number of training rows, at least 1")
    if seed < 0:
        raise errors.FlanError(f"--seed {seed}: expected a number from 0 on")
    world = world_lib.make(seed)
    sizes = {"train": rows, "validation": min(_VALIDATION, rows), "test": min(_TEST, rows)}
    with tempfile.TemporaryDirectory(prefix="small_world") as folder:
        source = pathlib.Path(folder)
        write_records(world, source, sizes)
        report = importer.import_datasets(source, out)
        if report.failures:
            raise errors.FlanError("; ".join(failed.problem or failed.key for failed in report.failures))
        (pathlib.Path(out) / VOCABULARY).write_bytes(pieces.make(vocabulary_texts(world)))
    return {dataset.key: dataset.rows for dataset in report.datasets}


def write_records(world: world_lib.World, source: pathlib.Path, sizes: dict[str, int]) -> None:
    """Writes `<dataset>/<split>.jsonl` of everything, and a manifest that says that TFDS knows none of it."""
    keys = []
    for name in records.MAKERS:
        keys.append(f"{PREFIX}{name}")
        for split, made in records.splits(world, name, sizes).items():
            _write(source / keys[-1] / f"{split}.jsonl", made)
    count = _DOCUMENTS * sizes["train"]
    held = sizes["validation"]
    for split, size, first in (("train", count, 0), ("validation", held, count)):
        _write(
            source / TEXT / f"{split}.jsonl", ({"text": document} for document in corpus.documents(world, size, first))
        )
        cut = corpus.cut(world, size, first)
        _write(source / CUT / f"{split}.jsonl", ({"text": inputs, "answer": targets} for inputs, targets in cut))
    keys += [TEXT, CUT]
    (source / "MANIFEST.json").write_text(json.dumps({"datasets": [{"key": key} for key in keys]}))


def _write(path: pathlib.Path, rows: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def vocabulary_texts(world: world_lib.World) -> Iterator[str]:
    """What the vocabulary has the words of: the same amount of text whatever the number of rows."""
    import yaml

    yield from corpus.documents(world, 4_800)
    yield templates.options_block(("yes", "no"))
    for name in records.MAKERS:
        yield f"[{name}]"  # in the baseline that is asked by a dataset's name
        for record in records.splits(world, name, {"train": 40})["train"]:
            yield from records.texts(record)
    folder = shipped.directory("tasks") / "templates" / "small_world"
    for path in sorted(folder.glob("*.yaml")):
        for template in yaml.safe_load(path.read_text(encoding="utf-8")):
            yield from (_FIELD.sub("", text) for text in template.values() if isinstance(text, str))
