"""MGSM (Shi et al. 2022) as Flan 2022 asks it: 10 languages without English, eight exemplars that reason in the language itself.

Exemplars come from the data directory's `mgsm_exemplars`, the authors' own. What a question and its answer begin with
("Frage:", "Schritt-für-Schritt-Antwort:") is taken from them.
"""

import functools
import re
from collections.abc import Iterator, Sequence

from flan_jax.data import benchmarks
from flan_jax.evaluation import answers
from flan_jax.evaluation.suites import base, parsing

EXEMPLARS = "mgsm_exemplars"
_PREFIX = re.compile(r"[^:：]{1,40}[:：]\s?")


def present(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """The languages that have questions; English only if it is asked for."""
    wanted = [*SUITE.subtasks, *(["en"] if "en" in how.subtasks else [])]
    return [code for code in wanted if reader.has(f"mgsm/{code}", how.split or SUITE.split)]


def questions(reader: benchmarks.Reader, subtask: str, how: base.How) -> Iterator[base.Question]:
    """The questions in one language; how they are asked is the same with and without exemplars."""
    rows = reader.rows(f"mgsm/{subtask}", how.split or SUITE.split)
    pairs = exemplars(reader).get(subtask, [])
    before, after = prefixes(pairs)
    shots = SUITE.shots if how.shots is None else how.shots
    shown = tuple(f"{question}\n{answer}" for question, answer in pairs[:shots])
    for number in base.first(len(rows), how.limit):
        row = rows[number]
        query = f"{before}{row['question'].strip()}\n{after.rstrip()}"
        right = (answers.normal_form(row["answer"]),)
        yield base.Question(subtask, number, "", shown, query, right, words=row["question"])


@functools.lru_cache(maxsize=4)
def exemplars(reader: benchmarks.Reader) -> dict[str, list[tuple[str, str]]]:
    """Language -> its (question, reasoned answer) pairs in the authors' order, their prefixes included."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for row in reader.rows(EXEMPLARS, "exemplars"):
        found.setdefault(row["language"], []).append((int(row["number"]), row["q"].strip(), row["a"].strip()))
    return {code: [(q, a) for _, q, a in sorted(pairs)] for code, pairs in found.items()}


def prefixes(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """What questions and answers of one language begin with; English words where there is no exemplar."""
    if not pairs:
        return "Question: ", "Step-by-Step Answer: "
    question, answer = (_PREFIX.match(text) for text in pairs[0])
    return question[0] if question else "", answer[0] if answer else ""


def parse(output: str, subtask: str, cot: bool) -> str | None:
    """The number behind the language's "the answer is", else the last one."""
    return parsing.integer(output, subtask)


def right(parsed: str, targets: Sequence[str], subtask: str) -> bool:
    """Exact match of numbers."""
    return parsed in targets


def notes(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """Says which languages have no exemplars."""
    known = exemplars(reader)
    lacking = [code for code in present(reader, how) if code not in known]
    return [f"no exemplars in {EXEMPLARS} for {', '.join(lacking)}"] if lacking else []


SUITE = base.Suite(
    name="mgsm",
    title="MGSM",
    subtasks=tuple(code for code in benchmarks.MGSM_LANGUAGES if code != "en"),
    shots=8,
    split="test",
    cot=(True,),
    present=present,
    questions=questions,
    parse=parse,
    right=right,
    chance=lambda subtask: 0.0,
    max_tokens=256,
    stop=(
        "Question:",
        "Frage:",
        "Pregunta:",
        "Question :",
        "Задача:",
        "Swali:",
        "প্রশ্ন:",
        "ప్రశ్న:",
        "โจทย์:",
        "問題：",
        "问题：",
    ),
    notes=notes,
)
