"""One token for each row of a batch, drawn or the likeliest. Shapes: B prompts, N rows (samples of all prompts), V vocabulary.

A row's draw depends on its own seed, its number among the samples of its prompt, the step, and its own logits: neither on
the other rows nor on their number. (Logits themselves may differ in their last bits between batches of different shape.)
`draw_as_t5x` makes the draws that T5X makes of the same logits, which depend on the whole batch.

Both truncations are found by bisection over the bits of a float32, without sorting: 32 sums over the vocabulary, the same on
every backend, and k and p may differ between rows. Of equally likely tokens at the border all stay.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# What stands in for minus infinity in T5X's decoding, here too.
NEVER = -1e7
# T5X divides by no less; a lower temperature is greedy.
_COLDEST = 1e-4
_SIGN = np.uint32(1 << 31)


class Controls(NamedTuple):
    """What each prompt of a batch asks for, arrays [B] (or [N]) on the host or the device.

    Attributes:
      seed: uint32.
      temperature: float32; 0 takes the likeliest token.
      top_k: int32; 0 for all tokens.
      top_p: float32; 1 for all tokens.
      limit: int32; tokens to generate at most.
    """

    seed: jax.Array | np.ndarray
    temperature: jax.Array | np.ndarray
    top_k: jax.Array | np.ndarray
    top_p: jax.Array | np.ndarray
    limit: jax.Array | np.ndarray


class Kind(NamedTuple):
    """What is compiled: whether any row of a batch draws, and truncates. All off is greedy."""

    draws: bool = False
    top_k: bool = False
    top_p: bool = False


def kind_of(controls: Controls) -> Kind:
    """The least that serves all rows."""
    warm = np.asarray(controls.temperature) >= _COLDEST
    return Kind(
        bool(warm.any()),
        bool((warm & (np.asarray(controls.top_k) > 0)).any()),
        bool((warm & (np.asarray(controls.top_p) < 1)).any()),
    )


def row_keys(seed_B: jax.Array, copies: int) -> jax.Array:
    """The random key of each sample of each prompt, [B * copies]; those of a prompt stand together."""

    def keys(seed: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(copies))

    return jax.vmap(keys)(seed_B).reshape(-1)


def choose(logits_NxV: jax.Array, step: jax.Array, keys_N: jax.Array, controls: Controls, kind: Kind) -> jax.Array:
    """Returns the next token of each row, int32 [N]."""
    best_N = jnp.argmax(logits_NxV, axis=-1).astype(jnp.int32)
    if not kind.draws:
        return best_N
    temperature_Nx1 = jnp.maximum(controls.temperature, _COLDEST)[:, None]
    scaled_NxV = logits_NxV / temperature_Nx1
    if kind.top_k:
        scaled_NxV = keep_top_k(scaled_NxV, jnp.asarray(controls.top_k))
    if kind.top_p:
        scaled_NxV = keep_top_p(scaled_NxV, jnp.asarray(controls.top_p))

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(key, step), logits_NxV.shape[1:], jnp.float32)

    drawn_N = jnp.argmax(scaled_NxV + jax.vmap(noise)(keys_N), axis=-1).astype(jnp.int32)
    return jnp.where(controls.temperature < _COLDEST, best_N, drawn_N)


def keep_top_k(logits_NxV: jax.Array, top_k_N: jax.Array) -> jax.Array:
    """Puts minus infinity in place of all but each row's k largest; rows of k = 0 stay as they are."""
    ranks_NxV = _ordered(logits_NxV)

    def enough(at_N: jax.Array) -> jax.Array:
        return jnp.sum(ranks_NxV >= at_N[:, None], axis=-1, dtype=jnp.int32) >= top_k_N

    least_N = jnp.where(top_k_N > 0, _largest(enough, top_k_N.shape), np.uint32(0))
    return jnp.where(ranks_NxV >= least_N[:, None], logits_NxV, -jnp.inf)


def keep_top_p(logits_NxV: jax.Array, top_p_N: jax.Array) -> jax.Array:
    """Puts minus infinity in place of all but the fewest likeliest tokens with a probability of at least p together."""
    probabilities_NxV = jax.nn.softmax(logits_NxV, axis=-1)
    ranks_NxV = _ordered(probabilities_NxV)

    def enough(at_N: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(ranks_NxV >= at_N[:, None], probabilities_NxV, 0.0), axis=-1) >= top_p_N

    least_N = jnp.where(top_p_N < 1, _largest(enough, top_p_N.shape), np.uint32(0))
    return jnp.where(ranks_NxV >= least_N[:, None], logits_NxV, -jnp.inf)


def _ordered(x: jax.Array) -> jax.Array:
    """float32 to uint32 of the same order."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0.0 equals 0.0
    return jnp.where(bits < _SIGN, bits | _SIGN, ~bits)


def _largest(holds: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """The largest uint32 for which `holds`, in each place; it must hold for 0, and for all numbers below one it holds for."""

    def narrow(index: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (_SIGN >> index.astype(jnp.uint32))
        return jnp.where(holds(tried), tried, found)

    return jax.lax.fori_loop(0, 32, narrow, jnp.zeros(shape, jnp.uint32))


def draw_as_t5x(
    key: jax.Array, logits_NxV: jax.Array, temperature: float, top_k: int, top_p: float
) -> tuple[jax.Array, jax.Array]:
    """Draws as T5X's `temperature_sample`: one key for the batch, and `top_p` counts only without `top_k`.

    Args:
      key: of this step.
      logits_NxV: of all samples of all prompts.
      temperature: above 0.
      top_k: 0 for none.
      top_p: 1 for none (T5X writes 0).

    Returns:
      int32 tokens [N], and the logits among which they were drawn, [N, V].
    """
    kept_NxV, rows = logits_NxV / max(temperature, _COLDEST), logits_NxV.shape[:1]
    if top_k:
        kept_NxV = keep_top_k(kept_NxV, jnp.full(rows, top_k, jnp.int32))
    elif top_p < 1:
        kept_NxV = keep_top_p(kept_NxV, jnp.full(rows, top_p, jnp.float32))
    kept_NxV = jnp.maximum(kept_NxV, NEVER)
    return jax.random.categorical(key, kept_NxV).astype(jnp.int32), kept_NxV
