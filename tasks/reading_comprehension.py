"""Reading comprehension (FLAN 2021, figure 3): the answer is in, or follows from, a passage that the input shows.

Names, versions, splits and the order of the answers are those of FLAN's public task files.
"""

from collections.abc import Iterable

from flan_jax.data import spec

# By label: False, True. BoolQ and MultiRC share them.
NO_YES = ("no", "yes")
UNANSWERABLE = "unanswerable"
OPENBOOKQA_CHOICES = ("choice_A", "choice_B", "choice_C", "choice_D")


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts without surrounding white space, each once, in order; blank ones left out."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _bool_q(row: spec.Row) -> spec.Example:
    # The questions are search queries without a question mark, as in Natural Questions; one is appended there too.
    question = row["question"].strip().rstrip("?").rstrip() + "?"
    fields = {"title": row["title"].strip(), "passage": row["passage"].strip(), "question": question}
    return spec.Example(fields=fields, answer=NO_YES[row["answer"]], options=NO_YES)


def _drop(row: spec.Row) -> spec.Example | None:
    # FLAN scores against `answer` alone; the dataset's own evaluation takes the best of the validated answers, too. The
    # builder gives "" for dates without a day: there is nothing to learn from these rows, and they are dropped here.
    if not row["answer"].strip():
        return None
    answers = _distinct((row["answer"], *row["validated_answers"]))
    fields = {"passage": row["passage"].strip(), "question": row["question"].strip()}
    return spec.Example(fields=fields, answer=answers[0], answers=answers)


def _multirc(row: spec.Row) -> spec.Example | None:
    if row["label"] < 0:
        return None
    fields = {
        "paragraph": row["paragraph"].strip(),
        "question": row["question"].strip(),
        "response": row["answer"].strip(),
        # Not for templates: exact match is over all the responses to one question.
        "group": f"{row['idx']['paragraph']}-{row['idx']['question']}",
    }
    return spec.Example(fields=fields, answer=NO_YES[row["label"]], options=NO_YES)


def _openbookqa(row: spec.Row) -> spec.Example | None:
    if row["answerKey"] < 0:
        return None
    # The stem is a question, or the beginning of a sentence that the right choice ends. Some copies have no fact:
    # templates show it without a heading of its own.
    options = tuple(row["question"][choice].strip() for choice in OPENBOOKQA_CHOICES)
    fields = {"fact": row["fact1"].strip(), "question": row["question"]["stem"].strip()}
    return spec.Example(fields=fields, answer=options[row["answerKey"]], options=options)


def _squad(row: spec.Row, answers: tuple[str, ...]) -> spec.Example | None:
    if not answers:
        return None
    fields = {
        "title": row["title"].replace("_", " ").strip(),
        "context": row["context"].strip(),
        "question": row["question"].strip(),
    }
    return spec.Example(fields=fields, answer=answers[0], answers=answers)


def _squad_v1(row: spec.Row) -> spec.Example | None:
    return _squad(row, _distinct(row["answers"]["text"]))


def _squad_v2(row: spec.Row) -> spec.Example | None:
    return _squad(row, (UNANSWERABLE,) if row["is_impossible"] else _distinct(row["answers"]["text"]))


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="bool_q",
        cluster="reading_comprehension",
        tfds_name="bool_q:1.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=_bool_q,
        metrics=("accuracy",),
        train_rows=9_427,
        templates="bool_q",
    ),
    spec.DatasetSpec(
        name="drop",
        cluster="reading_comprehension",
        tfds_name="drop:2.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "dev"},
        example=_drop,
        metrics=("squad",),
        train_rows=77_400,
        templates="drop",
    ),
    spec.DatasetSpec(
        name="multirc",
        cluster="reading_comprehension",
        tfds_name="super_glue/multirc:1.0.2",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=_multirc,
        metrics=("multirc",),
        train_rows=27_243,
        templates="multirc",
    ),
    spec.DatasetSpec(
        name="openbookqa",
        cluster="reading_comprehension",
        tfds_name="openbookqa:0.1.0",
        splits={"train": "train", "validation": "validation[:200]", "test": "test"},
        example=_openbookqa,
        metrics=("accuracy",),
        train_rows=4_957,
        templates="openbookqa",
    ),
    spec.DatasetSpec(
        name="squad_v1",
        cluster="reading_comprehension",
        tfds_name="squad/v1.1:3.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_squad_v1,
        metrics=("squad",),
        train_rows=87_599,
        templates="squad_v1",
    ),
    spec.DatasetSpec(
        name="squad_v2",
        cluster="reading_comprehension",
        tfds_name="squad/v2.0:3.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_squad_v2,
        metrics=("squad",),
        train_rows=130_319,
        templates="squad_v2",
    ),
)
