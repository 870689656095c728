"""The reading-comprehension specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import reading_comprehension

SPECS = {entry.name: entry for entry in reading_comprehension.SPECS}

# TFDS label names in the builders' order, each with the answer it must give.
LABELS = {
    "bool_q": {False: "no", True: "yes"},
    "multirc": {"False": "no", "True": "yes"},
    "openbookqa": {"A": "a comb", "B": "a lens", "C": "a drum", "D": "a rope"},
}


def _bool_q_row(question: str, answer: bool) -> dict:
    return {"title": "Weir", "passage": "A weir is a low dam.", "question": question, "answer": answer}


def _bool_q_example(question: str, answer: str) -> spec.Example:
    fields = {"title": "Weir", "passage": "A weir is a low dam.", "question": question}
    return spec.Example(fields, answer, ("no", "yes"), (answer,))


def _drop_row(answer: str, validated: list[str]) -> dict:
    passage = "The mill had 12 wheels, of which 5 broke."
    question = "How many wheels held?"
    return {
        "passage": passage,
        "question": question,
        "answer": answer,
        "validated_answers": validated,
        "query_id": "q-1",
    }


def _drop_example(answer: str, answers: tuple[str, ...]) -> spec.Example:
    fields = {"passage": "The mill had 12 wheels, of which 5 broke.", "question": "How many wheels held?"}
    return spec.Example(fields, answer, (), answers)


def _multirc_row(response: str, label: int) -> dict:
    return {
        "paragraph": "Ida sold eggs and jam.",
        "question": "What did Ida sell?",
        "answer": response,
        "label": label,
        "idx": {"paragraph": 3, "question": 17, "answer": 40},
    }


def _multirc_example(response: str, answer: str) -> spec.Example:
    fields = {
        "paragraph": "Ida sold eggs and jam.",
        "question": "What did Ida sell?",
        "response": response,
        "group": "3-17",
    }
    return spec.Example(fields, answer, ("no", "yes"), (answer,))


def _openbookqa_row(fact: str, label: int) -> dict:
    choices = {"choice_A": "a comb", "choice_B": "a lens", "choice_C": "a drum", "choice_D": "a rope"}
    return {
        "question": {"stem": "Light is bent by", **choices},
        "fact1": fact,
        "humanScore": 1.0,
        "clarity": 2.0,
        "turkIdAnonymized": "",
        "answerKey": label,
    }


def _openbookqa_example(fact: str, answer: str) -> spec.Example:
    fields = {"fact": fact, "question": "Light is bent by"}
    return spec.Example(fields, answer, ("a comb", "a lens", "a drum", "a rope"), (answer,))


def _squad_row(texts: list[str], **more: object) -> dict:
    return {
        "id": "0" * 24,
        "title": "Stone_bridge",
        "context": "The bridge was built in 1701 by Ruth Vane.",
        "question": " Who built it? ",
        "answers": {"text": texts, "answer_start": [0] * len(texts)},
        **more,
    }


def _squad_example(*answers: str) -> spec.Example:
    fields = {
        "title": "Stone bridge",
        "context": "The bridge was built in 1701 by Ruth Vane.",
        "question": "Who built it?",
    }
    return spec.Example(fields, answers[0], (), answers)


_PLAUSIBLE = {"text": ["1701"], "answer_start": [24]}
CASES = {
    "bool_q": [
        (_bool_q_row("is a weir a dam", True), _bool_q_example("is a weir a dam?", "yes")),
        (_bool_q_row("is a weir tall?", False), _bool_q_example("is a weir tall?", "no")),
    ],
    "drop": [
        (_drop_row("7", []), _drop_example("7", ("7",))),
        (_drop_row("7", ["seven", "7", ""]), _drop_example("7", ("7", "seven"))),
    ],
    "multirc": [
        (_multirc_row("jam", 1), _multirc_example("jam", "yes")),
        (_multirc_row("milk", 0), _multirc_example("milk", "no")),
    ],
    "openbookqa": [
        (_openbookqa_row("a lens bends light", 1), _openbookqa_example("a lens bends light", "a lens")),
        (_openbookqa_row("", 3), _openbookqa_example("", "a rope")),
    ],
    "squad_v1": [
        (_squad_row(["Ruth Vane"]), _squad_example("Ruth Vane")),
        (_squad_row(["Ruth Vane", "Vane", "Ruth Vane"]), _squad_example("Ruth Vane", "Vane")),
    ],
    "squad_v2": [
        (
            _squad_row(["Vane"], is_impossible=False, plausible_answers={"text": [], "answer_start": []}),
            _squad_example("Vane"),
        ),
        (_squad_row([], is_impossible=True, plausible_answers=_PLAUSIBLE), _squad_example("unanswerable")),
    ],
}
LABEL_COLUMN = {"bool_q": "answer", "multirc": "label", "openbookqa": "answerKey"}


def test_cluster_holds_these_specs_in_one_cluster():
    assert [entry.name for entry in reading_comprehension.SPECS] == list(CASES)
    assert {entry.cluster for entry in reading_comprehension.SPECS} == {"reading_comprehension"}


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize("name", LABELS)
def test_every_label_has_its_own_answer(name):
    row = CASES[name][0][0]
    answers = list(LABELS[name].values())
    for label, answer in enumerate(answers):
        example = SPECS[name].example({**row, LABEL_COLUMN[name]: bool(label) if name == "bool_q" else label})
        assert example is not None
        assert example.answer == answer
        assert example.options == tuple(answers)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("drop", _drop_row("", ["1701-May-"])),
        ("multirc", _multirc_row("jam", -1)),
        ("openbookqa", _openbookqa_row("", -1)),
        ("squad_v1", _squad_row([])),
        ("squad_v2", _squad_row([], is_impossible=False, plausible_answers=_PLAUSIBLE)),
    ],
)
def test_row_without_answer_is_dropped(name, row):
    assert SPECS[name].example(row) is None


def test_responses_to_one_question_share_a_group_and_other_questions_do_not():
    def group(question: int) -> str:
        row = _multirc_row("jam", 1)
        example = SPECS["multirc"].example({**row, "idx": {**row["idx"], "question": question, "answer": question}})
        assert example is not None
        return example.fields["group"]

    assert group(17) == group(17) != group(18)
