"""The closed-book specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import closed_book_qa

SPECS = {entry.name: entry for entry in closed_book_qa.SPECS}


def _arc_row(texts: list[str], labels: list, key) -> dict:
    return {
        "id": "1",
        "question": "Which one floats on water?",
        "choices": {"text": texts, "label": labels},
        "answerKey": key,
    }


@pytest.mark.parametrize("name", ["arc_challenge", "arc_easy"])
@pytest.mark.parametrize(
    ("labels", "key"),
    [([0, 1, 2, 3], 2), ([3, 1, 0, 2], 0), (["A", "B", "C", "D"], "C"), (["1", "2", "3", "4"], "3")],
    ids=["class ids", "class ids out of order", "letters", "digits"],
)
def test_arc_finds_the_key_among_the_labels(name, labels, key):
    texts = ["lead", "iron", "cork", "gold"]
    expected = spec.Example(
        fields={"question": "Which one floats on water?"},
        answer="cork",
        options=("lead", "iron", "cork", "gold"),
        answers=("cork",),
    )
    assert SPECS[name].example(_arc_row(texts, labels, key)) == expected


@pytest.mark.parametrize("name", ["arc_challenge", "arc_easy"])
@pytest.mark.parametrize(
    ("texts", "key"),
    [
        (["lead", "iron", "cork"], 2),
        (["lead", "iron", "cork", "gold", "tin"], 2),
        (["lead", "iron", "cork", "gold"], 4),
        (["lead", "iron", "cork", " "], 2),
    ],
    ids=["three choices", "five choices", "a key without a choice", "a blank choice"],
)
def test_arc_drops(name, texts, key):
    assert SPECS[name].example(_arc_row(texts, list(range(len(texts))), key)) is None


def test_natural_questions():
    example = SPECS["natural_questions"].example
    assert example({"question": "who wrote emma", "answer": ["Jane Austen", "Austen"]}) == spec.Example(
        fields={"question": "who wrote emma?"}, answer="Jane Austen", answers=("Jane Austen", "Austen")
    )
    assert example({"question": "Where is Oslo ?", "answer": ["Norway"]}) == spec.Example(
        fields={"question": "Where is Oslo?"}, answer="Norway", answers=("Norway",)
    )
    assert example({"question": "who knows", "answer": []}) is None


def _trivia_row(value: str, normalized: str, aliases: list[str]) -> dict:
    return {
        "question": "Which city has a leaning tower? ",
        "answer": {"value": value, "normalized_value": normalized, "normalized_aliases": aliases},
    }


def test_trivia_qa():
    example = SPECS["trivia_qa"].example
    fields = {"question": "Which city has a leaning tower?"}
    assert example(_trivia_row("Pisa", "pisa", ["city of pisa", "pisa"])) == spec.Example(
        fields=fields, answer="pisa", answers=("pisa", "city of pisa")
    )
    # The value counts as right although it is not among the aliases.
    assert example(_trivia_row("Pisa", "pisa", ["pisa italy"])) == spec.Example(
        fields=fields, answer="pisa", answers=("pisa", "pisa italy")
    )


@pytest.mark.parametrize("value", ["", "<unk>"])
def test_trivia_qa_drops_rows_without_an_answer(value):
    assert SPECS["trivia_qa"].example(_trivia_row(value, value, [])) is None


def test_trivia_qa_undoes_the_quoting_of_csv():
    row = {**_trivia_row("Pisa", "pisa", []), "question": '"Who wrote ""Emma""?"'}
    example = SPECS["trivia_qa"].example(row)
    assert example is not None
    assert example.fields == {"question": 'Who wrote "Emma"?'}
