"""Final answers: hand-read literals, and properties over generated texts."""

import decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.evaluation import answers

READ_BY_HAND = [
    # The docstring's own examples.
    ("number", "Each pays 1,250 / 2 = $625.00.", "625"),
    ("number", "He lost 30 - 45 = -15 points. The answer is -15.", "-15"),
    ("letter", "Sex is how living things reproduce. So it is (D).", "(D)"),
    ("yes_no", "There is no doubt that it burns. The answer is yes.", "yes"),
    ("text", "Plates get full. The answer is: Stress.", "stress"),
    # Numbers.
    ("number", "The answer is 5, which is 2 more than 3.", "5"),
    ("number", "So the answer is 48 / 2 = 24.", "24"),
    ("number", "Therefore, the answer is 7 because 3 + 4 makes it.", "7"),
    ("number", "First answer: 3. No wait. Answer: 4.", "4"),
    ("number", "She has 12 left, so she needs 1,000,000 more", "1000000"),
    ("number", "They are 1,2 and 3,4", "4"),
    ("number", "That makes the final figure 18.", "18"),
    ("number", "It grew by 12.50%.", "12.5"),
    ("number", "The balance is -$40.", "-40"),
    ("number", "The balance is $-40.", "-40"),
    ("number", "The balance is \u221240", "-40"),
    ("number", "pages 10-15", "15"),
    ("number", "5-3", "3"),
    ("number", "= .5", "0.5"),
    ("number", "007", "7"),
    ("number", "-0.00", "0"),
    ("number", "48/2 = <<48/2=24>>24 clips\n#### 24", "24"),
    ("number", "**Answer:** 42", "42"),
    ("number", "The answer is not clear, perhaps 9", "9"),
    ("number", "The answer is unknown", None),
    ("number", "", None),
    ("number", "The answer is 12 apples.\nThere were 3 pears.", "12"),
    ("number", "It was 20. The answer is: it cannot be said.", "20"),
    # Letters: the article and the pronoun are no options.
    ("letter", "The answer is C.", "(C)"),
    ("letter", "The answer is (b)", "(B)"),
    ("letter", "(A) is wrong. (C) fits. The answer is d) ovum", "(D)"),
    ("letter", "A dog barks and I run", None),
    ("letter", "I think it is B", "(B)"),
    ("letter", "Sentence B is fine. The odd one is Sentence A because nobody drinks sand", "(A)"),
    ("letter", "(A) and (B) fail. My choice is option C of five.", "(C)"),
    # Yes and no.
    ("yes_no", "Nobody knows. NO", "no"),
    ("yes_no", "The answer is no, not yes.", "no"),
    ("yes_no", "knowledge", None),
    ("yes_no", "No dog is named, so the answer is: it is not possible to tell.", "unknown"),
    ("yes_no", "Yes, he may. It is impossible to say.", "unknown"),
    ("yes_no", "The verdict is no, though yes was likely.", "no"),
    # Any text.
    ("text", "It is made of wood. A wooden   Chair.", "a wooden chair"),
    ("text", "The answer is \u201cSentence A\u201d.", "sentence a"),
    ("text", "...", None),
]


@pytest.mark.parametrize(
    ("right", "text", "same"),
    [
        ("stress", "So the answer is stress.", True),
        ("stress", "The best choice is Stress, because plates get full.", True),
        ("stress", "The answer is stress. It comes with new businesses.", True),
        ("stress", "The answer is stress relief.", False),
        ("stress", "The answer is distress.", False),
        ("Washington, D.C.", "Hence, the answer is Washington, D.C..", True),
        ("it is not possible to tell", "He has no hat. The answer is no.", False),
        ("no", "It is not possible to tell.", False),
        ("no", "He sleeps.", None),
        ("Sentence B", "Walls do not listen. The answer is B.", True),
    ],
)
def test_same_answer(right, text, same):
    assert answers.same_answer(right, text) is same


@pytest.mark.parametrize(("kind", "text", "expected"), READ_BY_HAND)
def test_read_by_hand(kind, text, expected):
    assert answers.extract(text, kind) == expected


@pytest.mark.parametrize(
    ("answer", "kind", "normal"),
    [
        ("24", "number", "24"),
        ("$1,250.00", "number", "1250"),
        ("-3.50", "number", "-3.5"),
        ("20%", "number", "20"),
        ("(B)", "letter", "(B)"),
        ("B", "letter", "(B)"),
        ("Yes", "yes_no", "yes"),
        ("stress", "text", "stress"),
        ("Sentence A", "letter", "(A)"),
        ("it is not possible to tell", "yes_no", "unknown"),
        ("unknown", "yes_no", "unknown"),
        ("3/4", "text", "3/4"),
        ("12 apples", "text", "12 apples"),
    ],
)
def test_kind_and_normal_form(answer, kind, normal):
    assert answers.kind_of(answer) == kind
    assert answers.normal_form(answer) == normal


numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(decimal.Decimal),
    st.decimals(-(10**6), 10**6, places=2, allow_nan=False, allow_infinity=False),
)
rationales = st.text(st.sampled_from("abc xyz 0123456789 .,+-=$%()\n"), max_size=60)
# Texts that end a rationale as the templates of tasks/templates/gsm8k.yaml do.
connectives = st.sampled_from([" So the answer is ", " This gives ", "\nFinal answer: ", " That makes it ", "\n#### "])


def written(value, style):
    """The number as people write it: plain, with thousands commas, with a currency sign, in percent."""
    digits = f"{abs(value):f}"
    whole, dot, fraction = digits.partition(".")
    if style == "commas":
        digits = f"{int(whole):,}{dot}{fraction}"
    sign = "-" if value < 0 else ""
    return {"currency": f"{sign}${digits}", "percent": f"{sign}{digits}%"}.get(style, f"{sign}{digits}")


@given(rationales, connectives, numbers, st.sampled_from(["plain", "commas", "currency", "percent"]))
def test_a_number_at_the_end_is_found_however_it_is_written(rationale, connective, value, style):
    found = answers.extract(f"{rationale}{connective}{written(value, style)}.", "number")
    assert found is not None
    assert decimal.Decimal(found) == value
    assert answers.same_answer(f"{value:f}", f"{rationale}{connective}{written(value, style)}.") is True


@given(numbers, numbers)
def test_equal_normal_forms_mean_equal_numbers(first, second):
    same = answers.normal_form(f"{first:f}") == answers.normal_form(f"{second:f}")
    assert same == (first == second)
    # And a number equals itself with more zeros.
    padded = f"{first:f}" + ("0" if "." in f"{first:f}" else ".000")
    assert answers.normal_form(padded) == answers.normal_form(f"{first:f}")


@given(rationales, st.sampled_from("ABCDE"))
def test_the_letter_after_the_connective_wins_over_the_rationale(rationale, letter):
    assert answers.extract(f"(A) no. (E) no. {rationale} The answer is ({letter}).", "letter") == f"({letter})"


@given(st.text(max_size=80), st.sampled_from(["number", "letter", "yes_no", "text"]))
def test_any_text_gives_a_normal_form_or_nothing(text, kind):
    found = answers.extract(text, kind)
    if found is not None and kind != "text":
        assert answers.kind_of(found) == kind
        assert answers.normal_form(found) == found
