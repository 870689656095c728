"""Generation of tokens with a cache. Shapes: B prompts, N rows (B prompts x n answers), T new tokens, V vocabulary.

`decode` answers a batch at once. Greedy decoding and sampling are `start` and `advance`, which a caller who wants tokens as
they come calls for a few steps at a time; `beam.search` is one call. All work for both families, on any mesh.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from flan_jax import errors
from flan_jax.data import stateless
from flan_jax.inference import beam, sampling, settings
from flan_jax.models import api


class Decoded(NamedTuple):
    """Answers: int32 tokens [B, n, T], the end token kept and 0 behind it; float32 scores [B, n].

    A sample's score is its log-probability under the model as it is (temperature 1, nothing truncated), end token
    included; samples stand in the order of their numbers. A beam's is divided by the length penalty; best first.
    """

    tokens: jax.Array
    scores: jax.Array


class State(NamedTuple):
    """A batch in the middle of its answers; rows of one prompt stand together.

    Attributes:
      step: int32, tokens generated so far.
      token: int32 [N], what the next step is given.
      ended: bool [N]; set it to end a row from outside.
      tokens: int32 [N, T].
      log_probs: float32 [N, T], of each token; 0 behind the end.
      keys: of the rows.
      controls: arrays [N].
      cache: see `api.prefill`.
    """

    step: jax.Array
    token: jax.Array
    ended: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    keys: jax.Array
    controls: sampling.Controls
    cache: dict[str, Any]


def row_seeds(seed: int, numbers: npt.ArrayLike) -> np.ndarray:
    """The seeds, uint32 [B], of the prompts of these numbers under one seed."""
    return (stateless.hash64(seed, np.asarray(numbers)) & np.uint64(settings.LARGEST_SEED)).astype(np.uint32)


def controls(how: settings.Settings, rows: int, seeds: Any = None, limits: Any = None) -> sampling.Controls:
    """The controls of a batch whose prompts all ask for the same.

    Args:
      how: the settings.
      rows: B.
      seeds: uint32 [B]; `row_seeds` where None.
      limits: int32 [B], tokens at most; `how.max_tokens` where None.
    """
    if seeds is None:
        seeds = row_seeds(how.seed, np.arange(rows))
    if limits is None:
        limits = np.full(rows, how.max_tokens)
    return sampling.Controls(
        seed=np.asarray(seeds, np.uint32),
        temperature=np.full(rows, how.temperature, np.float32),
        top_k=np.full(rows, how.top_k, np.int32),
        top_p=np.full(rows, how.top_p, np.float32),
        limit=np.minimum(np.asarray(limits, np.int32), how.max_tokens),
    )


def decode(
    config: api.Config,
    params: api.Params,
    batch: api.Batch,
    how: settings.Settings,
    *,
    seeds: Any = None,
    limits: Any = None,
    eos_ids: tuple[int, ...] = (1,),
) -> Decoded:
    """Answers every prompt of a batch; strings of `how.stop` are not looked for (see `generate`).

    Args:
      config: the model.
      params: its parameters.
      batch: one example per row, as `api.prefill` reads it.
      how: greedy, sampling or beams.
      seeds: uint32 [B], of each prompt's draws; `row_seeds` of `how.seed` where None.
      limits: int32 [B], tokens of each prompt's answers at most; `how.max_tokens` where None. Not for beams.
      eos_ids: tokens that end an answer.

    Raises:
      FlanError: the batch is packed, or asks for more positions than the model has.
    """
    if how.beams:
        if limits is not None:
            raise errors.FlanError(
                "a beam search has one limit for all prompts: expected max_tokens in place of limits"
            )
        tokens, scores = beam.search(
            config, params, batch, how.alpha, beams=how.beams, max_tokens=how.max_tokens, eos_ids=eos_ids
        )
        return Decoded(tokens[:, : how.n], scores[:, : how.n])
    rows = next(iter(batch.values())).shape[0]
    asked = controls(how, rows, seeds, limits)
    state = start(config, params, batch, asked, max_tokens=how.max_tokens, copies=how.n)
    kind = sampling.kind_of(asked)
    state = advance(config, params, state, how.max_tokens, kind=kind, eos_ids=eos_ids)
    split = (rows, how.n, -1)
    return Decoded(state.tokens.reshape(split), jnp.sum(state.log_probs.reshape(split), axis=-1))


@functools.partial(jax.jit, static_argnames=("config", "max_tokens", "copies"))
def start(
    config: api.Config,
    params: api.Params,
    batch: api.Batch,
    asked: sampling.Controls,
    *,
    max_tokens: int,
    copies: int = 1,
) -> State:
    """Runs the encoder, or the prompts.

    Args:
      config: the model.
      params: its parameters.
      batch: one example per row, as `api.prefill` reads it.
      asked: arrays [B].
      max_tokens: T, room for so many tokens.
      copies: n, answers to each prompt.
    """
    cache = api.copy_rows(api.prefill(config, params, batch, max_tokens), copies)
    token_N = jnp.repeat(api.first_tokens(config, batch), copies)
    each = jax.tree.map(lambda value: jnp.repeat(jnp.asarray(value), copies), asked)
    return State(
        step=jnp.int32(0),
        token=token_N,
        ended=each.limit < 1,
        tokens=jnp.zeros((token_N.shape[0], max_tokens), jnp.int32),
        log_probs=jnp.zeros((token_N.shape[0], max_tokens), jnp.float32),
        keys=sampling.row_keys(jnp.asarray(asked.seed), copies),
        controls=each,
        cache=cache,
    )


@functools.partial(jax.jit, static_argnames=("config", "kind", "eos_ids"), donate_argnames="state")
def advance(
    config: api.Config,
    params: api.Params,
    state: State,
    until: jax.Array | int,
    *,
    kind: sampling.Kind,
    eos_ids: tuple[int, ...],
) -> State:
    """Generates tokens up to step `until`, or until every row has ended. `state` is used up.

    Args:
      config: the model.
      params: its parameters.
      state: of `start`.
      until: step at which to stop; at most T.
      kind: see `sampling.kind_of`.
      eos_ids: tokens that end a row.
    """
    params = api.decoding_params(config, params)

    def pick(state: State, logits_NxV: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        token_N = sampling.choose(logits_NxV, state.step, state.keys, state.controls, kind)
        return state, token_N, logits_NxV

    return _loop(config, params, state, until, eos_ids, pick)


def _loop(
    config: api.Config, params: api.Params, state: State, until: Any, eos_ids: tuple[int, ...], pick: Any
) -> State:
    """Steps until all rows have ended; `pick(state, logits)` gives the state, the tokens and what they were drawn among."""

    def unfinished(state: State) -> jax.Array:
        return (state.step < jnp.minimum(until, state.tokens.shape[1])) & ~jnp.all(state.ended)

    def step(state: State) -> State:
        logits_NxV, cache = api.decode_step(config, params, state.cache, state.token)
        state, token_N, among_NxV = pick(state, logits_NxV)
        token_N = jnp.where(state.ended, 0, token_N)
        log_prob_N = jnp.take_along_axis(among_NxV, token_N[:, None], axis=1)[:, 0] - jax.nn.logsumexp(
            among_NxV, axis=-1
        )
        log_prob_N = jnp.where(state.ended, 0.0, log_prob_N)
        ends_N = functools.reduce(
            jnp.logical_or, [token_N == eos for eos in eos_ids], state.step + 1 >= state.controls.limit
        )
        return state._replace(
            step=state.step + 1,
            token=token_N,
            ended=state.ended | ends_N,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token_N[:, None], (0, state.step)),
            log_probs=jax.lax.dynamic_update_slice(state.log_probs, log_prob_N[:, None], (0, state.step)),
            cache=cache,
        )

    return jax.lax.while_loop(unfinished, step, state)


@functools.partial(jax.jit, static_argnames=("config", "how", "eos_ids", "rescale_log_probs"))
def sample_as_t5x(
    config: api.Config,
    params: api.Params,
    batch: api.Batch,
    key: jax.Array,
    *,
    how: settings.Settings,
    limits: jax.Array | None = None,
    eos_ids: tuple[int, ...] = (1,),
    rescale_log_probs: bool = True,
) -> Decoded:
    """Samples with T5X's draws (`decoding.temperature_sample`), to repeat what it has written.

    One key for the whole batch is split at every step, so that a row's draws depend on all others; everything else in
    flan_jax samples with `decode`, where they do not.

    Args:
      config: the model.
      params: its parameters.
      batch: one example per row, as `api.prefill` reads it.
      key: T5X's `decode_rng`.
      how: temperature above 0; with `top_k`, T5X takes no notice of `top_p`.
      limits: int32 [B], as in `decode`.
      eos_ids: tokens that end an answer.
      rescale_log_probs: scores among the tokens that were drawn from, at the temperature.

    Returns:
      The samples of a prompt, likeliest first (T5X: last).
    """
    rows = next(iter(batch.values())).shape[0]
    asked = controls(how, rows)
    if limits is not None:
        asked = asked._replace(limit=limits)
    state = start(config, params, batch, asked, max_tokens=how.max_tokens, copies=how.n)

    def pick(state: State, logits_NxV: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        now, after = jax.random.split(state.keys)
        token_N, among_NxV = sampling.draw_as_t5x(now, logits_NxV, how.temperature, how.top_k, how.top_p)
        return state._replace(keys=after), token_N, among_NxV if rescale_log_probs else logits_NxV

    params = api.decoding_params(config, params)
    state = _loop(config, params, state._replace(keys=key), how.max_tokens, eos_ids, pick)
    scores_Bxn = jnp.sum(state.log_probs, axis=1).reshape(rows, how.n)
    order_Bxn = jnp.argsort(-scores_Bxn, axis=1)
    tokens = jnp.take_along_axis(state.tokens.reshape(rows, how.n, -1), order_Bxn[..., None], axis=1)
    return Decoded(tokens, jnp.take_along_axis(scores_Bxn, order_Bxn, axis=1))
