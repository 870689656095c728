"""MMLU (Hendrycks et al. 2021) as Flan 2022 asks it: 57 subjects, five exemplars of the subject's `dev` rows, exact match.

The answer is the letter that the model writes (Flan 2022, appendix D.1: "the model directly gives the answer"); the authors of
MMLU and OPT-IML compare the likelihoods of the four letters, which `flan eval --scoring likelihood` does. Rationales for the
exemplars are no part of MMLU: a run with reasons reads `mmlu_cot_prompts` (a prompt a subject, as Flan 2022's authors publish
them) where it is there, and asks with the trigger phrase alone where it is not.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

from flan_jax.data import benchmarks
from flan_jax.data.spec import Row
from flan_jax.evaluation.suites import base, parsing

LETTERS = ("A", "B", "C", "D")
COT_PROMPTS = "mmlu_cot_prompts"

SUBJECTS = (
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
)


def query(row: Mapping[str, str], begin: str = "") -> str:
    """A question with its four answers, up to where the answer begins.

    Args:
      row: `question`, `A`, `B`, `C` and `D`.
      begin: what the answer begins with.
    """
    options = "\n".join(f"({letter}) {row[letter].strip()}" for letter in LETTERS)
    return f"Q: {row['question'].strip()}\n{options}\nA:{' ' + begin if begin else ''}"


def present(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """The subjects that have questions."""
    found = _rows_by_subject(reader, _split(how))
    return [subject for subject in SUBJECTS if subject in found]


def questions(reader: benchmarks.Reader, subtask: str, how: base.How) -> Iterator[base.Question]:
    """The questions of one subject."""
    rows = reader.rows("mmlu", _split(how))
    header = f"The following are multiple choice questions (with answers) about {subtask.replace('_', ' ')}."
    shots = SUITE.shots if how.shots is None else how.shots
    exemplars = _reasoned(reader, subtask) if how.cot else _direct(reader, subtask)
    numbers = _rows_by_subject(reader, _split(how))[subtask]
    for at in base.first(len(numbers), how.limit):
        row = rows[numbers[at]]
        yield base.Question(
            subtask,
            at,
            header,
            exemplars[:shots],
            query(row, how.phrase(len(exemplars[:shots]))),
            (f"({row['answer']})",),
            tuple(f"({letter})" for letter in LETTERS),
            words="\n".join(row[field] for field in ("question", *LETTERS)),
        )


def parse(output: str, subtask: str, cot: bool) -> str | None:
    """The option letter, as "(B)"."""
    found = parsing.letter(output, cot=cot)
    return found if found in {f"({letter})" for letter in LETTERS} else None


def right(parsed: str, targets: Sequence[str], subtask: str) -> bool:
    """Exact match."""
    return parsed in targets


def notes(reader: benchmarks.Reader, how: base.How) -> list[str]:
    """Says where exemplars have no rationales."""
    if how.cot and how.shots != 0 and not reader.has(COT_PROMPTS, "prompts"):
        return [
            f"no dataset {COT_PROMPTS} with rationales: questions are asked with the phrase {how.phrase(0)!r} alone"
        ]
    return []


def _split(how: base.How) -> str:
    return how.split or SUITE.split


def _direct(reader: benchmarks.Reader, subject: str) -> tuple[str, ...]:
    rows = reader.rows("mmlu", "dev")
    numbers = _rows_by_subject(reader, "dev").get(subject, [])
    return tuple(_answered(rows[number]) for number in numbers)


def _answered(row: Row) -> str:
    return f"{query(row)} ({row['answer']})"


def _reasoned(reader: benchmarks.Reader, subject: str) -> tuple[str, ...]:
    if not reader.has(COT_PROMPTS, "prompts"):
        return ()
    for row in reader.rows(COT_PROMPTS, "prompts"):
        if row["subject"] == subject:
            return tuple(f"Q: {question}\nA: {answer}" for question, answer in base.split_prompt(row["prompt"])[1])
    return ()


@functools.lru_cache(maxsize=8)
def _rows_by_subject(reader: benchmarks.Reader, split: str) -> dict[str, list[int]]:
    """The numbers of each subject's rows; rows are not kept."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(reader.rows("mmlu", split)):
        found.setdefault(row["subject"].strip().replace(" ", "_"), []).append(number)
    return found


SUITE = base.Suite(
    name="mmlu",
    title="MMLU",
    subtasks=SUBJECTS,
    shots=5,
    split="validation",
    cot=(False, True),
    present=present,
    questions=questions,
    parse=parse,
    right=right,
    chance=lambda subtask: 25.0,
    max_tokens=16,
    stop=("Q:",),
    notes=notes,
)
