"""Closed-book question answering (FLAN 2021, Figure 3): ARC with its choices, Natural Questions, TriviaQA."""

from flan_jax.data import spec

# ARC has a few dozen rows with 3 or 5 choices; FLAN keeps those with four. A fourth one that is blank, as 1 in 500 rows
# has, makes three here.
ARC_CHOICES = 4


def _arc(row: spec.Row) -> spec.Example | None:
    # The key is looked up among the choices' own labels: TFDS stores both as class ids, other copies as A-D or 1-4.
    choices, labels = tuple(map(str.strip, row["choices"]["text"])), list(row["choices"]["label"])
    if len(choices) != ARC_CHOICES or not all(choices) or row["answerKey"] not in labels:
        return None
    return spec.Example(
        fields={"question": row["question"].strip()},
        answer=choices[labels.index(row["answerKey"])],
        options=choices,
    )


def _natural_questions(row: spec.Row) -> spec.Example | None:
    answers = tuple(row["answer"])
    if not answers:
        return None
    # The questions are search queries without a question mark; FLAN appends one.
    question = row["question"].strip().rstrip("?").rstrip() + "?"
    return spec.Example(fields={"question": question}, answer=answers[0], answers=answers)


def _unquoted(text: str) -> str:
    """Undoes CSV quoting, `"Who wrote ""Emma""?"`, which about 7% of TriviaQA's questions keep; FLAN leaves it."""
    text = text.strip()
    if '""' in text and len(text) > 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def _trivia_qa(row: spec.Row) -> spec.Example | None:
    value = row["answer"]["normalized_value"]
    # The published test split hides its answers behind "<unk>".
    if not value or value == "<unk>":
        return None
    # dict.fromkeys: the value first, each alias once. The aliases usually, but not always, contain the value.
    answers = tuple(dict.fromkeys((value, *row["answer"]["normalized_aliases"])))
    return spec.Example(fields={"question": _unquoted(row["question"])}, answer=value, answers=answers)


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="arc_challenge",
        cluster="closed_book_qa",
        tfds_name="ai2_arc/ARC-Challenge:1.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        example=_arc,
        metrics=("accuracy",),
        train_rows=1_119,
        templates="arc",
    ),
    spec.DatasetSpec(
        name="arc_easy",
        cluster="closed_book_qa",
        tfds_name="ai2_arc/ARC-Easy:1.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        example=_arc,
        metrics=("accuracy",),
        train_rows=2_251,
        templates="arc",
    ),
    spec.DatasetSpec(
        name="natural_questions",
        cluster="closed_book_qa",
        tfds_name="natural_questions_open:1.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_natural_questions,
        metrics=("trivia_qa",),
        train_rows=87_925,
        templates="natural_questions",
    ),
    spec.DatasetSpec(
        name="trivia_qa",
        cluster="closed_book_qa",
        tfds_name="trivia_qa/rc:1.1.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_trivia_qa,
        metrics=("trivia_qa",),
        train_rows=138_384,
        templates="trivia_qa",
    ),
)
