"""The miscellaneous specs: hand-made rows of each builder give exactly these examples."""

import itertools

import pytest

from flan_jax.data import spec
from flan_jax.tasks import misc

SPECS = {entry.name: entry for entry in misc.SPECS}

CLUSTERS = {
    "coqa": "conversational_qa",
    "quac": "conversational_qa",
    "wic": "word_disambiguation",
    "trec": "question_classification",
    "cola": "linguistic_acceptability",
    "math_dataset": "math",
    "fix_punct": "text_formatting",
    "true_case": "text_formatting",
    "word_segment": "text_formatting",
}

# TFDS label names in the builders' order, each with the answer it must give.
LABELS = {
    "wic": {"False": "different meanings", "True": "the same meaning"},
    "trec": {
        "DESC": "description",
        "ENTY": "entity",
        "ABBR": "abbreviation",
        "HUM": "human",
        "NUM": "numeric",
        "LOC": "location",
    },
    "cola": {"unacceptable": "unacceptable", "acceptable": "acceptable"},
}
LABEL_COLUMN = {"wic": "label", "trec": "label-coarse", "cola": "label"}


def _coqa_row(questions: list[str], answers: list[str]) -> dict:
    unknown = [-1] * len(answers)
    return {
        "source": "mctest",
        "story": "Lea has a goat.",
        "questions": questions,
        "answers": {"input_text": answers, "answer_start": unknown, "answer_end": unknown},
    }


def _quac_row(answer: str, others: list[str]) -> dict:
    return {
        "title": "Old mill",
        "section_title": "Fire",
        "background": "The mill stands in Orle.",
        "context": "It burned in 1901. CANNOTANSWER",
        "question": "When did it burn?",
        "yesno": "x",
        "followup": "n",
        "answers": {"text": others, "answer_start": [0] * len(others)},
        "orig_answer": {"text": answer, "answer_start": 0},
    }


def _quac_example(*answers: str) -> spec.Example:
    fields = {
        "title": "Old mill",
        "background": "The mill stands in Orle.",
        "context": "It burned in 1901.",
        "question": "When did it burn?",
    }
    return spec.Example(fields, answers[0], (), answers)


def _wic_row(sentence2: str, label: int) -> dict:
    spans = {"start1": 2, "end1": 5, "start2": 4, "end2": 7}
    return {"word": "bat", "sentence1": "A bat flew.", "sentence2": sentence2, **spans, "idx": 0, "label": label}


def _wic_example(sentence2: str, answer: str) -> spec.Example:
    fields = {"word": "bat", "sentence1": "A bat flew.", "sentence2": sentence2}
    return spec.Example(fields, answer, ("different meanings", "the same meaning"), (answer,))


def _trec_row(text: str, coarse: int) -> dict:
    return {"text": text, "label-coarse": coarse, "label-fine": 0}


def _trec_example(question: str, answer: str) -> spec.Example:
    return spec.Example({"question": question}, answer, tuple(LABELS["trec"].values()), (answer,))


def _cola_row(sentence: str, label: int) -> dict:
    return {"sentence": sentence, "label": label, "idx": 5}


def _cola_example(sentence: str, answer: str) -> spec.Example:
    return spec.Example({"sentence": sentence}, answer, ("unacceptable", "acceptable"), (answer,))


def _pair_row(en: str) -> dict:
    return {"en": en, "da": "Ikke vist."}


