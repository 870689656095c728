"""Self-supervised objectives over token arrays: T5's span corruption, UL2R's denoisers, prefix and full language modelling.

A document's tokens become inputs and targets. Corruption cuts spans out of the inputs, each leaving a sentinel of its own, and
the targets give them back, each behind that sentinel (https://arxiv.org/abs/1910.10683, section 3.1.4):

    tokens            1 2 3 4 5 6 7 8       noise at 3 4 and 8, sentinels 99, 98, ...
    inputs            1 2 99 5 6 7 98
    targets           99 3 4 98 8

UL2R (https://arxiv.org/abs/2210.11399) goes on training a language model with three of them: R, regular corruption (15%, spans of 3);
X, extreme (spans of 32, or half of the tokens); S, sequential: a prefix is given, the rest is asked for. It draws R and X a
quarter of the time each, S half of it. The same inputs and targets serve encoder-decoders and prefix language models.

Every choice is a hash of the key that is given, so that a document is cut alike on every host and after every restart.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from flan_jax import errors
from flan_jax.data import stateless

_SALT_OBJECTIVE, _SALT_NOISE, _SALT_REST, _SALT_PIVOT, _SALT_WINDOW = 51, 52, 53, 54, 55


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Spans are cut out.

    Attributes:
      density: share of the tokens that are cut out.
      mean_span: mean length of a span, in tokens.
      mode: text that begins the inputs, so that the model knows what is asked; none in T5's own objective.
      anywhere: whether a span may be at the start of the text and the end need not be one. In T5's objective the last span
        ends the text, so that a single long one, of a short text, would always be its end.
    """

    density: float
    mean_span: float
    mode: str = ""
    anywhere: bool = False


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The inputs are the tokens up to a point that is drawn uniformly, the targets the others."""

    mode: str = ""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Everything is target."""

    mode: str = ""


Objective = Corruption | Prefix | Whole
R = Corruption(0.15, 3.0, "[NLU]", anywhere=True)
X_LONG, X_HALF = Corruption(0.15, 32.0, "[NLG]", anywhere=True), Corruption(0.5, 3.0, "[NLG]", anywhere=True)
S = Prefix("[S2S]")
# Name of a task's objective -> what it draws from, and how often.
OBJECTIVES: Mapping[str, tuple[tuple[Objective, float], ...]] = {
    "span_corruption": ((Corruption(0.15, 3.0), 1.0),),  # T5's, and T5.1.1's
    "prefix_lm": ((Prefix(), 1.0),),  # T5's adaptation to language modelling, 100,000 steps
    "lm": ((Whole(), 1.0),),  # OPT-IML's 5% of pre-training data: the loss is over the whole sequence
    "r_denoising": ((R, 1.0),),
    # "mean span 32 or corruption up to 50%" (UL2R); one public configuration has either with the other's regular value.
    "x_denoising": ((X_LONG, 0.5), (X_HALF, 0.5)),
    "s_denoising": ((S, 1.0),),
    "ul2r": ((R, 0.25), (X_LONG, 0.125), (X_HALF, 0.125), (S, 0.5)),
}


def spans(tokens: int, density: float, mean_span: float, most: int | None = None) -> tuple[int, int]:
    """How many of so many tokens are cut out, and in how many spans.

    At least one token stays and one goes; there is one span at least, never more than there are tokens of either kind or
    sentinels.

    `spans(512, 0.15, 3.0) == (77, 26)`.

    Args:
      tokens: at least 2.
      density: share that is cut out.
      mean_span: mean length of a span.
      most: how many sentinels there are; None for enough.
    """
    cut = min(max(round(tokens * density), 1), tokens - 1)
    count = max(round(cut / mean_span), 1)
    return cut, min(count, cut, tokens - cut, most or count)


def window(lengths: Mapping[str, int], objective: Objective, mode: int = 0) -> int:
    """The most tokens of a document whose inputs and targets fit, EOS of both counted.

    Of 512 and 114, T5's own, span corruption takes 568: `window({"inputs": 512, "targets": 114}, Corruption(0.15, 3.0)) == 568`.

    Args:
      lengths: `inputs` and `targets`, in tokens.
      objective: how the document is cut.
      mode: tokens of the text that begins the inputs.

    Raises:
      FlanError: the lengths leave no room for two tokens.
    """
    return _window(lengths.get("inputs", 0) - 1 - mode, lengths["targets"] - 1, objective)


@functools.lru_cache(maxsize=256)
def _window(inputs: int, targets: int, objective: Objective) -> int:
    if targets < 2 or (inputs < 2 and not isinstance(objective, Whole)):
        raise errors.FlanError(
            f"no text can be cut into inputs of {inputs + 1} and targets of {targets + 1} tokens by {objective}"
        )
    if isinstance(objective, Whole):
        return targets
    if isinstance(objective, Prefix):
        return inputs + targets  # a pivot is drawn where both fit
    found = 2
    while True:
        cut, count = spans(found + 1, objective.density, objective.mean_span)
        if found + 1 - cut + count > inputs or cut + count > targets:
            return found
        found += 1


