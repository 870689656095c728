"""Generation of target tokens. Shapes: B batch, T target length, V vocabulary."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax.models import api


@functools.partial(jax.jit, static_argnames=("config", "max_decode_length", "eos_id"))
def greedy(
    config: api.T5Config, params: api.Params, batch: api.Batch, *, max_decode_length: int, eos_id: int = 1
) -> jax.Array:
    """Takes the likeliest token at every position, until every row has ended.

    Args:
      config: the model.
      params: its parameters.
      batch: `encoder_input_tokens` [B, S], not packed; other features are ignored.
      max_decode_length: T, the number of tokens to generate.
      eos_id: the token that ends a row.

    Returns:
      int32 tokens [B, T]; the end token is kept, and 0 follows it.
    """
    source_BxS = batch["encoder_input_tokens"]
    rows = source_BxS.shape[0]
    cache = api.prefill(config, params, batch, max_decode_length)

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        step, _, ended_B, _, _ = state
        return (step < max_decode_length) & ~jnp.all(ended_B)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, token_B, ended_B, tokens_BxT, cache = state
        logits_BxV, cache = api.decode_step(config, params, cache, token_B)
        token_B = jnp.where(ended_B, 0, jnp.argmax(logits_BxV, axis=-1)).astype(jnp.int32)
        tokens_BxT = jax.lax.dynamic_update_slice(tokens_BxT, token_B[:, None], (0, step))
        return step + 1, token_B, ended_B | (token_B == eos_id), tokens_BxT, cache

    start = (
        jnp.int32(0),
        jnp.zeros((rows,), jnp.int32),
        jnp.zeros((rows,), bool),
        jnp.zeros((rows, max_decode_length), jnp.int32),
        cache,
    )
    return jax.lax.while_loop(unfinished, advance, start)[3]
