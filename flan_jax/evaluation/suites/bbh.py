"""BIG-Bench Hard (Suzgun et al. 2022) as Flan 2022 asks it: 27 subtasks, three exemplars, exact match.

Exemplars come from the data directory's `bbh_cot_prompts`, the authors' own files, which are not to be spread and are never
committed. Asked directly, the same exemplars stand without their rationales.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from flan_jax.data import benchmarks
from flan_jax.evaluation import answers
from flan_jax.evaluation.suites import base, parsing

PROMPTS = "bbh_cot_prompts"
WORDS: dict[str, tuple[str, ...]] = {
    "boolean_expressions": ("True", "False"),
    "causal_judgement": ("Yes", "No"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}
NUMBERS = ("multistep_arithmetic_two", "object_counting")
TEXTS = ("dyck_languages", "word_sorting")

# Score of a guess, in percent, with which Flan 2022's normalised averages come out (arXiv 2210.11416v5, tables 3 and 5): the table was
# fitted to the published rows, as the paper prints none. geometric_shapes has ten options and counts as 0 all the same.
_CHANCE = {
    50.0: (
        *("boolean_expressions", "causal_judgement", "formal_fallacies", "hyperbaton", "navigate", "snarks"),
        *("sports_understanding", "web_of_lies"),
    ),
    100 / 3: (
        "disambiguation_qa",
        "logical_deduction_three_objects",
        "tracking_shuffled_objects_three_objects",
    ),
    25.0: ("movie_recommendation", "ruin_names", "temporal_sequences"),
    20.0: (
        "logical_deduction_five_objects",
        "tracking_shuffled_objects_five_objects",
        "penguins_in_a_table",
    ),
    100 / 6: ("date_understanding", "salient_translation_error_detection"),
    100 / 7: ("logical_deduction_seven_objects", "tracking_shuffled_objects_seven_objects"),
    100 / 18: ("reasoning_about_colored_objects",),
}
CHANCE = {name: chance for chance, names in _CHANCE.items() for name in names}


def kind(subtask: str) -> Literal["word", "number", "text", "letter"]:
    """What the answers of a subtask are."""
    if subtask in WORDS:
        return "word"
    if subtask in NUMBERS:
        return "number"
    return "text" if subtask in TEXTS else "letter"


def present(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """The subtasks that have questions."""
    return [name for name in benchmarks.BBH_SUBTASKS if reader.has(f"bbh/{name}", how.split or SUITE.split)]


def questions(reader: benchmarks.Reader, subtask: str, how: base.How) -> Iterator[base.Question]:
    """The questions of one subtask."""
    rows = reader.rows(f"bbh/{subtask}", how.split or SUITE.split)
    shots = SUITE.shots if how.shots is None else how.shots
    header, pairs = prompt(reader, subtask)
    exemplars = tuple(exemplar(question, answer, cot=how.cot) for question, answer in pairs[:shots])
    phrase = how.phrase(len(exemplars))
    begin = f" {phrase}" if phrase else ""
    for number in base.first(len(rows), how.limit):
        row = rows[number]
        query = f"Q: {row['input'].strip()}\nA:{begin}"
        yield base.Question(subtask, number, header, exemplars, query, (row["target"].strip(),), words=row["input"])


def prompt(reader: benchmarks.Reader, subtask: str) -> tuple[str, list[tuple[str, str]]]:
    """What a subtask is about, and its questions with reasoned answers; nothing of both where there is no prompt for it."""
    for row in reader.rows(PROMPTS, "prompts"):
        if row["task"] == subtask:
            return base.split_prompt(row["prompt"])
    return "", []


def exemplar(question: str, answer: str, *, cot: bool) -> str:
    """A question with its answer, whose reasons are left out where none are asked for."""
    return f"Q: {question}\nA: {answer if cot else gold(answer)}"


def gold(answer: str) -> str:
    """The answer that a reasoned answer of the published prompts ends in."""
    found = parsing.clause(answer, cot=True)
    assert found is not None, answer
    return found


def parse(output: str, subtask: str, cot: bool) -> str | None:
    """The answer in an output: one of the subtask's words, a number, a letter as "(B)", or text."""
    which = kind(subtask)
    if which == "word":
        return parsing.word(output, WORDS[subtask], cot=cot)
    if which == "number":
        return answers.extract(output, "number")
    found = parsing.letter(output, cot=cot) if which == "letter" else None
    return found or parsing.clause(output, cot=cot)


def right(parsed: str, targets: Sequence[str], subtask: str) -> bool:
    """Exact match, but for spaces and a full stop. A few answers of subtasks with options are not letters."""
    if kind(subtask) == "number":
        return parsed in map(answers.normal_form, targets)
    return parsing.plain(parsed) in map(parsing.plain, targets)


def notes(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """Says which subtasks have no exemplars."""
    known = {row["task"] for row in reader.rows(PROMPTS, "prompts")}
    lacking = [name for name in present(reader, how) if name not in known]
    return [f"no exemplars in {PROMPTS} for {', '.join(lacking)}"] if lacking and how.shots != 0 else []


SUITE = base.Suite(
    name="bbh",
    title="BIG-Bench Hard",
    subtasks=benchmarks.BBH_SUBTASKS,
    shots=3,
    split="test",
    cot=(False, True),
    present=present,
    questions=questions,
    parse=parse,
    right=right,
    chance=lambda subtask: CHANCE.get(subtask, 0.0),
    max_tokens=64,
    stop=("Q:",),
    notes=notes,
)
