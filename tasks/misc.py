"""The seven datasets under "Misc." in FLAN 2021 (figure 3), and two more of FLAN's public task files.

The paper's figure groups them; its experiments do not: each is a cluster of its own, held out alone, but for the two
conversational ones. `true_case` and `word_segment` are in the public code only, beside `fix_punct`.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping

from flan_jax.data import spec

# Answers by label number.
WIC_ANSWERS = ("different meanings", "the same meaning")  # False, True
TREC_ANSWERS = ("description", "entity", "abbreviation", "human", "numeric", "location")  # DESC ENTY ABBR HUM NUM LOC
COLA_ANSWERS = ("unacceptable", "acceptable")

CANNOT_ANSWER = "CANNOTANSWER"


def _labelled(
    row: spec.Row, *, columns: Mapping[str, str], label: str, answers: tuple[str, ...]
) -> spec.Example | None:
    """An example whose answer is the label's text, or `None` for label -1 (withheld)."""
    if row[label] < 0:
        return None
    fields = {name: row[column].strip() for name, column in columns.items()}
    return spec.Example(fields=fields, answer=answers[row[label]], options=answers)


def numbered(lines: Iterable[str]) -> str:
    """`numbered(["Who?", "When?"]) == "1. Who?\\n2. When?"`."""
    return "\n".join(f"{number}. {line.strip()}" for number, line in enumerate(lines, start=1))


def _coqa(row: spec.Row) -> spec.Example | None:
    # A whole dialogue is one example, as in FLAN: its later questions make no sense without the earlier ones.
    questions, answers = row["questions"], row["answers"]["input_text"]
    if not questions or len(questions) != len(answers):
        return None
    fields = {"story": row["story"].strip(), "questions": numbered(questions)}
    return spec.Example(fields=fields, answer=numbered(answers))


def _answerable(text: str) -> str:
    return text.replace(CANNOT_ANSWER, "").strip()


def _quac(row: spec.Row) -> spec.Example | None:
    # FLAN 2021's code keeps the marker CANNOTANSWER, which ends every context and is the answer to a fifth of the
    # questions; the Flan Collection strips it and drops the questions that it answers. The latter is done here.
    # FLAN scores against the original answer alone; here the further annotators' answers are accepted, too.
    answer = _answerable(row["orig_answer"]["text"])
    if not answer:
        return None
    fields = {name: _answerable(row[name]) for name in ("title", "background", "context", "question")}
    others = filter(None, map(_answerable, row["answers"]["text"]))
    return spec.Example(fields=fields, answer=answer, answers=tuple(dict.fromkeys((answer, *others))))


def _math_dataset(row: spec.Row) -> spec.Example:
    # The builder reads text: its strings carry no b'...\n' wrapping, unlike some other copies of the dataset.
    return spec.Example(fields={"question": row["question"].strip()}, answer=row["answer"].strip())


def without_punctuation(text: str) -> str:
    # FLAN's pattern knows ASCII letters only, so it takes the é out of "café"; this one knows all letters. The words
    # are joined again by one space, which does not give a dash away.
    return " ".join(re.sub(r"[^\w\s]", "", text).split())


def without_spaces(text: str) -> str:
    return text.replace(" ", "")


def _restore(row: spec.Row, *, field: str, damage: Callable[[str], str]) -> spec.Example | None:
    """An English text of ParaCrawl, to be restored from a damaged form of it.

    A text that the damage leaves as it is, or of which nothing is left, is dropped. (FLAN's `word_segment` keeps texts
    of one word; its other two drop unchanged texts as well.)
    """
    text = " ".join(row["en"].split())
    damaged = damage(text)
    if not damaged or damaged == text:
        return None
    return spec.Example(fields={field: damaged}, answer=text)


def _text_formatting(
    name: str, collection: str, train: str, validation: str, field: str, damage: Callable[[str], str], kept: float = 1
) -> spec.DatasetSpec:
    """One of the three tasks that FLAN makes of disjoint windows of ParaCrawl; they share the test rows."""
    return spec.DatasetSpec(
        name=name,
        cluster="text_formatting",
        tfds_name="para_crawl/enda:1.2.0",
        splits={"train": train, "validation": validation, "test": "train[-3000:]"},
        example=functools.partial(_restore, field=field, damage=damage),
        metrics=("edit_distance",),
        train_rows=2_414_895,
        templates=name,
        collection=collection,
        kept=kept,
    )


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="coqa",
        cluster="conversational_qa",
        tfds_name="coqa:1.0.0",
        splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "test"},
        example=_coqa,
        metrics=("squad",),
        train_rows=7_199,
        templates="coqa",
    ),
    spec.DatasetSpec(
        name="quac",
        cluster="conversational_qa",
        tfds_name="quac:1.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_quac,
        metrics=("trivia_qa",),
        train_rows=83_568,
        templates="quac",
    ),
    spec.DatasetSpec(
        name="wic",
        cluster="word_disambiguation",
        tfds_name="super_glue/wic:1.0.2",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=functools.partial(
            _labelled,
            columns={"word": "word", "sentence1": "sentence1", "sentence2": "sentence2"},
            label="label",
            answers=WIC_ANSWERS,
        ),
        metrics=("accuracy",),
        train_rows=5_428,
        templates="wic",
    ),
    spec.DatasetSpec(
        name="trec",
        cluster="question_classification",
        tfds_name="trec:1.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        example=functools.partial(_labelled, columns={"question": "text"}, label="label-coarse", answers=TREC_ANSWERS),
        metrics=("accuracy",),
        train_rows=5_452,
        templates="trec",
    ),
    spec.DatasetSpec(
        name="cola",
        cluster="linguistic_acceptability",
        tfds_name="glue/cola:2.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=functools.partial(_labelled, columns={"sentence": "sentence"}, label="label", answers=COLA_ANSWERS),
        metrics=("accuracy",),  # as FLAN; GLUE itself reports Matthews' correlation
        train_rows=8_551,
        templates="cola",
    ),
    spec.DatasetSpec(
        name="math_dataset",
        cluster="math",
        tfds_name="math_dataset/algebra__linear_1d:1.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "test"},
        example=_math_dataset,
        metrics=("accuracy",),
        train_rows=1_999_998,
        templates="math_dataset",
    ),
    # Of 30,000 lines each, those that the damage changes: Flan 2022's counts.
    _text_formatting(
        *("fix_punct", "flan2021", "train[30200:60200]", "train[60200:60400]", "unpunctuated", without_punctuation),
        kept=28_070 / 30_000,
    ),
    _text_formatting(
        *("true_case", "extra", "train[:30000]", "train[30000:30200]", "lower", str.lower), kept=29_260 / 30_000
    ),
    _text_formatting("word_segment", "extra", "train[60400:90400]", "train[90400:90600]", "unspaced", without_spaces),
)
