"""Metrics against the definitions written out again, slowly."""

import math
import string

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import spec
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
    close = [
        row.count(max(row)) == 1 < sum(max(row) - value < metrics.NEAR_TIE for value in row) for row, _ in examples
    ]
    wanted = {
        "accuracy": 100 * sum(expected) / len(examples),
        "ties": 100 * ties / len(examples),
        "near_ties": 100 * sum(close) / len(examples),
    }
    for given_examples in (examples, shuffled):
        scores, right = zip(*given_examples, strict=True)
        assert metrics.rank_classification_accuracy(scores, right) == pytest.approx(wanted)


def test_rank_classification_literals_and_refusals():
    assert metrics.rank_classification_accuracy([[-1, -2], [-3, -1], [-1, -1]], [{0}, {0}, {1}]) == pytest.approx(
        {"accuracy": 50.0, "ties": 100 / 3, "near_ties": 0.0}
    )
    scores = [[-1.0, -1.005], [-1.0, -1.02], [-1.0, -1.0, -1.005]]
    assert metrics.rank_classification_accuracy(scores, [{0}] * 3)["near_ties"] == pytest.approx(100 / 3)
    for scores, right, message in [
        ([[-1.0, math.nan]], [{0}], "example 0 has a score that is NaN"),
        ([[-1.0], []], [{0}, {0}], "example 1 has no options"),
        ([[-1.0, -2.0]], [set()], r"given as \[\], expected at least one index from 0 to 1"),
        ([[-1.0, -2.0]], [{2}], r"given as \[2\]"),
    ]:
        with pytest.raises(errors.FlanError, match=message):
            metrics.rank_classification_accuracy(scores, right)


def test_answer_accuracy_reads_the_answers():
    targets = [["1250"], ["24"], ["7"], ["3", "three"], ["in 1874", "1874"]]
    predictions = ["It costs $1,250.00.", "I think 12 * 2 = 24, so the answer is 25.", "no idea", "1 + 2 = 3", "1874"]
    assert metrics.answer_accuracy(targets, predictions) == {"answer_accuracy": 60.0, "unparsed": 20.0}


YES_NO = st.sampled_from(["yes", "no"])


def f1_of_yes_by_definition(pairs):
    """From precision and recall, each text that is no answer first replaced by the wrong answer, as in T5."""
    wrong = {"yes": "no", "no": "yes"}
    pairs = [(target, given if given in wrong else wrong[target]) for target, given in pairs]
    hits = pairs.count(("yes", "yes"))
    if not hits:
        return 0.0
    precision = hits / [given for _, given in pairs].count("yes")
    recall = hits / [target for target, _ in pairs].count("yes")
    return 200 * precision * recall / (precision + recall)


@given(st.lists(st.tuples(YES_NO, st.sampled_from(["yes", "no", "Yes", "", "perhaps"])), min_size=1, max_size=12))
def test_f1_and_accuracy_follow_their_definitions(pairs):
    targets, predictions = zip(*pairs, strict=True)
    assert metrics.f1_and_accuracy(targets, predictions) == pytest.approx(
        {
            "f1": f1_of_yes_by_definition(pairs),
            "accuracy": 100 * sum(target == given for target, given in pairs) / len(pairs),
        }
    )


def test_f1_and_accuracy_literals():
    # One hit, one miss, one false alarm, and "maybe" for "no", a second one: 2 / (2 + 1 + 2).
    targets, predictions = ["yes", "yes", "no", "no", "no"], ["yes", "no", "yes", "maybe", "no"]
    assert metrics.f1_and_accuracy(targets, predictions) == pytest.approx({"f1": 40.0, "accuracy": 40.0})
    assert metrics.f1_and_accuracy(["no"], ["no"]) == {"f1": 0.0, "accuracy": 100.0}
    with pytest.raises(errors.FlanError, match="target 1 is 'equivalent'; expected 'yes' or 'no'"):
        metrics.f1_and_accuracy(["no", "equivalent"], ["no", "no"])


@given(st.lists(st.tuples(st.sampled_from("pqr"), YES_NO, st.sampled_from(["yes", "no", "yes!"])), min_size=1))
def test_multirc_follows_its_definition(rows):
    targets = [metrics.Grouped(group, answer) for group, answer, _ in rows]
    predictions = [given for _, _, given in rows]
    groups = {group for group, _, _ in rows}
    whole = [all(answer == given for g, answer, given in rows if g == group) for group in groups]
    assert metrics.multirc(targets, predictions) == pytest.approx(
        {
            "f1": f1_of_yes_by_definition([(answer, given) for _, answer, given in rows]),
            "exact_match": 100 * sum(whole) / len(whole),
        }
    )


def test_multirc_counts_questions_not_answers():
    # Question a has both of its responses right, question b one of three; their order does not matter.
    targets = [metrics.Grouped(*pair) for pair in [("a", "yes"), ("b", "no"), ("a", "no"), ("b", "yes"), ("b", "no")]]
    assert metrics.multirc(targets, ["yes", "yes", "no", "no", "no"]) == pytest.approx(
        {"f1": 50.0, "exact_match": 50.0}
    )


