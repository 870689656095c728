"""Log-likelihood of given targets, as rank classification needs it.

Options of one question are scored together: the question is read once (`api.prefill`), and its options, packed into one row,
are continuations of it (`api.continuations`). Shapes: B batch, S source, T target length, C tokens of a row of continuations,
V vocabulary, D model.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax import hosts
from flan_jax.data import features, seqio_tasks
from flan_jax.inference import batches
from flan_jax.models import api

ROW = 512  # tokens of options that are packed into one row at most; a longer option has a row for itself
# Rows are padded to multiples of 8 tokens up to 64 and to powers of two from there on, so that few shapes are compiled: most
# options are short, and a token of one costs what two of a question do, for its logits.
MULTIPLE, SHORT = 8, 64
PROJECTED = 4096  # tokens whose logits exist at a time: 0.5 GiB with 32,128 pieces


@dataclasses.dataclass(frozen=True)
class Question:
    """One input and the options to choose from, as tokens with what ends them."""

    inputs: Sequence[int]
    options: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the options of a question scored.

    Attributes:
      log_likelihoods: of each option, summed over its tokens, the end token included.
      tokens: of each option.
      likeliest: whether each token of an option is the likeliest one where it stands, so that greedy decoding gives it.
    """

    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    likeliest: tuple[bool, ...] = ()

    def values(self, normalize_by_target_length: bool = False) -> list[float]:
        """What options are ranked by: the sums, or the mean of a token (T5's `normalize_by_target_length`)."""
        if not normalize_by_target_length:
            return list(self.log_likelihoods)
        return [total / count for total, count in zip(self.log_likelihoods, self.tokens, strict=True)]


@functools.partial(jax.jit, static_argnums=0)
def token_log_likelihood(config: api.Config, params: api.Params, batch: api.Batch) -> jax.Array:
    """Log-probability of every target token given the earlier ones; float32 [B, T], also at padding."""
    return _of_targets(api.logits(config, params, batch), batch["decoder_target_tokens"])[0]


