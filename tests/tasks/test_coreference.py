"""The coreference specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import coreference

SPECS = {entry.name: entry for entry in coreference.SPECS}


def _dpr_row(label: int) -> dict:
    row = {"sentence": "The cat fled from the dog because it barked.", "pronoun": "it"}
    return {**row, "candidates": ["The cat", "the dog"], "label": label}


def _dpr_example(answer: str) -> spec.Example:
    fields = {"sentence": "The cat fled from the dog because it barked.", "pronoun": "it"}
    return spec.Example(fields, answer, ("The cat", "the dog"), (answer,))


def _winogrande_row(sentence: str, label: int) -> dict:
    return {"sentence": sentence, "option1": "jam", "option2": "honey", "label": label}


def _wsc273_row(text: str, pronoun: str, label: int) -> dict:
    start = text.index(pronoun)
    span = {"pronoun_text": pronoun, "pronoun_start": start, "pronoun_end": start + len(pronoun)}
    options = {"option1": "The bell", "option1_normalized": "the bell", "option2": "the rope"}
    return {"text": text, **span, **options, "option2_normalized": "the rope", "label": label, "idx": 5}


def _wsc_row(span1_text: str, label: int) -> dict:
    spans = {"span1_index": 1, "span1_text": span1_text, "span2_index": 9, "span2_text": "She"}
    return {"text": "Then Jo saw Fay. She waved, and Fay nodded. She left.", **spans, "idx": 2, "label": label}


def _wsc_example(candidate: str, answer: str) -> spec.Example:
    text = "Then Jo saw Fay. She waved, and Fay nodded. *She* left."
    return spec.Example({"text": text, "pronoun": "She", "candidate": candidate}, answer, ("no", "yes"), (answer,))


_SHORT = _winogrande_row("He ate the honey before the jam, as he liked the _ .", 1)
_LONG = _winogrande_row("He bought jam and not honey because the _ was cheap.", 0)
_BELL = _wsc273_row("We hung the bell on the rope, and it rang.", "it", 0)
_ROPE = _wsc273_row("The bell is hidden; a rope hangs in front of it.", "it", 0)
CASES = {
    "definite_pronoun_resolution": [(_dpr_row(0), _dpr_example("The cat")), (_dpr_row(1), _dpr_example("the dog"))],
    "winogrande": [
        (
            _SHORT,
            spec.Example(
                {"context": "He ate the honey before the jam, as he liked the"}, "honey .", ("jam .", "honey .")
            ),
        ),
        (
            _LONG,
            spec.Example(
                {"context": "He bought jam and not honey because the"},
                "jam was cheap.",
                ("jam was cheap.", "honey was cheap."),
            ),
        ),
    ],
    "wsc273": [
        (
            _BELL,
            spec.Example(
                {"context": "We hung the bell on the rope, and"}, "the bell rang.", ("the bell rang.", "the rope rang.")
            ),
        ),
        (
            _ROPE,
            spec.Example(
                {"context": "The bell is hidden; a rope hangs in front of"}, "the bell.", ("the bell.", "the rope.")
            ),
        ),
    ],
    "wsc": [
        (_wsc_row("Jo", 1), _wsc_example("Jo", "yes")),
        (_wsc_row("Fay", 0), _wsc_example("Fay", "no")),
    ],
}

# TFDS label names in the builders' order (WSC273 has plain integers), each with the option it must give.
LABELS = {
    "definite_pronoun_resolution": {"0": "The cat", "1": "the dog"},
    "winogrande": {"1": "jam .", "2": "honey ."},
    "wsc273": {"0": "the bell rang.", "1": "the rope rang."},
    "wsc": {"False": "no", "True": "yes"},
}


def test_cluster_holds_these_specs_with_wsc_as_an_extra():
    assert [entry.name for entry in coreference.SPECS] == list(CASES)
    assert {(entry.cluster, entry.metrics) for entry in coreference.SPECS} == {("coreference", ("accuracy",))}
    assert [entry.name for entry in coreference.SPECS if entry.collection == "extra"] == ["wsc"]


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize("name", LABELS)
def test_labels_follow_the_order_of_the_options(name):
    row = CASES[name][0][0]
    for label, answer in enumerate(LABELS[name].values()):
        example = SPECS[name].example({**row, "label": label})
        assert example is not None
        assert example.answer == answer
        assert example.options == tuple(LABELS[name].values())


@pytest.mark.parametrize("name", LABELS)
def test_row_without_label_is_dropped(name):
    assert SPECS[name].example({**CASES[name][0][0], "label": -1}) is None


@pytest.mark.parametrize("name", ["winogrande", "wsc273"])
def test_context_and_answer_make_up_the_sentence_with_its_blank_filled(name):
    filled = {
        "winogrande": "He bought jam and not honey because the jam was cheap.",
        "wsc273": "The bell is hidden; a rope hangs in front of the bell.",
    }
    example = SPECS[name].example(CASES[name][1][0])
    assert example is not None
    assert f"{example.fields['context']} {example.answer}" == filled[name]


@pytest.mark.parametrize(
    ("index", "marked"),
    [
        (4, "Then Jo saw Fay. *She* waved, and Fay nodded. She left."),
        (8, "Then Jo saw Fay. She waved, and Fay nodded. *She* left."),  # the index is one word off
        (9, "Then Jo saw Fay. She waved, and Fay nodded. *She* left."),
    ],
)
def test_wsc_marks_the_pronoun_nearest_to_its_index(index, marked):
    example = SPECS["wsc"].example({**_wsc_row("Jo", 1), "span2_index": index})
    assert example is not None
    assert example.fields["text"] == marked


def test_wsc_row_without_its_pronoun_is_dropped():
    assert SPECS["wsc"].example({**_wsc_row("Jo", 1), "span2_text": "he"}) is None


def test_wsc273_has_nothing_to_train_on():
    assert SPECS["wsc273"].splits == {"test": "test"}
    assert SPECS["wsc273"].train_rows == 0


@pytest.mark.parametrize(
    ("text", "pronoun", "options"),
    [
        ("Ida knew of Ann's fall, for she told her.", "she", ("Ida told her.", "Ann told her.")),
        ("Ida's hat lies on Ann's, so it is bent.", "it", ("Ida is bent.", "Ann's is bent.")),
        ("Ida's mother died, and her father left.", "her", ("Ida father left.", "Ann's father left.")),
    ],
)
def test_wsc273_names_a_person_without_the_possessive_unless_the_pronoun_is_one(text, pronoun, options):
    row = _wsc273_row(text, f" {pronoun} ", 1) | {"option1_normalized": "Ida", "option2_normalized": "Ann's"}
    start = text.index(f" {pronoun} ") + 1
    span = {"pronoun_text": pronoun, "pronoun_start": start, "pronoun_end": start + len(pronoun)}
    example = SPECS["wsc273"].example({**row, **span})
    assert example is not None
    assert example.options == options