def test_targets_carry_what_the_metric_needs():
    example = spec.Example({"question": "Who?", "group": "7-1"}, "Ann", answers=("Ann", "Anna"))
    assert metrics.get("accuracy").target(example) == "Ann"
    assert metrics.get("squad").target(example) == ["Ann", "Anna"]
    assert metrics.get("multirc").target(example) == metrics.Grouped("7-1", "Ann")
    with pytest.raises(errors.FlanError, match=r"'multirc' needs a field 'group'; the example has \['question'\]"):
        metrics.get("multirc").target(spec.Example({"question": "Who?"}, "Ann"))


numbers = st.sampled_from(["0", "1.5", " 2", "3.0", "4e0", "5", "-7", "1e200"])


@given(st.lists(st.tuples(numbers, st.one_of(numbers, st.sampled_from(["nan", "inf", "five", ""]))), min_size=2))
def test_correlations_equal_scipys(pairs):
    targets, predictions = zip(*pairs, strict=True)
    wanted = [float(text) for text in targets]
    given_numbers = [-1.0 if text in ("nan", "inf", "five", "") else float(text) for text in predictions]
    found = metrics.pearson_spearman(targets, predictions)
    assert found["unparsed"] == pytest.approx(100 * sum(n == -1.0 for n in given_numbers) / len(pairs))
    if len(set(wanted)) == 1 or len(set(given_numbers)) == 1:
        assert found["pearson_corrcoef"] == found["spearman_corrcoef"] == 0.0
        return
    assert found["spearman_corrcoef"] == pytest.approx(
        100 * scipy.stats.spearmanr(wanted, given_numbers).statistic, abs=1e-9
    )
    # SciPy's own sum of squares overflows for 1e200; to correlation, a common factor is nothing.
    small = [[value / 1e100 for value in side] if 1e200 in side else side for side in (wanted, given_numbers)]
    assert found["pearson_corrcoef"] == pytest.approx(100 * scipy.stats.pearsonr(*small).statistic, abs=1e-9)


def test_correlation_literals():
    # Deviations -1, 0, 1 and -1, 1, 0: products sum to 1, squares to 2 and 2.
    assert metrics.pearson_spearman(["1", "2", "3"], ["1", "3", "2"]) == pytest.approx(
        {"pearson_corrcoef": 50.0, "spearman_corrcoef": 50.0, "unparsed": 0.0}
    )
    # "n/a" is -1, the lowest of three; ranks 1, 2, 3 against 3, 2, 1.
    found = metrics.pearson_spearman(["1", "2", "3"], ["5.0", "0", "n/a"])
    assert found["spearman_corrcoef"] == pytest.approx(-100.0)
    assert found["unparsed"] == pytest.approx(100 / 3)
    with pytest.raises(errors.FlanError, match="target 1 is 'high'; expected a number"):
        metrics.pearson_spearman(["1", "high"], ["1", "2"])


def test_record_is_squads_score_of_the_best_entity():
    targets = [["Paris", "the city of Paris"], ["Ann Lee"]]
    # "Ann" has precision 1 and recall 1/2.
    assert metrics.record(targets, ["City of paris.", "Ann"]) == pytest.approx(
        {"em": 50.0, "f1": 100 * (1 + 2 / 3) / 2}
    )


# A right answer and what a perfect prediction of it scores; 100 if nothing else is said.
PERFECT = {
    "answer_accuracy": ([["24"]], ["24"]),
    "f1_and_accuracy": (["yes", "no"], ["yes", "no"]),
    "multirc": ([metrics.Grouped("a", "yes"), metrics.Grouped("a", "no")], ["yes", "no"]),
    "pearson_spearman": (["1", "2.5"], ["1", "2.5"]),
}
LONG = "The answer is 24"  # BLEU wants four tokens


def test_names():
    with pytest.raises(errors.FlanError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        metrics.get("acuracy")
    perfect = {"predict": {False: ([LONG], [LONG]), True: ([[LONG]], [LONG])}, "score": {True: ([[0.0, -1.0]], [{0}])}}
    for name in metrics.METRICS:
        metric = metrics.get(name)
        values = metric.function(*PERFECT.get(name, perfect[metric.kind][metric.all_answers]))
        # With one class of three, the mean of three F1 is a third.
        assert values[metric.main] == pytest.approx(100 / 3 if name == "mean_3class_f1" else 100.0), name


def test_wrong_shapes_are_refused():
    for name, metric in metrics.METRICS.items():
        with pytest.raises(errors.FlanError, match=f"{name}: there are no examples"):
            metric.function([], [])
        with pytest.raises(ValueError, match="1 targets and 0 predictions"):
            metric.function(["a"], [])
    for name in ("trivia_qa", "squad", "record", "multi_reference_rouge", "answer_accuracy"):
        for targets in ["x", ["x"], [[]]]:
            with pytest.raises(errors.FlanError, match=f"{name}: target 0 .* expected a list of accepted answers"):
                metrics.get(name).function(targets, ["x"])


def test_mean_and_std_over_templates():
    # 2, 4, 4, 4, 5, 5, 7, 9: squares sum to 32; 32 / 7, not 32 / 8.
    mean, std = metrics.mean_and_std([2, 4, 4, 4, 5, 5, 7, 9])
    assert mean == 5.0
    assert std == pytest.approx(math.sqrt(32 / 7))
    assert metrics.mean_and_std([61.5]) == (61.5, None)
    with pytest.raises(errors.FlanError, match="no values"):
        metrics.mean_and_std([])
