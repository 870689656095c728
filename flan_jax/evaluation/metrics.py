"""Metrics by name, in percent (0 to 100) as T5's are. Specs name them by string; nothing here imports TensorFlow.

A `predict` metric takes (targets, predictions): the right answers and the generated texts. A `score` metric takes
(scores, right): one score per option, and which options are right.
"""

import collections
import dataclasses
import math
import re
import statistics
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from flan_jax import errors
from flan_jax.data import spec
from flan_jax.evaluation import answers, text_metrics
from flan_jax.evaluation import scores as scores_lib

_NO_YES = ("no", "yes")
_UNPARSED = -1.0  # what T5 puts for a number that does not parse
# Nats between two options whose order rounding can turn: bfloat16 changes a sum of log-likelihoods by about so much.
NEAR_TIE = 0.01
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# SQuAD's script drops punctuation; TriviaQA's puts a space in its place, and knows four more marks.
_SQUAD_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, ""))
_TRIVIA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that a spec can name.

    Attributes:
      name: its key in `METRICS`.
      function: (targets, predictions) or (scores, right) -> named values in percent, unless the name says otherwise.
      kind: `predict` for generated texts, `score` for option scores.
      all_answers: whether a target is the list of all accepted answers (`Example.answers`), not `Example.answer`.
      main: which of the values stands for the task in tables.
      needs_group: whether a target is `Grouped`: that answer, and the field `group` of the example.
    """

    name: str
    function: Callable[[Sequence[Any], Sequence[Any]], scores_lib.Scores]
    kind: Literal["predict", "score"]
    all_answers: bool
    main: str
    needs_group: bool = False

    def target(self, example: spec.Example) -> Any:
        """Returns what a `predict` metric compares with the prediction.

        Raises:
          FlanError: the metric needs a group, and the example has no field of that name.
        """
        right = list(example.answers) if self.all_answers else example.answer
        if not self.needs_group:
            return right
        if "group" not in example.fields:
            raise errors.FlanError(
                f"metric {self.name!r} needs a field 'group'; the example has {sorted(example.fields)}"
            )
        return Grouped(example.fields["group"], right)


class Grouped(NamedTuple):
    """A target of a metric that looks at several examples together.

    Attributes:
      group: what these examples share, such as their question.
      answer: the right answer, or all accepted ones.
    """

    group: str
    answer: Any


def get(name: str) -> Metric:
    """Returns the metric of that name; raises FlanError with the nearest names otherwise."""
    if name not in METRICS:
        raise errors.unknown("metric", name, METRICS)
    return METRICS[name]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> scores_lib.Scores:
    """Exact match of strings, without the white space around them; case counts.

    Returns:
      {'accuracy': percent}.
    """
    scores_lib.check("accuracy", targets, predictions)
    return {"accuracy": scores_lib.percent([_strip(t) == _strip(p) for t, p in zip(targets, predictions, strict=True)])}


def mean_3class_f1(targets: Sequence[str], predictions: Sequence[str]) -> scores_lib.Scores:
    """The mean of the F1 of three classes, each an answer text (SuperGLUE's metric for CB, beside accuracy).

    A class that no target has counts with F1 0, as in scikit-learn's, hence T5's, mean over a fixed set of three
    classes. A prediction that is no class at all is a miss for its target and a false alarm for none.

    Returns:
      {'mean_3class_f1': percent}.

    Raises:
      FlanError: where the targets hold more than three classes.
    """
    scores_lib.check("mean_3class_f1", targets, predictions)
    right, given = [_strip(t) for t in targets], [_strip(p) for p in predictions]
    classes = sorted(set(right))
    if len(classes) > 3:
        raise errors.FlanError(f"mean_3class_f1: the targets hold {len(classes)} classes; expected 3: {classes[:6]}")
    total = 0.0
    for name in classes:
        hits = sum(t == name == p for t, p in zip(right, given, strict=True))
        total += 2 * hits / (right.count(name) + given.count(name))
    return {"mean_3class_f1": 100 * total / 3}


def f1_and_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> scores_lib.Scores:
    """F1 of the answer 'yes', and accuracy (GLUE's pair for MRPC and QQP).

    A prediction that is neither 'yes' nor 'no' is the wrong one of the two, as in T5: it is a false alarm where 'no' is
    right. F1 is 0 where 'yes' is neither right nor predicted anywhere.

    Returns:
      {'f1': percent, 'accuracy': percent}.

    Raises:
      FlanError: for a target that is neither 'yes' nor 'no'.
    """
    scores_lib.check("f1_and_accuracy", targets, predictions)
    return {"f1": _f1_of_yes("f1_and_accuracy", targets, predictions), **accuracy(targets, predictions)}


def multirc(targets: Sequence[Grouped], predictions: Sequence[str]) -> scores_lib.Scores:
    """F1 of the answer 'yes' over all examples, and exact match over groups (Khashabi et al. 2018: F1a and EM).

    An example asks whether one response answers a question. A group, the responses to one question, matches where all
    of its predictions are right. Exact match wants whole groups: a limited number of rows may cut the last one.

    Args:
      targets: per example, its question and 'yes' or 'no'.
      predictions: per example, the generated answer; others than 'yes' and 'no' count as in `f1_and_accuracy`.

    Returns:
      {'f1': percent, 'exact_match': percent of groups}.

    Raises:
      FlanError: for an answer that is neither 'yes' nor 'no'.
    """
    scores_lib.check("multirc", targets, predictions)
    groups: dict[str, bool] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        same = _strip(target.answer) == _strip(prediction)
        groups[target.group] = groups.get(target.group, True) and same
    return {
        "f1": _f1_of_yes("multirc", [target.answer for target in targets], predictions),
        "exact_match": scores_lib.percent(list(groups.values())),
    }


def pearson_spearman(targets: Sequence[str], predictions: Sequence[str]) -> scores_lib.Scores:
    """Correlation of numbers, and of their ranks (GLUE's pair for STS-B); equal numbers share their mean rank.

    A prediction that is no finite number counts as -1, as in T5: below STS-B's scale, which begins at 0. Where either
    side is the same number throughout, correlation is undefined (SciPy gives NaN); it is 0 here, as such predictions
    tell nothing.

    Returns:
      {'pearson_corrcoef': percent, 'spearman_corrcoef': percent, 'unparsed': percent of predictions, no numbers}.

    Raises:
      FlanError: for a target that is no number.
    """
    scores_lib.check("pearson_spearman", targets, predictions)
    right = [_number(target) for target in targets]
    if None in right:
        number = right.index(None)
        raise errors.FlanError(f"pearson_spearman: target {number} is {targets[number]!r}; expected a number")
    parsed = [_number(prediction) for prediction in predictions]
    wanted, given = np.asarray(right), np.asarray([_UNPARSED if value is None else value for value in parsed])
    return {
        "pearson_corrcoef": 100 * _correlation(wanted, given),
        "spearman_corrcoef": 100 * _correlation(_ranks(wanted), _ranks(given)),
        "unparsed": scores_lib.percent([value is None for value in parsed]),
    }


def trivia_qa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> scores_lib.Scores:
    """Exact match and token F1 against the best of several accepted answers (Joshi et al. 2017).

    Normalised: lower case, punctuation to spaces, articles removed, white space joined.

    Args:
      targets: per example, every accepted answer.
      predictions: per example, the generated answer.

    Returns:
      {'em': percent, 'f1': percent}.
    """
    return _em_f1("trivia_qa", targets, predictions, normalize_trivia_qa)


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> scores_lib.Scores:
    """Exact match and token F1 against the best of several accepted answers (Rajpurkar et al. 2016, 2018).

    Normalised: lower case, punctuation removed, articles removed, white space joined. Where both sides are empty after
    that, EM and F1 are 1, as in the script for SQuAD 2.0 (T5's F1 is 0 there).

    Returns:
      {'em': percent, 'f1': percent}.
    """
    return _em_f1("squad", targets, predictions, normalize_squad)


def record(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> scores_lib.Scores:
    """`squad` for ReCoRD (Zhang et al. 2018), against the best of the accepted entities.

    T5 has a row for each accepted entity and leaves the repeated queries out when it scores. The rows of TFDS, and the
    tasks here, have each query once, with all that is accepted.

    Returns:
      {'em': percent, 'f1': percent}.
    """
    return _em_f1("record", targets, predictions, normalize_squad)


def answer_accuracy(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> scores_lib.Scores:
    """Accuracy of the final answers parsed out of chains of thought (see `answers`).

    Args:
      targets: the bare answers that are accepted (`Example.answers`), not the target texts with their rationales.
      predictions: the generated texts.

    Returns:
      {'answer_accuracy': percent, 'unparsed': percent of predictions in which no answer was found, counted as wrong}.
    """
    scores_lib.check("answer_accuracy", targets, predictions)
    scores_lib.check_accepted("answer_accuracy", targets)
    found = [
        {answers.same_answer(answer, text) for answer in accepted}
        for accepted, text in zip(targets, predictions, strict=True)
    ]
    return {
        "answer_accuracy": scores_lib.percent([True in same for same in found]),
        "unparsed": scores_lib.percent([same == {None} for same in found]),
    }


def rank_classification_accuracy(
    scores: Sequence[Sequence[float]], right: Sequence[Collection[int]]
) -> scores_lib.Scores:
    """Accuracy of the option with the best score (FLAN, section 2.3).

    Options that share the best score bit for bit share the guess: with one right option among n tied ones the example
    counts 1/n, whatever the order of the options. (T5 takes the first, which rewards a dataset whose first option is
    mostly right.)

    Args:
      scores: per example, one log-likelihood per option; the highest is predicted.
      right: per example, the indices of the options that are right; at least one.

    Returns:
      {'accuracy': percent, 'ties': percent of examples whose best score is shared by several options, 'near_ties': percent of
      those where it is not, but another comes within `NEAR_TIE`: other hardware or another type may decide otherwise}.

    Raises:
      FlanError: for an example without options or without a right one, an index out of range, a score that is NaN.
    """
    scores_lib.check("rank_classification_accuracy", scores, right)
    credit, ties, near = [], [], []
    for number, (row, correct) in enumerate(zip(scores, right, strict=True)):
        values = np.asarray(row, np.float64)
        if values.ndim != 1 or not values.size:
            raise errors.FlanError(f"rank_classification_accuracy: example {number} has no options")
        if np.isnan(values).any():
            raise errors.FlanError(
                f"rank_classification_accuracy: example {number} has a score that is NaN: {values.tolist()}"
            )
        if not correct or not all(0 <= index < values.size for index in correct):
            raise errors.FlanError(
                f"rank_classification_accuracy: example {number} has {values.size} options; the right ones are given "
                f"as {sorted(correct)}, expected at least one index from 0 to {values.size - 1}"
            )
        best = np.flatnonzero(values == values.max()).tolist()
        credit.append(sum(index in correct for index in best) / len(best))
        ties.append(len(best) > 1)
        near.append(len(best) == 1 and int((values > values.max() - NEAR_TIE).sum()) > 1)
    return {
        "accuracy": scores_lib.percent(credit),
        "ties": scores_lib.percent(ties),
        "near_ties": scores_lib.percent(near),
    }


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "predict", all_answers=False, main="accuracy"),
        Metric("mean_3class_f1", mean_3class_f1, "predict", all_answers=False, main="mean_3class_f1"),
        Metric("f1_and_accuracy", f1_and_accuracy, "predict", all_answers=False, main="f1"),
        Metric("pearson_spearman", pearson_spearman, "predict", all_answers=False, main="pearson_corrcoef"),
        Metric("multirc", multirc, "predict", all_answers=False, main="f1", needs_group=True),
        Metric("trivia_qa", trivia_qa, "predict", all_answers=True, main="em"),
        Metric("squad", squad, "predict", all_answers=True, main="f1"),
        # Exact match: a prediction repeats the rest of the query after the entity, which is worth F1 whoever is named.
        Metric("record", record, "predict", all_answers=True, main="em"),
        Metric("rouge", text_metrics.rouge, "predict", all_answers=False, main="rougeLsum"),
        Metric(
            "multi_reference_rouge", text_metrics.multi_reference_rouge, "predict", all_answers=True, main="rougeLsum"
        ),
        Metric("bleu", text_metrics.bleu, "predict", all_answers=False, main="bleu"),
        Metric("edit_distance", text_metrics.edit_distance, "predict", all_answers=False, main="edit_similarity"),
        Metric("answer_accuracy", answer_accuracy, "predict", all_answers=True, main="answer_accuracy"),
        Metric(
            "rank_classification_accuracy", rank_classification_accuracy, "score", all_answers=True, main="accuracy"
        ),
    )
}


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and standard deviation over templates.

    The sample deviation (n - 1 in the denominator): the templates are a sample of the ways to put a task, and the
    figure is an error bar. It is None for a single value, which says nothing about spread.

    Raises:
      FlanError: for no values.
    """
    if not values:
        raise errors.FlanError("mean over templates: no values")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def normalize_trivia_qa(text: str) -> str:
    return _join(text.lower().translate(_TRIVIA_PUNCTUATION))


def normalize_squad(text: str) -> str:
    return _join(text.lower().translate(_SQUAD_PUNCTUATION))


def _join(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split())


def _em_f1(
    name: str, targets: Sequence[Sequence[str]], predictions: Sequence[str], normalize: Callable[[str], str]
) -> scores_lib.Scores:
    scores_lib.check(name, targets, predictions)
    scores_lib.check_accepted(name, targets)
    exact, overlap = [], []
    for references, prediction in zip(targets, predictions, strict=True):
        given = normalize(prediction)
        accepted = [normalize(reference) for reference in references]
        exact.append(given in accepted)
        overlap.append(max(_token_f1(reference.split(), given.split()) for reference in accepted))
    return {"em": scores_lib.percent(exact), "f1": scores_lib.percent(overlap)}


def _token_f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over tokens with their counts."""
    if not target or not prediction:
        return float(target == prediction)
    common = (collections.Counter(target) & collections.Counter(prediction)).total()
    return 2 * common / (len(target) + len(prediction))


def _f1_of_yes(name: str, targets: Sequence[str], predictions: Sequence[str]) -> float:
    """F1 of 'yes' in percent; a prediction that is neither answer counts as the wrong one."""
    hits = yes = alarms = 0
    for number, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        right, given = _strip(target), _strip(prediction)
        if right not in _NO_YES:
            raise errors.FlanError(f"{name}: target {number} is {target!r}; expected 'yes' or 'no'")
        yes += right == "yes"
        hits += right == given == "yes"
        alarms += right == "no" != given
    return 200 * hits / (yes + hits + alarms) if yes + alarms else 0.0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _correlation(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Pearson's correlation from -1 to 1; 0 where a side is constant."""
    # A generated number may be 1e200, whose square overflows; correlation knows no scale.
    scaled_2xN = np.stack([side_N / (np.abs(side_N).max() or 1.0) for side_N in (first_N, second_N)])
    if not np.ptp(scaled_2xN, axis=1).all():
        return 0.0
    centred_2xN = scaled_2xN - scaled_2xN.mean(axis=1, keepdims=True)
    first_N, second_N = centred_2xN / np.linalg.norm(centred_2xN, axis=1, keepdims=True)
    return float(first_N @ second_N)


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of the ranks that they take up."""
    _, group_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group_N]


def _strip(text: str) -> str:
    return text.strip()
