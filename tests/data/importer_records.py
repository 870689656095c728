"""Records and small helpers for the tests of the importer."""

import gzip
import json
from pathlib import Path

from flan_jax.data import importer

ARC = {"id": "1", "question": "q", "choices": {"label": [0, 1], "text": ["no", "yes"]}, "answerKey": 1}
RTE = [{"premise": f"premise {i}", "hypothesis": f"hypothesis {i}", "idx": i, "label": i % 2} for i in range(12)]


def write(root: Path, key: str, **splits) -> Path:
    """Writes records, or raw bytes, as `<key>/<split>.jsonl.gz`."""
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in splits.items():
        raw = records if isinstance(records, bytes) else "".join(json.dumps(r) + "\n" for r in records).encode()
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(raw))
    return root


def manifest(root: Path, *entries: dict) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "MANIFEST.json").write_text(json.dumps({"datasets": list(entries)}))
    return root


def plain(value):
    """Returns a TFDS numpy value as JSON would hold it."""
    import numpy as np
    import tensorflow as tf

    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tf.RaggedTensor | tf.compat.v1.ragged.RaggedTensorValue):
        return plain(value.to_list())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def read(directory: Path | None, split: str = "train") -> list:
    import tensorflow_datasets as tfds

    assert directory is not None
    dataset = tfds.builder_from_directory(str(directory)).as_dataset(split=split)  # pyright: ignore[reportCallIssue]
    return [plain(row) for row in tfds.as_numpy(dataset)]


def columns(value):
    """Returns a record as TFDS gives it back: a list of objects is an object of lists."""
    if isinstance(value, dict):
        return {name: columns(item) for name, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [columns(item) for item in value]
        return {name: _stack([row[name] for row in rows]) for name in rows[0]}
    return [columns(item) for item in value] if isinstance(value, list) else value


def _stack(values: list):
    if isinstance(values[0], dict):
        return {name: _stack([value[name] for value in values]) for name in values[0]}
    return values


def problem_of(report: importer.ImportReport) -> str:
    (failed,) = report.failures
    assert report.exit_code == 1
    assert (failed.directory, failed.rows) == (None, 0)
    assert failed.problem
    return failed.problem
