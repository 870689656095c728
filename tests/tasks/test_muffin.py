"""The datasets of Muffin that FLAN 2021 does not have: hand-made rows become exactly these examples."""

import pytest

from flan_jax.tasks import muffin

SPECS = {dataset.name: dataset for dataset in muffin.SPECS}


def example(name, **row):
    return SPECS[name].example(row)


def test_lambada():
    found = example("lambada", passage="he opened  the box .\nit was empty , but for a key")
    assert (found.fields, found.answer, found.options) == (
        {"sentence": "he opened the box . it was empty , but for a"},
        "key",
        (),
    )
    assert example("lambada", passage="key") is None


@pytest.mark.parametrize("line", [" \\n ", "\n"])
def test_unified_qa_science(line):
    text = f"What do bees make?{line}(A) honey (B) silk (C) paper (or pulp) (D) wax candles"
    found = example("unified_qa_science_inst", input=text, output="honey ")
    assert found.fields == {"question": "What do bees make?"}
    assert found.options == ("honey", "silk", "paper (or pulp)", "wax candles")
    assert found.answer == "honey"


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("Q? \\n (A) a (B) b (C) c", "a"),  # three options
        ("Q? \\n (A) a (B) b (C) c (D) d (E) e", "a"),
        ("Q? \\n (A) a (B) b (C) c (E) d", "a"),
        ("Q? \\n (A) a (B) a (C) c (D) d", "a"),  # one of them twice
        ("Q? \\n (A) a (B) b (C) c (D) d", "x"),  # the answer is none of them
        ("Q?", "a"),
    ],
)
def test_unified_qa_science_takes_four_options_and_their_answer(given, output):
    assert example("unified_qa_science_inst", input=given, output=output) is None


def test_wiki_dialog_leaves_the_introduction_out():
    found = example("wiki_dialog", utterances=["Hello, ask me about rye.", "What is rye?", "A grain.", "Where?"])
    lines = found.fields["dialog"].split("\n")
    assert len(lines) == 1
    assert lines[0].endswith("What is rye?")
    assert found.answer == "A grain."
    assert found.fields["speaker"]


def test_qrecc_takes_late_turns():
    turns = ["What is rye?", "A grain.", "Where does it grow?", "In the north."]
    found = example("qrecc", context=turns, turn_id=7)
    assert found.answer in ("A grain.", "In the north.")
    assert example("qrecc", context=turns, turn_id=6) is None
    assert example("qrecc", context=[], turn_id=9) is None
    assert example("qrecc", context=["a", " "], turn_id=9) is None


def test_the_turn_follows_from_the_row_and_varies():
    """Every answer of a dialogue is asked for, 20 pairs of turns are used at most, and a row always gives the same."""
    ends, marks = set(), set()
    for number in range(600):
        turns = [f"turn {n} of {number}" for n in range(60)]
        found = example("qrecc", context=turns, turn_id=9)
        assert found == example("qrecc", context=turns, turn_id=9)
        said = found.fields["dialog"].split("\n")
        assert len(said) % 2 == 1
        assert found.answer == f"turn {len(said)} of {number}"
        assert said[-1].endswith(f"turn {len(said) - 1} of {number}")
        ends.add(len(said))
        marks.add(found.fields["speaker"])
    assert ends == set(range(1, 40, 2))
    assert len(marks) == len({mark.strip() for _, mark in muffin._SPEAKERS})