@functools.partial(jax.jit, static_argnums=0)
def score_targets(config: api.Config, params: api.Params, batch: api.Batch) -> jax.Array:
    """Sums the log-probabilities of each row's target, including its end token; not divided by its length.

    Args:
      config: the model.
      params: its parameters.
      batch: the model's features; tokens count by `decoder_loss_weights`, without it every token but padding by 1.

    Returns:
      float32 [B] (T5X's score_batch: no z-loss, no label smoothing).
    """
    targets_BxT = batch["decoder_target_tokens"]
    weights_BxT = jnp.asarray(batch.get("decoder_loss_weights", targets_BxT > 0), jnp.float32)
    return jnp.sum(token_log_likelihood(config, params, batch) * weights_BxT, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def read(config: api.Config, params: api.Params, inputs: api.Batch) -> tuple[dict[str, Any], jax.Array]:
    """Reads a batch of questions; returns their cache, and the token int32 [B] that begins each continuation."""
    return api.prefill(config, params, inputs, 1), api.first_tokens(config, inputs)


@functools.partial(jax.jit, static_argnums=0)
def continuation_log_likelihood(
    config: api.Config, params: api.Params, cache: dict[str, Any], first_B: jax.Array, batch: api.Batch
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of every token of continuations, given what was read and the earlier ones of the same continuation.

    Args:
      config: the model.
      params: its parameters.
      cache: from `read`.
      first_B: likewise.
      batch: packed continuations, all features [B, C] (see `features.LM`); what begins them is put in here.

    Returns:
      float32 [B, C], also at padding; and bool [B, C], whether no other token is likelier there.
    """
    targets_BxC, segments_BxC = batch["decoder_target_tokens"], batch["decoder_segment_ids"]
    begins_BxC = (batch["decoder_positions"] == 0) & (segments_BxC > 0)
    tokens_BxC = jnp.where(begins_BxC, first_B[:, None], batch["decoder_input_tokens"])
    hidden_BxCxD = api.continuations(config, params, cache, {**batch, "decoder_input_tokens": tokens_BxC})
    projection = api.projection_params(config, params)
    rows, length = targets_BxC.shape
    piece = max(size for size in range(1, length + 1) if length % size == 0 and size * rows <= max(rows, PROJECTED))
    if length == piece:
        return _of_targets(api.project(config, projection, hidden_BxCxD), targets_BxC)

    def pieces(x: jax.Array) -> jax.Array:
        return x.reshape(rows, length // piece, piece, *x.shape[2:]).swapaxes(0, 1)

    def one(given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _of_targets(api.project(config, projection, given[0]), given[1])

    found = jax.lax.map(one, (pieces(hidden_BxCxD), pieces(targets_BxC)))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, length), found)


def options(
    config: api.Config,
    params: api.Params,
    questions: Sequence[Question],
    *,
    inputs_length: int,
    batch_size: int,
    put: Callable[[features.Features], Any],
    converter: features.Converter = features.ENCODER_DECODER,
) -> Iterator[tuple[int, Scored]]:
    """Scores the options of questions, each question read once.

    Args:
      config: the model.
      params: its parameters.
      questions: of any lengths; like ones are put together.
      inputs_length: tokens of the longest input.
      batch_size: questions a step; the last batch is filled up with padding.
      put: turns host arrays into device arrays.
      converter: lays a question out as the model's family reads it.

    Yields:
      (number of the question, what its options scored), batch by batch.

    Raises:
      FlanError: a question and its option need more positions than the model has.
    """

    def size(number: int) -> tuple[int, int]:
        inputs = batches.bucket(len(questions[number].inputs), inputs_length)
        return inputs, sum(map(len, questions[number].options))

    order = sorted((number for number, asked in enumerate(questions) if asked.options), key=size)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        chosen = [questions[number] for number in numbers]
        _check_positions(config, params, chosen)
        length = batches.bucket(max(len(asked.inputs) for asked in chosen), inputs_length)
        tokens = [*(asked.inputs for asked in chosen), *[None] * (batch_size - len(chosen))]
        inputs = batches.prompt_rows(tokens, chosen[0].options[0][0], length, converter)
        cache, first_B = read(config, params, put(features.stack(inputs)))
        rows = [_rows([len(option) for option in asked.options]) for asked in chosen]
        found = [np.zeros(len(asked.options)) for asked in chosen]
        others = [np.zeros(len(asked.options)) for asked in chosen]  # tokens that are not the likeliest
        for turn in itertools.zip_longest(*rows, fillvalue=()):
            packed = [[asked.options[i] for i in row] for asked, row in zip(chosen, turn, strict=True)]
            batch = _continuations(packed, batch_size)
            found_2xBxC = continuation_log_likelihood(config, params, cache, first_B, put(batch))
            logs_BxC, best_BxC = hosts.fetch(found_2xBxC)
            other_BxC = ~best_BxC
            for at, row in enumerate(turn):
                segments_C = batch["decoder_segment_ids"][at]
                for sums, each_BxC in ((found, logs_BxC), (others, other_BxC)):
                    of = np.bincount(segments_C, weights=each_BxC[at], minlength=len(row) + 1)
                    sums[at][list(row)] = of[1:]
        for number, asked, sums, wrong in zip(numbers, chosen, found, others, strict=True):
            yield number, Scored(tuple(sums.tolist()), tuple(map(len, asked.options)), tuple((wrong == 0).tolist()))
    yield from ((number, Scored((), ())) for number, asked in enumerate(questions) if not asked.options)


def _of_targets(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of every target, and whether it is the likeliest token."""
    target_BxTx1 = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)
    likeliest_BxT = target_BxTx1[..., 0] >= jnp.max(logits_BxTxV, axis=-1)
    return target_BxTx1[..., 0] - jax.nn.logsumexp(logits_BxTxV, axis=-1), likeliest_BxT


def _check_positions(config: api.Config, params: api.Params, questions: Sequence[Question]) -> None:
    if not isinstance(config, api.DecoderOnlyConfig):
        return
    prompt = api.soft_prompt(params)
    before = 0 if prompt is None else prompt.shape[0]
    longest = max(len(asked.inputs) + max(map(len, asked.options)) for asked in questions)
    api.check_length(config, before + longest)


def _rows(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Divides options of so many tokens, in their order, into rows of at most `ROW` tokens."""
    rows: list[list[int]] = []
    room = -1
    for number, size in enumerate(sizes):
        if size > room:
            rows.append([])
            room = ROW
        rows[-1].append(number)
        room -= size
    return [tuple(row) for row in rows]


def _continuations(packed: Sequence[Sequence[Sequence[int]]], batch_size: int) -> features.Features:
    """The features of one row of options a question."""
    longest = max(1, *(sum(map(len, row)) for row in packed))
    padded = -(-longest // MULTIPLE) * MULTIPLE if longest <= SHORT else 1 << (longest - 1).bit_length()
    lengths = {"targets": padded}
    rows = [
        features.LM().row([seqio_tasks.Tokenised([], list(option)) for option in row], lengths, packed=True)
        for row in [*packed, *[[]] * (batch_size - len(packed))]
    ]
    return features.stack(rows)
