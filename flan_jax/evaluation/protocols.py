"""How a model is asked: rank classification over options, and greedy generation. Shapes: B batch, S source, T target."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from flan_jax.data import features, seqio_tasks, vocabulary
from flan_jax.inference import decode, score

SMALLEST_BUCKET = 32  # tokens; lengths are padded to powers of two from here on, so that few shapes are compiled

Put = Callable[[dict[str, np.ndarray]], Any]


def option_scores(
    config: Any,
    params: Any,
    examples: Sequence[seqio_tasks.Formatted],
    tokenizer: vocabulary.Tokenizer,
    lengths: dict[str, int],
    batch_size: int,
    put: Put,
) -> Iterator[list[float]]:
    """Scores every option of every example as the target of its input (FLAN 2021 section 2.3).

    Args:
      config: the model.
      params: its parameters.
      examples: with options.
      tokenizer: of the model's vocabulary.
      lengths: `inputs` and `targets`, in tokens.
      batch_size: rows a step.
      put: turns host arrays into device arrays.

    Yields:
      For each example the summed log-likelihood of each option, EOS included.
    """
    pairs = [dataclasses.replace(f, targets=option) for f in examples for option in f.example.options]
    tokens = seqio_tasks.tokenise(pairs, tokenizer, lengths)
    scores = np.empty(len(pairs))
    for indices, batch in _batches(tokens, lengths, batch_size):
        found = score.score_targets(config, params, put(batch))
        scores[indices] = np.asarray(found)[: len(indices)]
    position = 0
    for example in examples:
        count = len(example.example.options)
        yield scores[position : position + count].tolist()
        position += count


def generate(
    config: Any,
    params: Any,
    examples: Sequence[seqio_tasks.Formatted],
    tokenizer: vocabulary.Tokenizer,
    lengths: dict[str, int],
    batch_size: int,
    put: Put,
) -> list[str]:
    """Answers every example with its likeliest tokens, one after the other, up to `lengths['targets']` of them.

    Args: as `option_scores`.

    Returns:
      The decoded texts, cut at EOS.
    """
    tokens = seqio_tasks.tokenise(examples, tokenizer, lengths)
    answers = [""] * len(examples)
    eos = tokenizer.vocabulary.eos_id
    for indices, batch in _batches(tokens, lengths, batch_size):
        sources = put({"encoder_input_tokens": batch["encoder_input_tokens"]})
        tokens_BxT = np.asarray(
            decode.greedy(config, params, sources, max_decode_length=lengths["targets"], eos_id=eos)
        )
        for index, ids in zip(indices, tokens_BxT, strict=False):
            answers[index] = tokenizer.decode(list(itertools.takewhile(lambda i: i not in (0, eos), ids.tolist())))
    return answers


def _batches(
    tokens: Sequence[seqio_tasks.Tokenised], lengths: dict[str, int], batch_size: int
) -> Iterator[tuple[np.ndarray, features.Features]]:
    """Yields (indices, batch) with examples of like length together; the last batch is filled up with padding."""
    order = sorted(range(len(tokens)), key=lambda i: (len(tokens[i].inputs), len(tokens[i].targets)))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        chosen = {
            "inputs": _bucket(max(len(tokens[i].inputs) for i in indices), lengths["inputs"]),
            "targets": _bucket(max(len(tokens[i].targets) for i in indices), lengths["targets"]),
        }
        rows = [features.encoder_decoder_row([tokens[i]], chosen, packed=False) for i in indices]
        rows += [features.encoder_decoder_row([], chosen, packed=False)] * (batch_size - len(rows))
        yield np.asarray(indices), features.stack(rows)


def _bucket(length: int, longest: int) -> int:
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, max(longest, length))
