"""The NLI specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import nli

SPECS = {entry.name: entry for entry in nli.SPECS}

ANLI = ("Yes", "It's impossible to say", "No")
MNLI = ("yes", "it is not possible to tell", "no")

# TFDS label names in the builders' order, each with the answer it must give.
LABELS = {
    "anli_r1": {"e": "Yes", "n": "It's impossible to say", "c": "No"},
    "anli_r2": {"e": "Yes", "n": "It's impossible to say", "c": "No"},
    "anli_r3": {"e": "Yes", "n": "It's impossible to say", "c": "No"},
    "cb": {"entailment": "Yes", "contradiction": "No", "neutral": "It's impossible to say"},
    "mnli_matched": {"entailment": "yes", "neutral": "it is not possible to tell", "contradiction": "no"},
    "mnli_mismatched": {"entailment": "yes", "neutral": "it is not possible to tell", "contradiction": "no"},
    "qnli": {"entailment": "yes", "not_entailment": "no"},
    "rte": {"entailment": "yes", "not_entailment": "no"},
    "snli": {"entailment": "yes", "neutral": "it is not possible to tell", "contradiction": "no"},
    "wnli": {"not_entailment": "no", "entailment": "yes"},
}


def _anli_row(hypothesis: str, label: int) -> dict:
    return {"uid": "u-1", "context": "The mill closed in 1931.", "hypothesis": hypothesis, "label": label}


def _pair_row(hypothesis: str, label: int) -> dict:
    return {"premise": "Two boys fly a kite.", "hypothesis": hypothesis, "label": label, "idx": 0}


def _qnli_row(sentence: str, label: int) -> dict:
    return {"question": "Where is the dam?", "sentence": sentence, "label": label, "idx": 4}


def _wnli_row(sentence2: str, label: int) -> dict:
    return {"sentence1": "The cup hit the tile and it broke.", "sentence2": sentence2, "label": label, "idx": 9}


def _anli_example(hypothesis: str, answer: str) -> spec.Example:
    return spec.Example({"premise": "The mill closed in 1931.", "hypothesis": hypothesis}, answer, ANLI, (answer,))


def _pair_example(hypothesis: str, answer: str, options: tuple[str, ...]) -> spec.Example:
    return spec.Example({"premise": "Two boys fly a kite.", "hypothesis": hypothesis}, answer, options, (answer,))


def _qnli_example(sentence: str, answer: str) -> spec.Example:
    return spec.Example({"question": "Where is the dam?", "sentence": sentence}, answer, ("yes", "no"), (answer,))


def _wnli_example(sentence2: str, answer: str) -> spec.Example:
    fields = {"sentence1": "The cup hit the tile and it broke.", "sentence2": sentence2}
    return spec.Example(fields, answer, ("no", "yes"), (answer,))


_CB = ("Yes", "No", "It's impossible to say")
_ANLI_CASES = [
    (_anli_row("The mill is shut.", 0), _anli_example("The mill is shut.", "Yes")),
    (_anli_row("The mill opened in 1935.", 2), _anli_example("The mill opened in 1935.", "No")),
]
_MNLI_CASES = [
    (_pair_row("They are brothers.", 1), _pair_example("They are brothers.", "it is not possible to tell", MNLI)),
    (_pair_row("Nobody is outside.", 2), _pair_example("Nobody is outside.", "no", MNLI)),
]
CASES = {
    "anli_r1": _ANLI_CASES,
    "anli_r2": _ANLI_CASES,
    "anli_r3": _ANLI_CASES,
    "cb": [
        (_pair_row("nobody is outside", 1), _pair_example("nobody is outside", "No", _CB)),
        (_pair_row("they are brothers", 2), _pair_example("they are brothers", "It's impossible to say", _CB)),
    ],
    "mnli_matched": _MNLI_CASES,
    "mnli_mismatched": _MNLI_CASES,
    "qnli": [
        (_qnli_row("The dam stands near Orle.", 0), _qnli_example("The dam stands near Orle.", "yes")),
        (_qnli_row("The dam is made of clay.", 1), _qnli_example("The dam is made of clay.", "no")),
    ],
    "rte": [
        (_pair_row("A kite is in use.", 0), _pair_example("A kite is in use.", "yes", ("yes", "no"))),
        (_pair_row("They are brothers.", 1), _pair_example("They are brothers.", "no", ("yes", "no"))),
    ],
    "snli": _MNLI_CASES,
    "wnli": [
        (_wnli_row("The tile broke.", 0), _wnli_example("The tile broke.", "no")),
        (_wnli_row("The cup broke.", 1), _wnli_example("The cup broke.", "yes")),
    ],
}


def test_cluster_holds_these_specs_in_one_cluster():
    assert [entry.name for entry in nli.SPECS] == list(LABELS)
    assert {entry.cluster for entry in nli.SPECS} == {"nli"}
    registry = spec.SpecRegistry()
    registry.add(nli.SPECS)
    registry.add(nli.SPECS)
    assert len(registry) == 10


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize("name", LABELS)
def test_every_label_has_its_own_answer(name):
    row = CASES[name][0][0]
    answers = list(LABELS[name].values())
    for label, answer in enumerate(answers):
        example = SPECS[name].example({**row, "label": label})
        assert example is not None
        assert example.answer == answer
        assert example.options == tuple(answers)


@pytest.mark.parametrize("name", LABELS)
def test_row_without_label_is_dropped(name):
    assert SPECS[name].example({**CASES[name][0][0], "label": -1}) is None


def test_cb_reports_f1_beside_accuracy_and_the_others_accuracy_alone():
    metrics = {entry.name: entry.metrics for entry in nli.SPECS}
    assert metrics.pop("cb") == ("mean_3class_f1", "accuracy")
    assert set(metrics.values()) == {("accuracy",)}


def test_withheld_test_labels_are_never_asked_for():
    for entry in nli.SPECS:
        published = entry.tfds_name.startswith(("anli/", "snli:"))
        assert (entry.splits["test"] == "test") == published, entry.name


def test_white_space_around_a_text_is_dropped():
    """It would stand before the closing mark where a template quotes the text."""
    example = SPECS["mnli_matched"].example(
        {"premise": " It rained.", "hypothesis": "It was wet. \n", "label": 0, "idx": 1}
    )
    assert example is not None
    assert example.fields == {"premise": "It rained.", "hypothesis": "It was wet."}