def noise_mask(tokens: int, objective: Corruption, key: int, most: int | None = None) -> np.ndarray:
    """Draws which tokens are cut out: spans of noise between spans that stay.

    Every way of dividing the noise into its spans is as likely as any other, and so for what stays.

    Args:
      tokens: at least 2.
      objective: how much, and where.
      key: of the draw.
      most: how many sentinels there are.

    Returns:
      bool [tokens].
    """
    cut, count = spans(tokens, objective.density, objective.mean_span, most)
    noise = _divide(cut, count, int(stateless.hash64(key, _SALT_NOISE)))
    key = int(stateless.hash64(key, _SALT_REST))
    if objective.anywhere:
        # What stays has a part more than there are spans; the first and the last may be empty.
        rest = _divide(tokens - cut + 2, count + 1, key)
        rest[[0, -1]] -= 1
    else:
        rest = np.append(_divide(tokens - cut, count, key), 0)
    lengths = np.stack([rest, np.append(noise, 0)], axis=1).ravel()
    return np.repeat(np.arange(2 * count + 2) % 2 == 1, lengths)


def _divide(items: int, parts: int, key: int) -> np.ndarray:
    """Divides items into as many parts, none empty: int64 [parts], any division as likely as any other."""
    # Which of the places between two items are ends of parts: those that a permutation sends below `parts` - 1.
    ends = np.flatnonzero(stateless.permute(np.arange(items - 1), items - 1, key) < parts - 1) + 1 if items > 1 else []
    return np.diff(np.concatenate([[0], ends, [items]])).astype(np.int64)


def corrupt(tokens: np.ndarray, mask: np.ndarray, sentinels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cuts out the spans of a mask.

    `corrupt([1, 2, 3, 4, 5], [False, True, True, False, True], [99, 98]) == ([1, 99, 4, 98], [99, 2, 3, 98, 5])`.

    Args:
      tokens: int64 [N].
      mask: bool [N], True where a token is cut out.
      sentinels: ids, in order of use.

    Returns:
      (inputs, targets), int64.
    """
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    marks = np.asarray(sentinels, np.int64)[np.maximum(np.cumsum(starts) - 1, 0)]
    inputs = np.where(starts, marks, tokens)[~mask | starts]
    # In the targets each span is preceded by its sentinel: two places where a span starts, one for the rest of it.
    twice = np.where(starts, 2, 1)[mask]
    targets = np.repeat(tokens[mask], twice)
    targets[np.cumsum(twice) - twice] = np.where(starts, marks, tokens)[mask]
    return inputs, targets


def restore(inputs: Sequence[int], targets: Sequence[int], sentinels: Sequence[int]) -> list[int]:
    """Puts what was cut out back in its place: the inverse of `corrupt`."""
    marks = set(sentinels)
    cut: dict[int, list[int]] = {}
    at = -1
    for token in targets:
        if token in marks:
            at = token
            cut[at] = []
        else:
            cut[at].append(token)
    return [token for given in inputs for token in cut.get(given, [given])]


def draw(name: str, key: int) -> Objective:
    """Draws one of the objectives of that name.

    Raises:
      FlanError: there are none of that name.
    """
    if name not in OBJECTIVES:
        raise errors.unknown("objective", name, OBJECTIVES)
    listed = OBJECTIVES[name]
    ends = np.cumsum([share for _, share in listed])
    point = float(stateless.uniform(key, _SALT_OBJECTIVE)) * ends[-1]
    return listed[min(int(np.searchsorted(ends, point, side="right")), len(listed) - 1)][0]


def make(
    tokens: Sequence[int],
    objective: Objective,
    lengths: Mapping[str, int],
    key: int,
    sentinels: Sequence[int],
    mode: Sequence[int] = (),
) -> tuple[list[int], list[int]] | None:
    """Makes inputs and targets of a document, without EOS.

    Of a document that is too long, a window is taken, drawn uniformly.

    Args:
      tokens: of the document.
      objective: how it is cut.
      lengths: `inputs` and `targets`, in tokens, EOS counted.
      key: of every draw.
      sentinels: ids, in order of use.
      mode: tokens that begin the inputs.

    Returns:
      (inputs, targets), or None for a document of fewer than two tokens.
    """
    taken = np.asarray(tokens, np.int64)
    most = window(lengths, objective, len(mode))
    if len(taken) > most:
        start = int(stateless.below(len(taken) - most + 1, key, _SALT_WINDOW))
        taken = taken[start : start + most]
    if len(taken) < 2:
        return None
    if isinstance(objective, Whole):
        return list(mode), taken.tolist()
    if isinstance(objective, Prefix):
        # Both sides have a token at least, and fit.
        first = max(1, len(taken) - (lengths["targets"] - 1))
        last = min(len(taken) - 1, lengths["inputs"] - 1 - len(mode))
        pivot = first + int(stateless.below(last - first + 1, key, _SALT_PIVOT))
        return [*mode, *taken[:pivot].tolist()], taken[pivot:].tolist()
    mask = noise_mask(len(taken), objective, key, len(sentinels))
    inputs, targets = corrupt(taken, mask, sentinels)
    return [*mode, *inputs.tolist()], targets.tolist()
