"""Answers in outputs: what is written the way the papers write it is found, and neighbours of it are not taken for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.evaluation.suites import bbh, mgsm, mmlu, parsing


@pytest.mark.parametrize(
    ("text", "cot", "found"),
    [
        ("(B)", False, "(B)"),
        ("B", False, "(B)"),
        ("B. the second", False, "(B)"),
        (" b", False, None),
        ("(A) because (B) is not", False, "(A)"),
        ("(A) is out, (B) remains", True, "(B)"),
        ("(A) is out. So the answer is (C). (D) is not.", True, "(C)"),
        ("The answer is C.", True, "(C)"),
        ("the answer is: (D)", True, "(D)"),
        ("The answer is option D", True, "(D)"),
        ("The answer is Option D, not B.", True, "(D)"),
        ("The correct option is C.", False, "(C)"),
        ("option C", False, "(C)"),
        ("B. Not option A.", False, "(B)"),
        ("My choice: B", False, "(B)"),
        ("Option A is too cold. The answer is option (B).", True, "(B)"),
        ("Option A is out, option B is in", True, "(B)"),
        ("an optional C", False, None),
        ("A dog barks", False, None),
        ("", False, None),
    ],
)
def test_letters(text, cot, found):
    assert parsing.letter(text, cot=cot) == found


def test_a_letter_that_is_no_option_of_mmlu_is_none():
    assert mmlu.parse("(E)", "anatomy", False) is None
    assert mmlu.parse("So the answer is (D).", "anatomy", True) == "(D)"


@pytest.mark.parametrize(
    ("text", "cot", "found"),
    [
        ("True", False, "True"),
        ("false", False, "False"),
        ("not False = True. So the answer is True.", True, "True"),
        ("First False, then True", False, "False"),
        ("First False, then True", True, "True"),
        ("Untrue", False, None),
    ],
)
def test_words(text, cot, found):
    assert parsing.word(text, ("True", "False"), cot=cot) == found


@pytest.mark.parametrize(
    ("subtask", "output", "cot", "parsed", "target"),
    [
        ("formal_fallacies", "it is invalid", False, "invalid", "invalid"),
        ("dyck_languages", "We need two. So the answer is ] } ].", True, "] } ]", "] } ]"),
        ("word_sorting", "ash elm oak", False, "ash elm oak", "ash elm oak"),
        ("word_sorting", "a < b\nSo the answer is ash elm  oak.", True, "ash elm  oak", "ash elm oak"),
        ("object_counting", "1 + 2 = 3. So the answer is 3.", True, "3", "3"),
        ("multistep_arithmetic_two", "A - B = -163 - 56 = -219. So the answer is -219.", True, "-219", "-219"),
        ("movie_recommendation", "So the answer is Monsters, Inc.", True, "Monsters, Inc", "Monsters, Inc"),
        ("hyperbaton", "(B)", False, "(B)", "(B)"),
    ],
)
def test_big_bench_hard(subtask, output, cot, parsed, target):
    assert bbh.parse(output, subtask, cot) == parsed
    assert bbh.right(parsed, [target], subtask)
    assert not bbh.right(parsed, ["(A)" if parsed != "(A)" else "(B)"], subtask)


@pytest.mark.parametrize(
    ("language", "output", "found"),
    [
        ("en", "5 + 6 = 11. The answer is 11.", "11"),
        ("en", "The answer is 5, which is 2 more than 3.", "5"),
        ("en", "The answer is 3 * 4 = 12.", "12"),
        ("en", "She has 1,250 left", "1250"),
        ("en", "it is -4.50", "-4.5"),
        ("en", "5-3", "3"),
        ("de", "Zusammen 1.250. Die Antwort lautet 1.250.", "1250"),
        ("es", "La respuesta es 7.", "7"),
        ("fr", "La réponse est 1\u202f250 euros.", "1250"),
        ("ru", "5 + 6 = 11. Ответ — 11.", "11"),
        ("ja", "5+6=11。答えは11です。", "11"),
        ("zh", "5 + 6 = 11。答案是 11。", "11"),
        ("th", "5 + 6 = 11 คำตอบคือ 11", "11"),
        ("bn", "৫ + ৬ = ১১। উত্তর হল ১১।", "11"),
        ("te", "5+6=11. సమాధానం 11.", "11"),
        ("sw", "Jibu ni 11.", "11"),
        ("sw", "hakuna", None),
    ],
)
def test_results_of_sums_in_eleven_languages(language, output, found):
    assert mgsm.parse(output, language, True) == found


@given(st.integers(-(10**9), 10**9), st.sampled_from(["en", "bn", "ja", "sw", "te", "th", "zh"]), st.booleans())
def test_a_number_is_read_as_it_is_written(number, language, grouped):
    written = f"{number:,}" if grouped else str(number)
    assert parsing.integer(f"x = 3 {written}.", language) == str(number)


@settings(max_examples=40)
@given(st.text(max_size=60), st.booleans())
def test_no_output_breaks_a_parser(text, cot):
    for subtask in ("navigate", "object_counting", "word_sorting", "snarks"):
        found = bbh.parse(text, subtask, cot)
        assert found is None or found
    for language in parsing.RESULT_IS:
        found = mgsm.parse(text, language, cot)
        assert found is None or float(found) == float(found)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_nothing_said_is_no_answer(text):
    assert parsing.clause(text, cot=True) is None
    assert parsing.word(text, ("yes", "no"), cot=False) is None