CASES = {
    "coqa": [
        (
            _coqa_row(["Who has a goat?", " Is it hers? "], ["Lea", "yes"]),
            spec.Example(
                {"story": "Lea has a goat.", "questions": "1. Who has a goat?\n2. Is it hers?"}, "1. Lea\n2. yes"
            ),
        ),
        (
            _coqa_row(["What does Lea have?"], ["a goat"]),
            spec.Example({"story": "Lea has a goat.", "questions": "1. What does Lea have?"}, "1. a goat"),
        ),
    ],
    "quac": [
        (_quac_row("in 1901", ["in 1901"]), _quac_example("in 1901")),
        (_quac_row("in 1901", ["1901", "CANNOTANSWER", "in 1901"]), _quac_example("in 1901", "1901")),
    ],
    "wic": [
        (_wic_row("The bat slept.", 1), _wic_example("The bat slept.", "the same meaning")),
        (_wic_row("The bat broke.", 0), _wic_example("The bat broke.", "different meanings")),
    ],
    "trec": [
        (_trec_row("Who is Ida ?", 3), _trec_example("Who is Ida ?", "human")),
        (_trec_row("Where is Orle ?", 5), _trec_example("Where is Orle ?", "location")),
    ],
    "cola": [
        (_cola_row("He sings.", 1), _cola_example("He sings.", "acceptable")),
        (_cola_row("Sings him.", 0), _cola_example("Sings him.", "unacceptable")),
    ],
    "math_dataset": [
        (
            {"question": "Solve 2*b = 6 for b.", "answer": "3"},
            spec.Example({"question": "Solve 2*b = 6 for b."}, "3"),
        ),
        (
            {"question": "Solve b + 4 = 3 for b.\n", "answer": "-1\n"},
            spec.Example({"question": "Solve b + 4 = 3 for b."}, "-1"),
        ),
    ],
    "fix_punct": [
        (_pair_row("No, it's 5.30!"), spec.Example({"unpunctuated": "No its 530"}, "No, it's 5.30!")),
        (_pair_row("Café - Ærø "), spec.Example({"unpunctuated": "Café Ærø"}, "Café - Ærø")),
    ],
    "true_case": [
        (_pair_row("We ship to Århus."), spec.Example({"lower": "we ship to århus."}, "We ship to Århus.")),
        (_pair_row("BACK  to top"), spec.Example({"lower": "back to top"}, "BACK to top")),
    ],
    "word_segment": [
        (_pair_row("Back to top"), spec.Example({"unspaced": "Backtotop"}, "Back to top")),
        (_pair_row("a\tb  c"), spec.Example({"unspaced": "abc"}, "a b c")),
    ],
}


def test_each_dataset_is_held_out_with_its_cluster():
    assert {entry.name: entry.cluster for entry in misc.SPECS} == CLUSTERS


def test_only_the_two_outside_the_paper_are_extras():
    extras = [entry.name for entry in misc.SPECS if entry.collection == "extra"]
    assert extras == ["true_case", "word_segment"]
    assert {entry.collection for entry in misc.SPECS} == {"flan2021", "extra"}


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize("name", LABELS)
def test_every_label_has_its_own_answer(name):
    row = CASES[name][0][0]
    answers = list(LABELS[name].values())
    for label, answer in enumerate(answers):
        example = SPECS[name].example({**row, LABEL_COLUMN[name]: label})
        assert example is not None
        assert example.answer == answer
        assert example.options == tuple(answers)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("coqa", _coqa_row([], [])),
        ("coqa", _coqa_row(["Who?", "Why?"], ["Lea"])),
        ("quac", _quac_row("CANNOTANSWER", ["in 1901"])),
        ("quac", _quac_row("", [])),
        ("wic", _wic_row("The bat slept.", -1)),
        ("cola", _cola_row("He sings.", -1)),
        ("fix_punct", _pair_row("Back to top")),
        ("fix_punct", _pair_row("* * *")),
        ("true_case", _pair_row("back to top")),
        ("word_segment", _pair_row("Contact")),
        ("word_segment", _pair_row("")),
    ],
)
def test_row_without_anything_to_learn_is_dropped(name, row):
    assert SPECS[name].example(row) is None


def test_text_formatting_windows_are_disjoint():
    """No row of ParaCrawl trains one of the three tasks and trains or validates another."""
    windows = []
    for name in ("fix_punct", "true_case", "word_segment"):
        for split in ("train", "validation"):
            start, stop = SPECS[name].splits[split].removeprefix("train[").removesuffix("]").split(":")
            windows.append((int(start or 0), int(stop)))
    windows.sort()
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(windows))
    assert {SPECS[name].splits["test"] for name in ("fix_punct", "true_case", "word_segment")} == {"train[-3000:]"}
