"""The paraphrase specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import paraphrase

SPECS = {entry.name: entry for entry in paraphrase.SPECS}

NO_YES = ("no", "yes")
SCORES = ("0", "1", "2", "3", "4", "5")

# TFDS label names in the builders' order, each with the answer it must give.
LABELS = {
    "glue_mrpc": {"not_equivalent": "no", "equivalent": "yes"},
    "glue_qqp": {"not_duplicate": "no", "duplicate": "yes"},
    "paws_wiki": {"different_meaning": "no", "paraphrase": "yes"},
}


def _sentences(sentence2: str, label: float) -> dict:
    return {"sentence1": "Ann sold it to Bo .", "sentence2": sentence2, "label": label, "idx": 3}


def _sentences_example(sentence2: str, answer: str, options: tuple[str, ...]) -> spec.Example:
    return spec.Example({"sentence1": "Ann sold it to Bo .", "sentence2": sentence2}, answer, options, (answer,))


def _questions(question1: str, label: int) -> dict:
    return {"question1": question1, "question2": "What is dark matter? ", "label": label, "idx": 8}


def _questions_example(question1: str, answer: str) -> spec.Example:
    return spec.Example({"question1": question1, "question2": "What is dark matter?"}, answer, NO_YES, (answer,))


_PAIR_CASES = [
    (_sentences("Bo sold it to Ann .", 0), _sentences_example("Bo sold it to Ann .", "no", NO_YES)),
    (_sentences("Bo bought it from Ann .", 1), _sentences_example("Bo bought it from Ann .", "yes", NO_YES)),
]
CASES = {
    "glue_mrpc": _PAIR_CASES,
    "glue_qqp": [
        (_questions("What is matter?", 0), _questions_example("What is matter?", "no")),
        (_questions('"What is ""dark"" matter?"', 1), _questions_example('What is "dark" matter?', "yes")),
    ],
    "paws_wiki": _PAIR_CASES,
    "stsb": [
        (_sentences("Bo sold it.", 1.714), _sentences_example("Bo sold it.", "2", SCORES)),
        (_sentences("Ann gave it to Bo.", 3.0), _sentences_example("Ann gave it to Bo.", "3", SCORES)),
    ],
}


def test_cluster_holds_these_specs():
    assert [entry.name for entry in paraphrase.SPECS] == list(CASES)
    assert {(entry.cluster, entry.collection) for entry in paraphrase.SPECS} == {("paraphrase", "flan2021")}


def test_metrics_are_those_of_the_benchmarks():
    assert {entry.name: entry.metrics for entry in paraphrase.SPECS} == {
        "glue_mrpc": ("f1_and_accuracy",),
        "glue_qqp": ("f1_and_accuracy",),
        "paws_wiki": ("accuracy",),
        "stsb": ("pearson_spearman",),
    }


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize("name", LABELS)
def test_every_label_has_its_own_answer(name):
    row = CASES[name][0][0]
    for label, answer in enumerate(LABELS[name].values()):
        example = SPECS[name].example({**row, "label": label})
        assert example is not None
        assert (example.answer, example.options) == (answer, NO_YES)


@pytest.mark.parametrize("name", CASES)
def test_row_without_label_is_dropped(name):
    assert SPECS[name].example({**CASES[name][0][0], "label": -1}) is None


@pytest.mark.parametrize("question", ['"quoted"', 'Is "" a word?', '""', '"Is ""x"" one?', "What?"])
def test_only_whole_csv_quoting_is_undone(question):
    example = SPECS["glue_qqp"].example(_questions(question, 0))
    assert example is not None
    assert example.fields["question1"] == question


@pytest.mark.parametrize(
    ("score", "answer"),
    [(0.0, "0"), (0.5, "0"), (0.75, "1"), (1.5, "2"), (2.5, "2"), (2.6, "3"), (3.5, "4"), (4.5, "4"), (5.0, "5")],
)
def test_stsb_rounds_halves_to_the_even_score(score, answer):
    example = SPECS["stsb"].example(_sentences("Bo sold it.", score))
    assert example is not None
    assert example.answer == answer
