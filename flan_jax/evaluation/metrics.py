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
from typing import Any, Literal

import numpy as np

from flan_jax import errors
from flan_jax.evaluation import answers

Scores = dict[str, float]

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
    """

    name: str
    function: Callable[[Sequence[Any], Sequence[Any]], Scores]
    kind: Literal["predict", "score"]
    all_answers: bool
    main: str


def get(name: str) -> Metric:
    """Returns the metric of that name; raises FlanError with the nearest names otherwise."""
    if name not in METRICS:
        raise errors.unknown("metric", name, METRICS)
    return METRICS[name]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Exact match of strings, without the white space around them; case counts.

    Returns:
      {'accuracy': percent}.
    """
    _check("accuracy", targets, predictions)
    return {"accuracy": _percent([_strip(t) == _strip(p) for t, p in zip(targets, predictions, strict=True)])}


def mean_3class_f1(targets: Sequence[str], predictions: Sequence[str]) -> Scores:
    """The mean of the F1 of three classes, each an answer text (SuperGLUE's metric for CB, beside accuracy).

    A class that no target has counts with F1 0, as in scikit-learn's, hence T5's, mean over a fixed set of three
    classes. A prediction that is no class at all is a miss for its target and a false alarm for none.

    Returns:
      {'mean_3class_f1': percent}.

    Raises:
      FlanError: where the targets hold more than three classes.
    """
    _check("mean_3class_f1", targets, predictions)
    right, given = [_strip(t) for t in targets], [_strip(p) for p in predictions]
    classes = sorted(set(right))
    if len(classes) > 3:
        raise errors.FlanError(f"mean_3class_f1: the targets hold {len(classes)} classes; expected 3: {classes[:6]}")
    total = 0.0
    for name in classes:
        hits = sum(t == name == p for t, p in zip(right, given, strict=True))
        total += 2 * hits / (right.count(name) + given.count(name))
    return {"mean_3class_f1": 100 * total / 3}


def trivia_qa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Scores:
    """Exact match and token F1 against the best of several accepted answers (Joshi et al. 2017).

    Normalised: lower case, punctuation to spaces, articles removed, white space joined.

    Args:
      targets: per example, every accepted answer.
      predictions: per example, the generated answer.

    Returns:
      {'em': percent, 'f1': percent}.
    """
    return _em_f1("trivia_qa", targets, predictions, normalize_trivia_qa)


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Scores:
    """Exact match and token F1 against the best of several accepted answers (Rajpurkar et al. 2016, 2018).

    Normalised: lower case, punctuation removed, articles removed, white space joined. Where both sides are empty after
    that, EM and F1 are 1, as in the script for SQuAD 2.0 (T5's F1 is 0 there).

    Returns:
      {'em': percent, 'f1': percent}.
    """
    return _em_f1("squad", targets, predictions, normalize_squad)


def answer_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Accuracy of the final answers parsed out of chains of thought (see `answers`).

    Args:
      targets: the bare right answers (`Example.answer`), not the target texts with their rationales.
      predictions: the generated texts.

    Returns:
      {'answer_accuracy': percent, 'unparsed': percent of predictions in which no answer was found, counted as wrong}.
    """
    _check("answer_accuracy", targets, predictions)
    found = [answers.same_answer(target, text) for target, text in zip(targets, predictions, strict=True)]
    return {
        "answer_accuracy": _percent([same is True for same in found]),
        "unparsed": _percent([same is None for same in found]),
    }


def rank_classification_accuracy(scores: Sequence[Sequence[float]], right: Sequence[Collection[int]]) -> Scores:
    """Accuracy of the option with the best score (FLAN, section 2.3).

    Options that share the best score bit for bit share the guess: with one right option among n tied ones the example
    counts 1/n, whatever the order of the options. (T5 takes the first, which rewards a dataset whose first option is
    mostly right.)

    Args:
      scores: per example, one log-likelihood per option; the highest is predicted.
      right: per example, the indices of the options that are right; at least one.

    Returns:
      {'accuracy': percent, 'ties': percent of examples whose best score is shared by several options}.

    Raises:
      FlanError: for an example without options or without a right one, an index out of range, a score that is NaN.
    """
    _check("rank_classification_accuracy", scores, right)
    credit, ties = [], []
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
    return {"accuracy": _percent(credit), "ties": _percent(ties)}


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "predict", all_answers=False, main="accuracy"),
        Metric("mean_3class_f1", mean_3class_f1, "predict", all_answers=False, main="mean_3class_f1"),
        Metric("trivia_qa", trivia_qa, "predict", all_answers=True, main="em"),
        Metric("squad", squad, "predict", all_answers=True, main="f1"),
        Metric("answer_accuracy", answer_accuracy, "predict", all_answers=False, main="answer_accuracy"),
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
) -> Scores:
    _check(name, targets, predictions)
    exact, overlap = [], []
    for number, (references, prediction) in enumerate(zip(targets, predictions, strict=True)):
        if isinstance(references, str) or not references:
            raise errors.FlanError(f"{name}: target {number} is {references!r}; expected a list of accepted answers")
        given = normalize(prediction)
        accepted = [normalize(reference) for reference in references]
        exact.append(given in accepted)
        overlap.append(max(_token_f1(reference.split(), given.split()) for reference in accepted))
    return {"em": _percent(exact), "f1": _percent(overlap)}


def _token_f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over tokens with their counts."""
    if not target or not prediction:
        return float(target == prediction)
    common = (collections.Counter(target) & collections.Counter(prediction)).total()
    return 2 * common / (len(target) + len(prediction))


def _check(name: str, first: Sequence[Any], second: Sequence[Any]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{name}: {len(first)} targets and {len(second)} predictions")
    if not len(first):
        raise errors.FlanError(f"{name}: there are no examples to evaluate")


def _strip(text: str) -> str:
    return text.strip()


def _percent(values: Sequence[float]) -> float:
    return 100 * math.fsum(values) / len(values)
