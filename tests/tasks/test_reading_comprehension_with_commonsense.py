"""CosmosQA and ReCoRD: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import reading_comprehension_with_commonsense

SPECS = {entry.name: entry for entry in reading_comprehension_with_commonsense.SPECS}

# TFDS label names of CosmosQA in the builder's order, each with the answer it must give.
COSMOS_QA_LABELS = {"0": "It rained .", "1": "It snowed .", "2": "He was ill .", "3": "None of the above choices ."}
COSMOS_QA_OPTIONS = tuple(COSMOS_QA_LABELS.values())


def _cosmos_qa_row(label: int) -> dict:
    answers = {f"answer{name}": text for name, text in COSMOS_QA_LABELS.items()}
    return {"id": "x", "context": "My coat was soaked .", "question": "Why ?", **answers, "label": label}


def _cosmos_qa_example(answer: str) -> spec.Example:
    fields = {"context": "My coat was soaked .", "question": "Why ?"}
    return spec.Example(fields, answer, COSMOS_QA_OPTIONS, (answer,))


def _record_row(query: str, answers: list[str], entities: tuple[str, ...] = ("Ida Holt", "Holt", "Merle")) -> dict:
    return {
        "passage": "Ida Holt won in Merle.\n@highlight\nHolt is first\n@highlight\nMerle cheers",
        "query": query,
        "entities": list(entities),
        "answers": answers,
        "idx": {"passage": 1, "query": 2},
    }


def _record_example(query: str, options: tuple[str, ...], answers: tuple[str, ...]) -> spec.Example:
    return spec.Example({"passage": "Ida Holt won in Merle.", "query": query}, answers[0], options, answers)


CASES = {
    "cosmos_qa": [
        (_cosmos_qa_row(0), _cosmos_qa_example("It rained .")),
        (_cosmos_qa_row(3), _cosmos_qa_example("None of the above choices .")),
    ],
    "record": [
        (
            _record_row("The streets of @placeholder were full.", ["Merle"]),
            _record_example(
                "The streets of",
                ("Ida Holt were full.", "Holt were full.", "Merle were full."),
                ("Merle were full.",),
            ),
        ),
        (
            _record_row("@placeholder's shoes were wet.", ["Holt", "Ida Holt"]),
            _record_example(
                "",
                ("Ida Holt's shoes were wet.", "Holt's shoes were wet.", "Merle's shoes were wet."),
                ("Holt's shoes were wet.", "Ida Holt's shoes were wet."),
            ),
        ),
    ],
}


def test_cluster_holds_these_specs_in_one_cluster():
    assert [entry.name for entry in reading_comprehension_with_commonsense.SPECS] == list(CASES)
    clusters = {entry.cluster for entry in reading_comprehension_with_commonsense.SPECS}
    assert clusters == {"reading_comprehension_with_commonsense"}


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


def test_every_cosmos_qa_label_has_its_own_answer():
    for label, answer in enumerate(COSMOS_QA_OPTIONS):
        assert SPECS["cosmos_qa"].example(_cosmos_qa_row(label)) == _cosmos_qa_example(answer)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("cosmos_qa", _cosmos_qa_row(-1)),
        ("record", _record_row("@placeholder won.", [])),
        ("record", _record_row("A sentence without a gap.", ["Holt"])),
        ("record", _record_row("@placeholder won.", ["nobody named"], ("Holt", "Merle"))),
    ],
)
def test_row_without_answer_or_gap_is_dropped(name, row):
    assert SPECS[name].example(row) is None


def test_record_fills_every_gap_and_lists_a_repeated_entity_once():
    row = _record_row("@placeholder said that @placeholder won.", ["Holt"], ("Holt", "Merle", "Holt"))
    example = SPECS["record"].example(row)
    assert example is not None
    assert example.options == ("Holt said that Holt won.", "Merle said that Merle won.")
