"""Rows of P3 become these examples: both spellings, options where they can be told from the question."""

import pytest

from flan_jax.data import templates
from flan_jax.tasks import t0_sf

LISTED = "Where do fish live?\nOptions:\n- in trees\n- in water"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": LISTED + "\n", "completion": "in water<|endoftext|>"},
        {
            "inputs_pretokenized": LISTED,
            "targets_pretokenized": "\nin water",
            "answer_choices": ["in trees", "in water"],
        },
        {"inputs_pretokenized": LISTED, "targets_pretokenized": "in water"},
    ],
)
def test_both_spellings(row):
    found = t0_sf.example(row)
    assert found.fields == {"question": "Where do fish live?"}
    assert found.answer == "in water"
    assert found.options == ("in trees", "in water")


def test_a_question_is_left_whole():
    """Its templates show no options, so what its prompt lists has to stay in it."""
    row = {"prompt": LISTED, "completion": "in water"}
    found = {dataset.templates: dataset.example(row) for dataset in t0_sf.datasets()}
    assert found["t0_question_answer"].fields == {"question": LISTED}
    assert found["t0_question_answer"].options == ()
    assert found["t0_multiple_choice"].options == ("in trees", "in water")
    shown = [templates.render(t, found["t0_question_answer"])[0] for t in templates.load("t0_question_answer")]
    assert all("- in trees\n- in water" in text for text in shown)


def test_empty_rows_are_dropped():
    assert t0_sf.example({"prompt": " ", "completion": "x"}) is None
    assert t0_sf.example({"prompt": "x", "completion": "<|endoftext|>"}) is None


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (LISTED, "Where do fish live?"),
        ("Where do fish live?\n\n- in trees\n\n- in water\n", "Where do fish live?"),
        ("Where do fish live?\n\n Choices:\n\n* in trees\n* in water\n\nA:", "Where do fish live?"),
        ("A: Hi.\nB: Hello.\nWho is greeted?\n- in trees\n- in water", "A: Hi.\nB: Hello.\nWho is greeted?"),
    ],
)
def test_a_list_at_the_end_is_cut(prompt, question):
    assert t0_sf.listed(prompt.strip(), "in water") == (question, ("in trees", "in water"))


@pytest.mark.parametrize(
    "prompt",
    [
        "Where do fish live?",
        "- in trees\n- in water",  # nothing but a list
        "Steps:\n- swim\n- eat\nWhere do fish live?",  # a list that is not at the end
        "Where do fish live?\n- in trees\n- on land",  # the answer is not in it
        "Where do fish live?\n- in water",  # no choice
        "Where do fish live?\n- in water\n- in water\n- in trees",  # twice the same
        # What announces the options is part of the sentence.
        "Given all that was said above about animals, where do fish live among the following:\n- in trees\n- in water",
    ],
)
def test_other_prompts_stay_as_they_are(prompt):
    assert t0_sf.listed(prompt, "in water") == (prompt, ())


def test_choices_that_the_prompt_does_not_name_are_shown():
    """Of a review, say: "positive" and "negative" are nowhere in the prompt, so a template may show them."""
    row = {
        "inputs_pretokenized": "It was fun. How was it?",
        "targets_pretokenized": "good",
        "answer_choices": ["bad", "good"],
    }
    assert t0_sf.example(row).options == ("bad", "good")
    named = {**row, "inputs_pretokenized": "It was fun. Was it good or bad?"}
    assert t0_sf.example(named).options == ()


def test_styles_with_and_without_options():
    example = t0_sf.example({"prompt": LISTED, "completion": "in water"})
    for template in templates.load("t0_multiple_choice"):
        with_options, answer = templates.render(template, example)
        without, _ = templates.render(template, example, options=False)
        assert with_options.endswith("OPTIONS:\n- in trees\n- in water")
        assert "in trees" not in without
        assert answer == "in water"
