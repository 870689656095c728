"""Metrics against the definitions written out again, slowly."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.evaluation import metrics

words = st.lists(
    st.sampled_from(
        ["the", "The", "a", "an", "cat", "Cat's", "cats", "and", "U.S.", "ten_men", "10", "-", "\u2019", "rock-n-roll"]
    ),
    max_size=5,
).map(" ".join)


def normalized_by_definition(text, punctuation_becomes):
    """Lower case; punctuation; articles; white space: character by character and token by token."""
    extra = "\u2018\u2019\u00b4`" if punctuation_becomes == " " else ""
    kept = ""
    for character in text.lower():
        kept += punctuation_becomes if character in string.punctuation or (extra and character in extra) else character
    # An article is a whole word; a word ends where \w ends, and what is neither space nor \w stays as it is.
    out, word = "", ""
    for character in kept + "\0":
        if character.isalnum() or character == "_":
            word += character
        else:
            out += " " if word in ("a", "an", "the") else word
            out, word = out + character, ""
    return out.removesuffix("\0").split()


def f1_by_definition(target, prediction):
    if not target and not prediction:
        return 1.0
    left, common = list(target), 0
    for token in prediction:
        if token in left:
            left.remove(token)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(target)
    return 2 * precision * recall / (precision + recall)


@given(st.lists(st.tuples(st.lists(words, min_size=1, max_size=3), words), min_size=1, max_size=6))
def test_squad_and_trivia_qa_follow_their_definitions(examples):
    targets, predictions = [list(side) for side in zip(*examples, strict=True)]
    for function, becomes in [(metrics.squad, ""), (metrics.trivia_qa, " ")]:
        em = f1 = 0.0
        for references, prediction in examples:
            given_tokens = normalized_by_definition(prediction, becomes)
            accepted = [normalized_by_definition(reference, becomes) for reference in references]
            em += max(float(reference == given_tokens) for reference in accepted)
            f1 += max(f1_by_definition(reference, given_tokens) for reference in accepted)
        assert function(targets, predictions) == pytest.approx(
            {"em": 100 * em / len(examples), "f1": 100 * f1 / len(examples)}
        )


def test_where_squad_and_trivia_qa_differ():
    targets, predictions = [["rock-n-roll"]], ["Rock n Roll"]
    assert metrics.squad(targets, predictions) == {"em": 0.0, "f1": 0.0}
    assert metrics.trivia_qa(targets, predictions) == {"em": 100.0, "f1": 100.0}
    # One of two tokens right, against the better reference: precision 1/2, recall 1.
    assert metrics.trivia_qa([["the Beatles", "Stones"]], ["Rolling Stones"]) == pytest.approx(
        {"em": 0.0, "f1": 200 / 3}
    )


def test_accuracy_counts_exact_strings():
    assert metrics.accuracy(["yes", "no", "it is not possible to tell", "no"], ["yes ", "No", "it is", "\nno"]) == {
        "accuracy": 50.0
    }


CB = ["Yes", "No", "It's impossible to say"]


@given(st.lists(st.tuples(st.sampled_from(CB), st.sampled_from([*CB, "maybe", ""])), min_size=1, max_size=12))
def test_mean_3class_f1_follows_the_confusion_matrix(pairs):
    confusion = {(row, column): pairs.count((row, column)) for row in CB for column in [*CB, "maybe", ""]}
    total = 0.0
    for name in CB:
        true_positive = confusion[name, name]
        predicted = sum(confusion[row, name] for row in CB)
        actual = sum(confusion[name, column] for column in [*CB, "maybe", ""])
        precision = true_positive / predicted if predicted else 0.0
        recall = true_positive / actual if actual else 0.0
        total += 2 * precision * recall / (precision + recall) if true_positive else 0.0
    targets, predictions = zip(*pairs, strict=True)
    assert metrics.mean_3class_f1(targets, predictions) == pytest.approx({"mean_3class_f1": 100 * total / 3})


def test_mean_3class_f1_refuses_four_classes():
    with pytest.raises(errors.FlanError, match="the targets hold 4 classes; expected 3"):
        metrics.mean_3class_f1([*CB, "maybe"], [*CB, "maybe"])


scored = st.lists(st.floats(-50, 0), min_size=1, max_size=5).flatmap(
    lambda row: st.tuples(st.just(row), st.sets(st.integers(0, len(row) - 1), min_size=1))
)


@given(st.lists(scored, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_rank_classification_counts_the_best_and_not_its_place(examples, random):
    expected, ties = [], 0
    shuffled = []
    for row, right in examples:
        best = [index for index in range(len(row)) if not any(other > row[index] for other in row)]
        expected.append(len([index for index in best if index in right]) / len(best))
        ties += len(best) > 1
        order = list(range(len(row)))
        random.shuffle(order)
        shuffled.append(([row[index] for index in order], {order.index(index) for index in right}))
    wanted = {"accuracy": 100 * sum(expected) / len(examples), "ties": 100 * ties / len(examples)}
    for given_examples in (examples, shuffled):
        scores, right = zip(*given_examples, strict=True)
        assert metrics.rank_classification_accuracy(scores, right) == pytest.approx(wanted)


def test_rank_classification_literals_and_refusals():
    assert metrics.rank_classification_accuracy([[-1, -2], [-3, -1], [-1, -1]], [{0}, {0}, {1}]) == pytest.approx(
        {"accuracy": 50.0, "ties": 100 / 3}
    )
    for scores, right, message in [
        ([[-1.0, math.nan]], [{0}], "example 0 has a score that is NaN"),
        ([[-1.0], []], [{0}, {0}], "example 1 has no options"),
        ([[-1.0, -2.0]], [set()], r"given as \[\], expected at least one index from 0 to 1"),
        ([[-1.0, -2.0]], [{2}], r"given as \[2\]"),
    ]:
        with pytest.raises(errors.FlanError, match=message):
            metrics.rank_classification_accuracy(scores, right)


def test_answer_accuracy_reads_the_answers():
    targets = ["1250", "24", "7", "3"]
    predictions = ["It costs $1,250.00.", "I think 12 * 2 = 24, so the answer is 25.", "no idea", "1 + 2 = 3"]
    assert metrics.answer_accuracy(targets, predictions) == {"answer_accuracy": 50.0, "unparsed": 25.0}


def test_names():
    with pytest.raises(errors.FlanError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        metrics.get("acuracy")
    perfect = {"predict": {False: (["24"], ["24"]), True: ([["24"]], ["24"])}, "score": {True: ([[0.0, -1.0]], [{0}])}}
    for name in metrics.METRICS:
        metric = metrics.get(name)
        values = metric.function(*perfect[metric.kind][metric.all_answers])
        # With one class of three, the mean of three F1 is a third.
        assert values[metric.main] == pytest.approx(100 / 3 if name == "mean_3class_f1" else 100.0)


def test_wrong_shapes_are_refused():
    for name, metric in metrics.METRICS.items():
        with pytest.raises(errors.FlanError, match=f"{name}: there are no examples"):
            metric.function([], [])
        with pytest.raises(ValueError, match="1 targets and 0 predictions"):
            metric.function(["a"], [])
    for targets in ["x", ["x"], [[]]]:
        with pytest.raises(errors.FlanError, match="expected a list of accepted answers"):
            metrics.trivia_qa(targets, ["x"])


def test_mean_and_std_over_templates():
    # 2, 4, 4, 4, 5, 5, 7, 9: squares sum to 32; 32 / 7, not 32 / 8.
    mean, std = metrics.mean_and_std([2, 4, 4, 4, 5, 5, 7, 9])
    assert mean == 5.0
    assert std == pytest.approx(math.sqrt(32 / 7))
    assert metrics.mean_and_std([61.5]) == (61.5, None)
    with pytest.raises(errors.FlanError, match="no values"):
        metrics.mean_and_std([])
