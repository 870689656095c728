"""Log-likelihood of given targets, as rank classification needs it. Shapes: B batch, T target length, V vocabulary."""

import functools

import jax
import jax.numpy as jnp

from flan_jax.models import api


@functools.partial(jax.jit, static_argnums=0)
def token_log_likelihood(config: api.T5Config, params: api.Params, batch: api.Batch) -> jax.Array:
    """Log-probability of every target token given the earlier ones; float32 [B, T], also at padding."""
    logits_BxTxV = api.logits(config, params, batch)
    target_BxTx1 = jnp.take_along_axis(logits_BxTxV, batch["decoder_target_tokens"][..., None], axis=-1)
    return target_BxTx1[..., 0] - jax.nn.logsumexp(logits_BxTxV, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def score_targets(config: api.T5Config, params: api.Params, batch: api.Batch) -> jax.Array:
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
