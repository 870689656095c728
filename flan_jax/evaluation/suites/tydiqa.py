"""TyDiQA's gold-passage task (Clark et al. 2020) as Flan 2022 asks it: 8 languages without English, one exemplar, exact match.

The paper prints no prompt; this one is ours. The exemplar is a row of `train` in the question's language, one for all its
questions, drawn by the seed among those whose passage has at most 600 characters (the median has 500), so that it leaves room.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

from flan_jax.data import benchmarks, stateless
from flan_jax.data.spec import Row
from flan_jax.evaluation import metrics
from flan_jax.evaluation.suites import base

DATASET = "tydi_qa/goldp"
# Language code -> what the ids of its rows begin with.
LANGUAGES = {
    "ar": "arabic",
    "bn": "bengali",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}
_HEADER = "Read the passage, then answer the question with words of the passage."
_SHORT = 600  # characters of an exemplar's passage


def query(row: Row) -> str:
    """A passage with its question, up to where the answer begins."""
    return f"Passage: {row['context'].strip()}\nQuestion: {row['question'].strip()}\nAnswer:"


def present(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """The languages that have questions."""
    found = _rows_by_language(reader, how.split or SUITE.split)
    return [code for code in LANGUAGES if code in found]


def questions(reader: benchmarks.Reader, subtask: str, how: base.How) -> Iterator[base.Question]:
    """The questions in one language."""
    split = how.split or SUITE.split
    rows = reader.rows(DATASET, split)
    numbers = _rows_by_language(reader, split)[subtask]
    exemplars = _exemplars(reader, subtask, SUITE.shots if how.shots is None else how.shots, how.seed)
    for at in base.first(len(numbers), how.limit):
        row = rows[numbers[at]]
        accepted = tuple(dict.fromkeys(text.strip() for text in row["answers"]["text"]))
        words = f"{row['context']}\n{row['question']}"
        yield base.Question(subtask, at, _HEADER, exemplars, query(row), accepted, words=words)


def parse(output: str, subtask: str, cot: bool) -> str | None:
    """The first line."""
    lines = output.strip().splitlines()
    return lines[0].strip() if lines else None


def right(parsed: str, targets: Sequence[str], subtask: str) -> bool:
    """Exact match with any answer as SQuAD's script has it: case, punctuation and spaces do not count."""
    return metrics.normalize_squad(parsed) in map(metrics.normalize_squad, targets)


def notes(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """Says which languages have no exemplar."""
    if how.shots == 0:
        return []
    known = _rows_by_language(reader, "train")
    lacking = [code for code in present(reader, how) if code not in known]
    return [f"no train rows in {', '.join(lacking)}: asked without an exemplar"] if lacking else []


def _exemplars(reader: benchmarks.Reader, language: str, shots: int, seed: int) -> tuple[str, ...]:
    if not shots:
        return ()
    numbers = _rows_by_language(reader, "train").get(language, [])
    rows, found = reader.rows(DATASET, "train"), []
    key = stateless.name_key(f"{DATASET}/{language}")
    for order in sorted(numbers, key=lambda number: int(stateless.hash64(seed, key, number))):
        if len(found) == shots:
            break
        row: Mapping = rows[order]
        if len(row["context"]) <= _SHORT:
            found.append(f"{query(row)} {row['answers']['text'][0].strip()}")
    return tuple(found)


@functools.lru_cache(maxsize=4)
def _rows_by_language(reader: benchmarks.Reader, split: str) -> dict[str, list[int]]:
    """The numbers of each language's rows; rows are not kept."""
    codes = {name: code for code, name in LANGUAGES.items()}
    found: dict[str, list[int]] = {}
    for number, row in enumerate(reader.rows(DATASET, split)):
        code = codes.get(row["id"].split("-")[0])
        if code:
            found.setdefault(code, []).append(number)
    return found


SUITE = base.Suite(
    name="tydiqa",
    title="TyDiQA gold passage",
    subtasks=tuple(LANGUAGES),
    shots=1,
    split="validation",
    cot=(False,),
    present=present,
    questions=questions,
    parse=parse,
    right=right,
    chance=lambda subtask: 0.0,
    max_tokens=64,
    stop=("Passage:", "Question:"),
    notes=notes,
)
