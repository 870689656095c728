"""The chain-of-thought specs: hand-made GSM8K rows give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import cot

(GSM8K,) = cot.SPECS


def test_targets_carry_a_rationale():
    assert (GSM8K.collection, GSM8K.cluster, GSM8K.rationale) == ("cot", "chain_of_thought", True)


def test_calculator_marks_and_newlines_go():
    row = {
        "question": "Ida has 3 boxes of 12 eggs and sells 6 eggs. How many are left? ",
        # The first line ends without a full stop, as most of the published ones do.
        "answer": "Ida has 3*12 = <<3*12=36>>36 eggs\nShe has 36 - 6 = <<36-6=30>>30 left.\n#### 30",
    }
    assert GSM8K.example(row) == spec.Example(
        fields={
            "question": "Ida has 3 boxes of 12 eggs and sells 6 eggs. How many are left?",
            "rationale": "Ida has 3*12 = 36 eggs. She has 36 - 6 = 30 left.",
        },
        answer="30",
        answers=("30",),
    )


def test_the_answer_loses_its_thousands_commas():
    row = {"question": "What do 25 tons cost?", "answer": "They cost 25*$50 = $<<25*50=1250>>1,250.\n#### 1,250"}
    assert GSM8K.example(row) == spec.Example(
        fields={"question": "What do 25 tons cost?", "rationale": "They cost 25*$50 = $1,250."},
        answer="1250",
        answers=("1250",),
    )


@pytest.mark.parametrize(
    "answer", ["No mark, 30.", "It is 30.\n#### ", "#### 30", ""], ids=["no mark", "no number", "no rationale", "empty"]
)
def test_incomplete_rows_are_dropped(answer):
    assert GSM8K.example({"question": "How many?", "answer": answer}) is None
