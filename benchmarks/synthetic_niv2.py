"""Writes a checkout of Natural Instructions' form with made-up tasks, to measure with where the real one is not at hand.

    python benchmarks/synthetic_niv2.py DATA_DIR [--tasks 1613] [--rows 400]

Files, fields and sizes are like the real ones (a definition of 60 words, two positive examples, inputs of 10 to 200 words,
every third task a choice), the words are drawn by hash.
"""

import argparse
import json
import pathlib

import numpy as np

from flan_jax.data import natural_instructions, stateless
from flan_jax.tasks import niv2

_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "it",
    "was",
    "for",
    "on",
    "with",
    "as",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
    "all",
    "were",
    "when",
    "we",
    "there",
    "can",
    "an",
    "your",
    "which",
    "their",
    "said",
    "if",
    "do",
    "will",
    "each",
    "about",
    "how",
    "up",
    "out",
    "them",
    "then",
    "she",
    "many",
    "some",
    "so",
    "these",
    "would",
    "other",
    "into",
    "has",
    "more",
    "her",
    "two",
    "like",
    "him",
    "see",
    "time",
    "could",
    "no",
    "make",
    "than",
    "first",
    "been",
    "its",
    "who",
    "now",
    "people",
    "my",
    "made",
    "over",
    "did",
    "down",
    "only",
    "way",
    "find",
    "use",
    "may",
    "water",
    "long",
    "little",
    "very",
    "after",
    "words",
    "called",
    "just",
    "where",
    "most",
    "know",
    "river",
    "garden",
    "letter",
    "window",
    "market",
    "engine",
    "harbour",
    "silver",
    "winter",
    "morning",
    "paper",
    "question",
    "answer",
    "passage",
    "sentence",
    "people",
    "children",
    "music",
    "mountain",
    "doctor",
    "teacher",
    "summer",
]


def _text(words: int, *key: int) -> str:
    drawn = stateless.below(len(_WORDS), *key, np.arange(words)).tolist()
    return " ".join(_WORDS[number] for number in drawn).capitalize() + "."


def task(name: str, rows: int) -> dict[str, object]:
    """The content of one file."""
    key = stateless.name_key(name)
    options = ["Yes", "No", "Cannot say"][: 2 + key % 2] if key % 3 == 0 else []
    lengths = (10 + 190 * stateless.uniform(key, 1, np.arange(rows + 2)) ** 2).astype(int).tolist()

    def said(row: int) -> str:
        return options[int(stateless.below(len(options), key, 2, row))] if options else _text(1 + row % 12, key, 3, row)

    pairs = [(_text(length, key, 4, row), said(row)) for row, length in enumerate(lengths)]
    return {
        "Contributors": ["nobody"],
        "Source": ["made up"],
        "Categories": ["Text Categorization" if options else "Text Completion"],
        "Definition": [_text(60, key, 5)],
        "Positive Examples": [{"input": x, "output": y, "explanation": ""} for x, y in pairs[:2]],
        "Negative Examples": [],
        "Instances": [{"id": f"{name}-{row}", "input": x, "output": [y]} for row, (x, y) in enumerate(pairs[2:])],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data_dir", type=pathlib.Path)
    parser.add_argument("--tasks", type=int, default=1_613)
    parser.add_argument("--rows", type=int, default=400, help="instances a task")
    given = parser.parse_args()
    folder = given.data_dir / natural_instructions.FOLDER / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    known = [dataset.name.removeprefix(niv2.PREFIX) for dataset in niv2.datasets()]
    names = [*known, *(f"task{9000 + number}_made_up" for number in range(given.tasks))][: given.tasks]
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(task(name, given.rows), indent=4), encoding="utf-8")
    print(f"{len(names)} files in {folder}")


if __name__ == "__main__":
    main()
