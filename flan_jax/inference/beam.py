"""Beam search as T5X has it. Shapes: B prompts, K beams, C candidates, T new tokens, V vocabulary.

At each step the 2K best continuations of a prompt's live beams are looked at (with E end tokens the (1 + E) K best, so that K
of them do not end). Those that end are kept among the K best ended ones, by log-probability / penalty(length); the K best of
the others live on. The search is over when, in every row, no live
beam could still become better than the worst of K ended ones; it stops early then. A row in which nothing ended gives its
live beams with their log-probabilities as scores. (transformers lets a beam end only if it is among the K best of the 2K.)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flan_jax.inference import sampling
from flan_jax.models import api

NEVER = sampling.NEVER


class _Beams(NamedTuple):
    """The loop's state; every row is sorted, best first."""

    step: jax.Array
    live_BxK: jax.Array  # log-probabilities
    live_BxKxT: jax.Array  # tokens
    ended_BxK: jax.Array  # scores; NEVER where there is none yet
    ended_BxKxT: jax.Array
    cache: dict[str, Any]


def penalty(length: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """What the log-probability of a text of so many tokens, its end token counted, is divided by (Wu et al. 2016)."""
    return ((5.0 + length) / 6.0) ** alpha


@functools.partial(jax.jit, static_argnames=("config", "beams", "max_tokens", "eos_ids"))
def search(
    config: api.Config,
    params: api.Params,
    batch: api.Batch,
    alpha: jax.Array | float,
    counted_B: jax.Array | None = None,
    *,
    beams: int,
    max_tokens: int,
    eos_ids: tuple[int, ...] = (1,),
) -> tuple[jax.Array, jax.Array]:
    """Finds the likeliest token sequences of each prompt.

    Args:
      config: the model.
      params: its parameters.
      batch: one example per row, as `api.prefill` reads it.
      alpha: exponent of the length penalty; 0 for none.
      counted_B: int32, tokens before the answer that the penalty counts too; none where None. T5X counts the prompt of a
        decoder-only model, less the token that begins it.
      beams: K.
      max_tokens: T.
      eos_ids: tokens that end a text.

    Returns:
      int32 tokens [B, K, T], best first (T5X: last), the end token kept and 0 behind it; and float32 scores [B, K]. A row
      in which fewer than K texts ended is filled up with empty ones of score -1e7.
    """
    params = api.decoding_params(config, params)
    first_B = api.first_tokens(config, batch)
    rows = first_B.shape[0]
    cache = api.copy_rows(api.prefill(config, params, batch, max_tokens), beams)
    counted_Bx1 = jnp.zeros((rows, 1)) if counted_B is None else counted_B[:, None]
    most_B = penalty(max_tokens + counted_Bx1[:, 0], alpha)

    def unfinished(state: _Beams) -> jax.Array:
        # The best that a live beam can become: no further token costs anything, at the length that is punished least.
        over_B = state.ended_BxK[:, -1] > state.live_BxK[:, 0] / most_B
        return (state.step < max_tokens) & ~jnp.all(over_B)

    def advance(state: _Beams) -> _Beams:
        before_BxK = state.live_BxKxT[:, :, jnp.maximum(state.step - 1, 0)]
        token_BxK = jnp.where(state.step == 0, first_B[:, None], before_BxK)
        logits_NxV, cache = api.decode_step(config, params, state.cache, token_BxK.reshape(-1))
        total_BxKxV = jax.nn.log_softmax(logits_NxV).reshape(rows, beams, -1) + state.live_BxK[..., None]
        vocabulary = total_BxKxV.shape[-1]
        candidates = min((1 + len(eos_ids)) * beams, beams * vocabulary)
        total_BxC, index_BxC = jax.lax.top_k(total_BxKxV.reshape(rows, -1), candidates)
        parent_BxC, next_BxC = index_BxC // vocabulary, index_BxC % vocabulary
        texts_BxCxT = jnp.take_along_axis(state.live_BxKxT, parent_BxC[..., None], axis=1)
        texts_BxCxT = jax.lax.dynamic_update_slice(texts_BxCxT, next_BxC[..., None], (0, 0, state.step))
        ends_BxC = functools.reduce(jnp.logical_or, [next_BxC == eos for eos in eos_ids])

        # Those that ended, among the best ended so far.
        scores_BxC = jnp.where(ends_BxC, total_BxC / penalty(state.step + 1.0 + counted_Bx1, alpha), NEVER)
        scores_BxM = jnp.concatenate([state.ended_BxK, scores_BxC], axis=1)
        texts_BxMxT = jnp.concatenate([state.ended_BxKxT, texts_BxCxT], axis=1)
        ended_BxK, kept_BxK = jax.lax.top_k(scores_BxM, beams)
        ended_BxKxT = jnp.take_along_axis(texts_BxMxT, kept_BxK[..., None], axis=1)

        # The K best of the others.
        live_BxK, kept_BxK = jax.lax.top_k(jnp.where(ends_BxC, NEVER, total_BxC), beams)
        live_BxKxT = jnp.take_along_axis(texts_BxCxT, kept_BxK[..., None], axis=1)
        parent_BxK = jnp.take_along_axis(parent_BxC, kept_BxK, axis=1)
        cache = api.reorder_rows(cache, parent_BxK)
        return _Beams(state.step + 1, live_BxK, live_BxKxT, ended_BxK, ended_BxKxT, cache)

    empty_BxKxT = jnp.zeros((rows, beams, max_tokens), jnp.int32)
    # All beams are the same at first: one of them counts.
    live_BxK = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, NEVER)[None, :], (rows, beams))
    ended_BxK = jnp.full((rows, beams), NEVER)
    start = _Beams(jnp.int32(0), live_BxK, empty_BxKxT, ended_BxK, empty_BxKxT, cache)
    found = jax.lax.while_loop(unfinished, advance, start)
    none_Bx1 = found.ended_BxK[:, :1] == NEVER
    tokens_BxKxT = jnp.where(none_Bx1[..., None], found.live_BxKxT, found.ended_BxKxT)
    return tokens_BxKxT, jnp.where(none_Bx1, found.live_BxK, found.ended_BxK)
