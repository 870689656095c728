"""The commonsense specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import commonsense

SPECS = {entry.name: entry for entry in commonsense.SPECS}


def _copa_row(question: str, label: int) -> dict:
    choices = {"choice1": "The fuse blew.", "choice2": "We lit candles."}
    return {"premise": "The lights went out.", **choices, "question": question, "idx": 7, "label": label}


def _copa_example(question: str, opening: str, answer: str) -> spec.Example:
    fields = {"premise": "The lights went out.", "question": question, "opening": opening}
    return spec.Example(fields, answer, ("The fuse blew.", "We lit candles."), (answer,))


def _hellaswag_row(context: str, endings: list[str], label: int) -> dict:
    source = {"source_id": "wikihow~1", "split_type": "indomain"}
    return {"activity_label": "Tea", "context": context, "endings": endings, "label": label, **source}


_CAPTION = _hellaswag_row("A man fills a kettle. he", ["boils it.", "sits on it.", ", he leaves.", "sings to it. "], 2)
_ARTICLE = _hellaswag_row(
    "[header] How to make tea [title] Boil water. [step] Use a kettle [not a pan].",
    ["[title] Pour it. [step] Wait.", "Drink. [substeps] Sip.", "Stir [do not shake].", "Stop."],
    0,
)
_CAPTION_OPTIONS = ("boils it.", "sits on it.", ", he leaves.", "sings to it.")
_ARTICLE_OPTIONS = ("Pour it. Wait.", "Drink. Sip.", "Stir [do not shake].", "Stop.")
_ARTICLE_CONTEXT = "How to make tea\nBoil water.\nUse a kettle [not a pan]."


def _piqa_row(label: int) -> dict:
    return {"id": "", "goal": "Chill a drink. ", "sol1": "Add ice.", "sol2": "can be boiled ", "label": label}


def _story_row(label: int) -> dict:
    return {"context": "It rained. Eva had no hat.", "endings": ["She got wet.", "She stayed dry."], "label": label}


_PIQA = ("Add ice.", "can be boiled")
_STORY = ("She got wet.", "She stayed dry.")
CASES = {
    "copa": [
        (_copa_row("cause", 0), _copa_example("cause", "The lights went out because", "The fuse blew.")),
        (_copa_row("effect", 1), _copa_example("effect", "The lights went out, so", "We lit candles.")),
    ],
    "hellaswag": [
        (
            _CAPTION,
            spec.Example(
                {"context": "A man fills a kettle. he", "activity_label": "Tea"}, ", he leaves.", _CAPTION_OPTIONS
            ),
        ),
        (
            _ARTICLE,
            spec.Example({"context": _ARTICLE_CONTEXT, "activity_label": "Tea"}, "Pour it. Wait.", _ARTICLE_OPTIONS),
        ),
    ],
    "piqa": [
        (_piqa_row(0), spec.Example({"goal": "Chill a drink."}, "Add ice.", _PIQA)),
        (_piqa_row(1), spec.Example({"goal": "Chill a drink."}, "can be boiled", _PIQA)),
    ],
    "story_cloze": [
        (_story_row(1), spec.Example({"context": "It rained. Eva had no hat."}, "She got wet.", _STORY)),
        (_story_row(2), spec.Example({"context": "It rained. Eva had no hat."}, "She stayed dry.", _STORY)),
    ],
}

# The label that stands for each option, in the order of the options; ClassLabel names of COPA are choice1, choice2.
LABELS = {"copa": (0, 1), "hellaswag": (0, 1, 2, 3), "piqa": (0, 1), "story_cloze": (1, 2)}


def test_cluster_holds_these_specs():
    assert [entry.name for entry in commonsense.SPECS] == list(CASES)
    assert {(entry.cluster, entry.collection, entry.metrics) for entry in commonsense.SPECS} == {
        ("commonsense", "flan2021", ("accuracy",))
    }


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize("name", LABELS)
def test_labels_follow_the_order_of_the_options(name):
    row = CASES[name][0][0]
    found = [SPECS[name].example({**row, "label": label}) for label in LABELS[name]]
    options = CASES[name][0][1].options
    assert [example.answer if example else None for example in found] == list(options)


@pytest.mark.parametrize("name", LABELS)
def test_row_whose_label_is_no_option_is_dropped(name):
    row = CASES[name][0][0]
    for label in (-1, min(LABELS[name]) - 1, max(LABELS[name]) + 1):
        assert SPECS[name].example({**row, "label": label}) is None


def test_hellaswag_row_without_four_endings_is_dropped():
    assert SPECS["hellaswag"].example({**_CAPTION, "endings": _CAPTION["endings"][:3]}) is None


def test_story_cloze_trains_on_rows_of_validation():
    splits = SPECS["story_cloze"].splits
    assert splits == {"train": "validation[:-200]", "validation": "validation[-200:]", "test": "test"}
