"""Metrics of how much a generated text has in common with its reference: ROUGE, BLEU and edit distance.

The settings are those of T5's metrics, which FLAN uses. ROUGE and BLEU themselves come from the packages that T5 takes
them from, rouge-score and sacrebleu; these are imported where they are called, as rouge-score takes seconds to import.
"""

import re
from collections.abc import Hashable, Sequence

from flan_jax.evaluation import scores

ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")
_NO_WORD = re.compile(r"\W")


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> scores.Scores:
    """F-measures of ROUGE-1, ROUGE-2 and the summary form of ROUGE-L (Lin 2004), no stemming.

    Words are runs of the letters a to z and digits, in lower case: a text in another script scores 0. ROUGE-Lsum wants
    a line per sentence: as in T5, " . " ends one. The mean over examples is given; T5 gives the median of the means of
    1,000 bootstrap samples, which differs from it by chance alone.

    Returns:
      {'rouge1': percent, 'rouge2': percent, 'rougeLsum': percent}.
    """
    scores.check("rouge", targets, predictions)
    return _rouge([[target] for target in targets], predictions)


def multi_reference_rouge(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> scores.Scores:
    """ROUGE as `rouge`, each example against the reference that is best for it, found for each type (as FLAN, GEM).

    Args:
      targets: per example, every reference.
      predictions: per example, the generated text.

    Returns:
      {'rouge1': percent, 'rouge2': percent, 'rougeLsum': percent}.
    """
    scores.check("multi_reference_rouge", targets, predictions)
    scores.check_accepted("multi_reference_rouge", targets)
    return _rouge(targets, predictions)


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> scores.Scores:
    """BLEU of the whole corpus (Papineni et al. 2002), by sacrebleu as T5 calls it.

    Case counts, tokens are mteval's international ones, an n-gram order without a match is smoothed exponentially. It
    is no mean over examples; a corpus whose predictions are all shorter than four tokens scores 0.

    Returns:
      {'bleu': percent}.
    """
    import sacrebleu

    scores.check("bleu", targets, predictions)
    found = sacrebleu.corpus_bleu(
        list(predictions), [list(targets)], smooth_method="exp", tokenize="intl", use_effective_order=False
    )
    return {"bleu": found.score}


def edit_distance(targets: Sequence[str], predictions: Sequence[str]) -> scores.Scores:
    """How few edits (Levenshtein 1966: insert, delete or replace one symbol) lead from prediction to target.

    `edit_similarity` is 1 - edits in characters / length of the longer text, averaged over examples: 100 for equal
    texts, 0 where nothing can stay. Case and punctuation count, white space around the texts does not.

    `mean_edit` is what T5 calls so: edits in words, of texts in lower case split at every character that is no letter,
    digit or underscore, with nothing divided. It is blind to the case that `true_case` asks for, and to which mark
    stands where.

    Returns:
      {'edit_similarity': percent, 'mean_edit': words an example}.
    """
    scores.check("edit_distance", targets, predictions)
    similarity, words = [], 0
    for target, prediction in zip(targets, predictions, strict=True):
        wanted, given = target.strip(), prediction.strip()
        longest = max(len(wanted), len(given))
        similarity.append(1 - levenshtein(wanted, given) / longest if longest else 1.0)
        words += levenshtein(_words(target), _words(prediction))
    return {"edit_similarity": scores.percent(similarity), "mean_edit": words / len(targets)}


def levenshtein(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The smallest number of insertions, deletions and replacements that turn one sequence into the other.

    Bit-parallel (Myers 1999, in the form of Hyyrö 2003): a column of the distance matrix is two integers of len(first)
    bits, `rises` and `falls`, which say where it grows and shrinks by one from a row to the next. A pair of 500
    characters takes 0.5 ms; row by row in Python, 93 ms (measured).
    """
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for number, symbol in enumerate(first):
        places[symbol] = places.get(symbol, 0) | 1 << number
    last = 1 << len(first) - 1
    everywhere = 2 * last - 1
    rises, falls, distance = everywhere, 0, len(first)
    for symbol in second:
        equal = places.get(symbol, 0)
        # Where the distance does not grow along the diagonal.
        level = ((((equal & rises) + rises) ^ rises) | equal | falls) & everywhere
        grows = falls | (everywhere & ~(level | rises))
        shrinks = level & rises
        distance += bool(grows & last) - bool(shrinks & last)
        grows, shrinks = (grows << 1 | 1) & everywhere, shrinks << 1 & everywhere
        rises, falls = shrinks | (everywhere & ~(level | grows)), grows & level
    return distance


def _rouge(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> scores.Scores:
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES))
    best: dict[str, list[float]] = {name: [] for name in ROUGE_TYPES}
    for accepted, prediction in zip(references, predictions, strict=True):
        text = _sentence_lines(prediction)
        found = [scorer.score(_sentence_lines(reference), text) for reference in accepted]
        for name in ROUGE_TYPES:
            best[name].append(max(result[name].fmeasure for result in found))
    return {name: scores.percent(values) for name, values in best.items()}


def _sentence_lines(text: str) -> str:
    return text.replace(" . ", " .\n")


def _words(text: str) -> list[str]:
    """T5's words: two marks in a row have an empty word between them."""
    return _NO_WORD.split(text.lower())
