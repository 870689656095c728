"""Metrics on 1,000 random pairs: equal to the packages of their authors, and to definitions written here once more.

Pairs are drawn with a fixed seed from words that the definitions treat differently: articles, marks, marks within words, capitals,
letters outside of ASCII, a full stop that ends a sentence. Predictions are edited targets, so that all degrees of overlap are there.
"""

import collections
import math
import random
import re
import string

import pytest
import sacrebleu
from rouge_score import rouge_scorer
from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International

from flan_jax.evaluation import metrics, text_metrics
from flan_jax.evaluation.suites import opt_iml

WORDS = (
    *("the", "a", "an", "The", "theme", "another", "cat", "dog", "House,", "runs", "run", ".", "?"),
    *("U.S.", "3.5", "1,250", "isn't", "don\u2019t", "\u2014", "\u00abx\u00bb", "\u00df", "caf\u00e9", "rock-n-roll"),
)
COUNT = 1000


def text(rng, longest):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, longest)))


def edited(rng, given):
    """The same words, some of them dropped, replaced or moved; one time in ten other words."""
    if rng.random() < 0.1:
        return text(rng, 14)
    words = [rng.choice(WORDS) if rng.random() < 0.2 else word for word in given.split() if rng.random() > 0.15]
    if words and rng.random() < 0.3:
        words.insert(0, words.pop(rng.randrange(len(words))))
    return " ".join(words)


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(20)
    targets = [text(rng, 14) for _ in range(COUNT)]
    return targets, [edited(rng, target) for target in targets]


@pytest.fixture(scope="module")
def answered():
    """Accepted answers, one to three of each question, and what was said."""
    rng = random.Random(21)
    accepted = [[text(rng, 6) for _ in range(rng.randint(1, 3))] for _ in range(COUNT)]
    said = [edited(rng, rng.choice(answers)) for answers in accepted]
    # As it was written, but for case, marks and articles: right all the same.
    return accepted, [f"The {one.upper()}!" if rng.random() < 0.3 else one for one in said]


# --- BLEU ---


def bleu_by_definition(targets, predictions):
    """Papineni et al. 2002: clipped n-gram matches of the corpus to order 4, their geometric mean, the brevity penalty."""
    split = TokenizerV14International()
    matches, made = collections.Counter(), collections.Counter()
    wanted = said = 0
    for target, prediction in zip(targets, predictions, strict=True):
        right, given = split(target).split(), split(prediction).split()
        wanted, said = wanted + len(right), said + len(given)
        for n in (1, 2, 3, 4):
            ours, theirs = ngrams(given, n), ngrams(right, n)
            matches[n] += (ours & theirs).total()
            made[n] += ours.total()
    precision = math.exp(sum(math.log(matches[n] / made[n]) for n in (1, 2, 3, 4)) / 4)
    return 100 * precision * min(1.0, math.exp(1 - wanted / said))


def ngrams(words, n):
    return collections.Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def test_bleu(pairs):
    found = text_metrics.bleu(*pairs)["bleu"]
    of_package = sacrebleu.BLEU(tokenize="intl", smooth_method="exp", effective_order=False)
    assert found == pytest.approx(of_package.corpus_score(pairs[1], [pairs[0]]).score, rel=1e-12)
    assert found == pytest.approx(bleu_by_definition(*pairs), rel=1e-9)
    assert 20 < found < 80


def test_bleu_of_every_pair_by_itself(pairs):
    of_package = sacrebleu.BLEU(tokenize="intl", smooth_method="exp", effective_order=False)
    for target, prediction in zip(*pairs, strict=True):
        expected = of_package.corpus_score([prediction], [[target]]).score
        assert text_metrics.bleu([target], [prediction])["bleu"] == pytest.approx(expected, abs=1e-12)


# --- ROUGE ---


def rouge_n_by_definition(target, prediction, n):
    """Lin 2004: F1 of n-grams of words of a to z and digits, in lower case."""
    right, given = (ngrams(re.findall("[a-z0-9]+", one.lower()), n) for one in (target, prediction))
    same = (right & given).total()
    return 2 * same / (right.total() + given.total()) if same else 0.0


def test_rouge(pairs):
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=False)
    sums = collections.Counter()
    for target, prediction in zip(*pairs, strict=True):
        expected = scorer.score(target.replace(" . ", " .\n"), prediction.replace(" . ", " .\n"))
        found = text_metrics.rouge([target], [prediction])
        assert found == pytest.approx({name: 100 * one.fmeasure for name, one in expected.items()}, abs=1e-9)
        for n in (1, 2):
            by_definition = 100 * rouge_n_by_definition(target, prediction, n)
            assert found[f"rouge{n}"] == pytest.approx(by_definition, abs=1e-9), (target, prediction)
        sums.update(found)
    means = {name: value / COUNT for name, value in sums.items()}
    assert text_metrics.rouge(*pairs) == pytest.approx(means)
    assert 20 < means["rouge2"] < means["rougeLsum"] <= means["rouge1"] < 90


def longest_common(first, second):
    """Length of the longest common subsequence, row by row."""
    row = [0] * (len(second) + 1)
    for one in first:
        last = row
        row = [0]
        for at, other in enumerate(second):
            row.append(last[at] + 1 if one == other else max(last[at + 1], row[at]))
    return row[-1]


def test_rouge_l_against_the_closest_answer(answered):
    for accepted, said in zip(*answered, strict=True):
        given = re.findall("[a-z0-9]+", said.lower())
        best = 0.0
        for answer in accepted:
            right = re.findall("[a-z0-9]+", answer.lower())
            same = longest_common(right, given)
            best = max(best, 2 * same / (len(right) + len(given)) if same else 0.0)
        assert opt_iml.rouge_l(accepted, said) == pytest.approx(best, abs=1e-12)


# --- SQuAD ---


def squad_words(given):
    """SQuAD's own order of things: lower case, marks of ASCII gone, articles gone where they are words, blanks joined."""
    kept = [mark for mark in given.lower() if mark not in string.punctuation]
    return re.sub(r"(?<!\w)(?:an?|the)(?!\w)", " ", "".join(kept)).split()


def squad_by_definition(accepted, said):
    """(exact match, F1) of the closest answer, 0 to 1; two answers of no words are equal (the script for SQuAD 2.0)."""
    given = squad_words(said)
    exact, best = 0.0, 0.0
    for answer in accepted:
        right = squad_words(answer)
        exact = max(exact, float(right == given))
        same = (collections.Counter(right) & collections.Counter(given)).total()
        f1 = 2 * same / (len(right) + len(given)) if right and given else float(right == given)
        best = max(best, f1)
    return exact, best


def test_squad(answered):
    exact, f1 = [], []
    for accepted, said in zip(*answered, strict=True):
        expected = squad_by_definition(accepted, said)
        found = metrics.squad([accepted], [said])
        assert found == pytest.approx({"em": 100 * expected[0], "f1": 100 * expected[1]}), (accepted, said)
        exact.append(expected[0])
        f1.append(expected[1])
    whole = {"em": 100 * sum(exact) / COUNT, "f1": 100 * sum(f1) / COUNT}
    assert metrics.squad(*answered) == pytest.approx(whole)
    assert 10 < whole["em"] < whole["f1"] < 95
