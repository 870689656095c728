"""ROUGE and BLEU against the packages called by hand, edit distance against the recursion that defines it."""

import functools

import editdistance
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from flan_jax.evaluation import text_metrics

PAIRS = [
    ("The cat sat on the mat . It slept .", "A cat sat . It slept on the mat ."),
    ("Two men were running for the bus.", "two men run for the bus"),
    ("Storm closes three bridges", "Three bridges closed"),
    ("nothing in common", "entirely different words"),
    ("an answer", ""),
]


def lines(text):
    """A line per sentence, where " . " ends one."""
    return "\n".join([*(part + " ." for part in text.split(" . ")[:-1]), text.split(" . ")[-1]])


def test_rouge_is_the_mean_of_rouge_score_without_stemming():
    targets, predictions = zip(*PAIRS, strict=True)
    expected = {}
    for name in ("rouge1", "rouge2", "rougeLsum"):
        scorer = rouge_scorer.RougeScorer([name], use_stemmer=False)
        found = [scorer.score(lines(target), lines(given_text))[name].fmeasure for target, given_text in PAIRS]
        expected[name] = 100 * sum(found) / len(found)
    assert text_metrics.rouge(targets, predictions) == pytest.approx(expected)


def test_rouge_literals():
    # Common: 3 of 4 words, 2 of 3 bigrams ("the cat", "cat sat"), and a subsequence of 3 of 4 words ("the cat sat").
    assert text_metrics.rouge(["the cat sat up"], ["The cat sat down!"]) == pytest.approx(
        {"rouge1": 75.0, "rouge2": 200 / 3, "rougeLsum": 75.0}
    )
    # No stemming: "runs" is not "run".
    assert text_metrics.rouge(["he runs"], ["he run"])["rouge1"] == pytest.approx(50.0)
    # Sentences change places: as one line, the common subsequence is one sentence; by sentences, it is all.
    swapped = text_metrics.rouge(["a b . c d"], ["c d . a b"])
    assert swapped["rougeLsum"] == pytest.approx(100.0)
    assert swapped["rouge2"] < 100


def test_multi_reference_rouge_takes_the_best_reference_for_each_type():
    references = ["one two three four", "four three two one five", "one two"]
    prediction = "one two four three"
    single = [text_metrics.rouge([reference], [prediction]) for reference in references]
    best = {name: max(values[name] for values in single) for name in text_metrics.ROUGE_TYPES}
    assert text_metrics.multi_reference_rouge([references], [prediction]) == pytest.approx(best)
    # The types disagree about the reference, so no single one gives these values.
    assert all(values != pytest.approx(best) for values in single)
    # And the mean is over examples.
    other = text_metrics.rouge(["x y"], ["y"])
    both = text_metrics.multi_reference_rouge([references, ["x y"]], [prediction, "y"])
    assert both == pytest.approx({name: (best[name] + other[name]) / 2 for name in best})


def test_bleu_is_sacrebleus_with_t5s_settings():
    targets = ["Der Hund, der bellt, beißt nicht.", "Er rief »Halt« und lief."]
    predictions = ["Der Hund der bellt, beißt selten nicht.", "Er rief »Hallo« und lief!"]
    bleu = sacrebleu.BLEU(tokenize="intl", smooth_method="exp", effective_order=False, lowercase=False)
    found = text_metrics.bleu(targets, predictions)
    assert found == {"bleu": pytest.approx(bleu.corpus_score(predictions, [targets]).score)}
    assert 20 < found["bleu"] < 80
    # The tokeniser is not the default one, and case counts.
    text = "der «Hund» bellt laut"
    for other in ("13a", "none"):
        assert found["bleu"] != pytest.approx(sacrebleu.corpus_bleu(predictions, [targets], tokenize=other).score)
    assert text_metrics.bleu([text], [text])["bleu"] == pytest.approx(100.0)
    assert text_metrics.bleu([text], [text.title()])["bleu"] < 50


def test_bleu_is_of_the_corpus():
    # Of 8 + 4 tokens, orders 1 to 4 match 8 + 3, 7 + 2, 6 + 1 and 5 + 0 times of 12, 10, 8 and 6: no brevity penalty.
    targets, predictions = ["a b c d e f g h", "a b c d"], ["a b c d e f g h", "a b c x"]
    expected = 100 * (11 / 12 * 9 / 10 * 7 / 8 * 5 / 6) ** 0.25
    assert text_metrics.bleu(targets, predictions)["bleu"] == pytest.approx(expected)


@functools.cache
def distance_by_definition(first, second):
    if not first or not second:
        return len(first) + len(second)
    return min(
        distance_by_definition(first[1:], second) + 1,
        distance_by_definition(first, second[1:]) + 1,
        distance_by_definition(first[1:], second[1:]) + (first[0] != second[0]),
    )


@given(st.text("abc", max_size=9), st.text("abcd", max_size=9))
def test_levenshtein_follows_its_definition(first, second):
    assert text_metrics.levenshtein(first, second) == distance_by_definition(first, second)


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(["a", "the", "", "Ä"]), max_size=150),
    st.lists(st.sampled_from(["a", "the", ""]), max_size=150),
)
def test_levenshtein_of_long_sequences_equals_the_package_that_t5_calls(first, second):
    assert text_metrics.levenshtein(first, second) == editdistance.distance(first, second)
    assert text_metrics.levenshtein(second, first) == editdistance.distance(first, second)


def test_edit_distance_literals():
    # kitten -> sitting: 3 edits, the longer text has 7 characters; the two other pairs are equal and without likeness.
    found = text_metrics.edit_distance(["sitting", "same", "abc"], ["kitten", " same\n", "xyz"])
    assert found["edit_similarity"] == pytest.approx(100 * (4 / 7 + 1 + 0) / 3)
    # In characters, case and marks count. In words, neither case nor which mark it is, but the comma's empty word does.
    found = text_metrics.edit_distance(["Yes, it is."], ["yes it is!"])
    assert found == {"edit_similarity": pytest.approx(100 * 8 / 11), "mean_edit": 1.0}
    assert text_metrics.edit_distance([""], [""]) == {"edit_similarity": 100.0, "mean_edit": 0.0}
    assert text_metrics.edit_distance(["a b"], [""])["edit_similarity"] == 0.0
