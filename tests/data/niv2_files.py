"""Checkouts of Natural Instructions' form for tests: ten small tasks of our own, and any others.

    python tests/data/niv2_files.py RECORDS DATA_DIR

makes one in DATA_DIR of a folder of records, for `tests/tasks/test_real_collections.py`.
"""

import collections
import gzip
import json
import pathlib
import shutil
import sys
from typing import Any

from flan_jax.data import mixtures, natural_instructions, spec
from flan_jax.tasks import niv2

TEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "niv2" / "tasks"


def content(rows: int = 8, **changed: Any) -> dict[str, Any]:
    """The content of a well-formed file; `changed` replaces fields, None takes one away."""
    found = {
        "Definition": ["Say what comes next."],
        "Positive Examples": [{"input": "one", "output": "two", "explanation": ""}],
        "Source": ["made up"],
        "Categories": ["Text Completion"],
        "Instances": [{"id": f"t-{n}", "input": f"input {n}", "output": [f"output {n}"]} for n in range(rows)],
    }
    return {key: value for key, value in (found | changed).items() if value is not None}


def checkout(root: pathlib.Path, **tasks: Any) -> str:
    """Writes a checkout under a data directory, each task given by its content or its text; returns the data directory."""
    folder = root / natural_instructions.FOLDER / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in tasks.items():
        text = given if isinstance(given, str) else json.dumps(given, indent=4, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return str(root)


def ten(root: pathlib.Path) -> str:
    """The same with the ten tasks of our own."""
    shutil.copytree(TEN, root / natural_instructions.FOLDER / "tasks", dirs_exist_ok=True)
    return str(root)


def from_records(records: pathlib.Path, root: pathlib.Path) -> str:
    """The same of records: `tasks/tasks.jsonl.gz`, a line a task, and `TASK/train.jsonl.gz`, a line an instance and output."""
    tasks = {}
    for task in _lines(records / "tasks" / "tasks.jsonl.gz"):
        outputs: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
        for line in _lines(records / task["task_name"] / "train.jsonl.gz"):
            outputs[line["id"], line["input"]].append(line["output"])
        tasks[task["task_name"]] = content(
            **{
                "Definition": [task["definition"]],
                "Positive Examples": task["positive_examples"],
                "Source": task["source"],
                "Categories": task["categories"],
                "Instances": [{"id": key, "input": text, "output": said} for (key, text), said in outputs.items()],
            }
        )
    return checkout(root, **tasks)


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def names() -> list[str]:
    return sorted(path.stem for path in TEN.iterdir())


def catalogue(*tasks: str, tested: bool = False) -> mixtures.Catalogue:
    """Knows these tasks as the collection `mine`."""

    def datasets() -> tuple[spec.DatasetSpec, ...]:
        return tuple(niv2.dataset(task, tested=tested) for task in tasks)

    collection = spec.Collection("mine", niv2.STYLES, datasets=datasets, maximum=niv2.MAXIMUM)
    return mixtures.Catalogue([], collections=[collection])


if __name__ == "__main__":
    print(from_records(*map(pathlib.Path, sys.argv[1:])))
