"""Cross entropy with z-loss and label smoothing, its normalisation, and the sums that T5X's scalar tags are made of.

Everything is float32. Shapes: B batch, T target length, V vocabulary.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import errors

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]

# Divisors of the loss that depend on the batch (T5X's SpecialLossNormalizingFactor).
NORMALIZING_FACTORS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


def _onehot_mask(logits: jax.Array, targets: jax.Array) -> jax.Array:
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return ids == targets[..., None]


def token_losses(
    logits_BxTxV: jax.Array, targets_BxT: jax.Array, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy and z-loss of every token, without soft targets of the size of the logits.

    With `low = label_smoothing / (V - 1)` on every wrong token, the smoothed cross entropy is
    `log Z - (1 - label_smoothing - low) * logit[target] - low * sum(logits)`; from it the entropy of the smoothed
    target is subtracted, so that a perfect prediction costs 0 (as T5X). z_loss * log(Z)^2 keeps the normaliser near 1.

    Args:
      logits_BxTxV: float32.
      targets_BxT: token ids.
      label_smoothing: probability taken from the target and spread over the others.
      z_loss: weight of the squared log normaliser.

    Returns:
      The loss including z-loss, and the z-loss alone for reporting (no gradient flows through the latter); each [B, T].
    """
    both: Any = _token_losses(logits_BxTxV, targets_BxT, label_smoothing, z_loss)
    return both


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _token_losses(logits_BxTxV: jax.Array, targets_BxT: jax.Array, label_smoothing: float, z_loss: float):
    return _token_losses_forward(logits_BxTxV, targets_BxT, label_smoothing, z_loss)[0]


def _smoothing(label_smoothing: float, vocab_size: int) -> tuple[float, float, float]:
    """Probability of the target, of each other token, and the entropy of that distribution."""
    low = label_smoothing / (vocab_size - 1)
    high = 1.0 - label_smoothing
    return high, low, -(high * math.log(high) + (vocab_size - 1) * low * math.log(low + 1e-20))


def _token_losses_forward(
    logits_BxTxV: jax.Array, targets_BxT: jax.Array, label_smoothing: float, z_loss: float
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    high, low, entropy = _smoothing(label_smoothing, logits_BxTxV.shape[-1])
    log_z_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    # A masked sum rather than a gather: it stays local where the vocabulary is split over devices.
    target_BxT = jnp.sum(jnp.where(_onehot_mask(logits_BxTxV, targets_BxT), logits_BxTxV, 0.0), axis=-1)
    cross_entropy_BxT = log_z_BxT - (high - low) * target_BxT - entropy
    if label_smoothing:
        cross_entropy_BxT = cross_entropy_BxT - low * jnp.sum(logits_BxTxV, axis=-1)
    penalty_BxT = z_loss * jnp.square(log_z_BxT)
    return (cross_entropy_BxT + penalty_BxT, penalty_BxT), (logits_BxTxV, targets_BxT, log_z_BxT)


def _token_losses_backward(
    label_smoothing: float,
    z_loss: float,
    residuals: tuple[jax.Array, ...],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, None]:
    logits_BxTxV, targets_BxT, log_z_BxT = residuals
    gradient_BxT, _ = cotangents
    high, low, _ = _smoothing(label_smoothing, logits_BxTxV.shape[-1])
    probabilities_BxTxV = jnp.exp(logits_BxTxV - log_z_BxT[..., None])
    scale_BxT = gradient_BxT * (1.0 + 2.0 * z_loss * log_z_BxT)
    soft_BxTxV = jnp.where(_onehot_mask(logits_BxTxV, targets_BxT), high, low)
    return scale_BxT[..., None] * probabilities_BxTxV - gradient_BxT[..., None] * soft_BxTxV, None


_token_losses.defvjp(_token_losses_forward, _token_losses_backward)


def weights_and_divisor(factor: float | int | str | None, batch: Batch) -> tuple[jax.Array, jax.Array | float | None]:
    """Weight of every target token, and what the summed loss is divided by.

    Compute both on the whole batch before cutting it into microbatches: the sum of the microbatches' losses is then the
    loss of the batch.

    Args:
      factor: None leaves the sum; a number divides by it; NUM_REAL_TARGET_TOKENS by the summed weights;
        NUM_TOTAL_TARGET_TOKENS by B*T; AVERAGE_PER_SEQUENCE averages within each (packed) example, then over examples.
      batch: `decoder_target_tokens`, and where present `decoder_loss_weights` (otherwise 1 for every token but padding)
        and `decoder_segment_ids`.

    Raises:
      FlanError: an unknown name, or a divisor that is not positive.
    """
    targets_BxT = batch["decoder_target_tokens"]
    weights_BxT = jnp.asarray(batch.get("decoder_loss_weights", targets_BxT > 0), jnp.float32)
    if factor is None:
        return weights_BxT, None
    if not isinstance(factor, str):
        if factor <= 0:
            raise errors.FlanError(f"loss_normalizing_factor must be positive, given {factor}")
        return weights_BxT, float(factor)
    name = factor.upper()
    if name == "NUM_REAL_TARGET_TOKENS":
        return weights_BxT, jnp.sum(weights_BxT)
    if name == "NUM_TOTAL_TARGET_TOKENS":
        return weights_BxT, float(math.prod(targets_BxT.shape))
    if name == "AVERAGE_PER_SEQUENCE":
        if "decoder_segment_ids" in batch:
            totals_BxT = _sum_per_segment(weights_BxT, batch["decoder_segment_ids"])
        else:
            totals_BxT = jnp.broadcast_to(jnp.sum(weights_BxT, axis=-1, keepdims=True), weights_BxT.shape)
        weights_BxT = jnp.where(totals_BxT > 0, weights_BxT / jnp.where(totals_BxT > 0, totals_BxT, 1.0), 0.0)
        return weights_BxT, jnp.sum(weights_BxT)
    raise errors.unknown("loss_normalizing_factor", factor, NORMALIZING_FACTORS)


def _sum_per_segment(weights_BxT: jax.Array, segments_BxT: jax.Array) -> jax.Array:
    """For every token, the summed weights of its packed example. A row holds at most T examples, numbered from 1."""
    segments = weights_BxT.shape[-1] + 1
    sums_BxN = jax.vmap(lambda w, s: jax.ops.segment_sum(w, s, num_segments=segments))(weights_BxT, segments_BxT)
    return jnp.take_along_axis(sums_BxN, segments_BxT, axis=-1)


def loss_and_sums(
    logits_BxTxV: jax.Array,
    batch: Batch,
    weights_BxT: jax.Array,
    divisor: jax.Array | float | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[jax.Array, Sums]:
    """The scalar to differentiate, and the sums from which `scalars` makes the reported values.

    Args:
      logits_BxTxV: float32.
      batch: the features, for targets and padding.
      weights_BxT: from `weights_and_divisor`.
      divisor: likewise; None leaves the sum.
      label_smoothing: see `token_losses`.
      z_loss: see `token_losses`.

    Returns:
      The loss, and sums that may be added over microbatches and steps.
    """
    if weights_BxT.shape != logits_BxTxV.shape[:-1]:
        raise errors.FlanError(
            f"weights {weights_BxT.shape} do not fit logits {logits_BxTxV.shape}: expected [B, T] and [B, T, V]"
        )
    targets_BxT = batch["decoder_target_tokens"]
    logits_BxTxV = logits_BxTxV.astype(jnp.float32)
    losses_BxT, penalties_BxT = token_losses(logits_BxTxV, targets_BxT, label_smoothing, z_loss)
    scale = 1.0 if divisor is None else divisor
    loss = jnp.sum(losses_BxT * weights_BxT / scale)
    correct_BxT = jnp.argmax(jax.lax.stop_gradient(logits_BxTxV), axis=-1) == targets_BxT
    sums = {
        "loss": loss,
        "z_loss": jnp.sum(penalties_BxT * weights_BxT / scale),
        "correct": jnp.sum(correct_BxT * weights_BxT),
        "weights": jnp.sum(weights_BxT),
        "target_tokens": jnp.float32(math.prod(targets_BxT.shape)),
        **_padding_sums(batch),
    }
    return loss, jax.lax.stop_gradient(sums)


def _padding_sums(batch: Batch) -> Sums:
    """Rows, examples and real tokens of each feature; a packed feature is named by its side, as in T5X's tags."""
    sums = {}
    for side, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
        packed = f"{side}_segment_ids" in batch
        if not packed and tokens not in batch:
            continue
        segments_BxL = batch[f"{side}_segment_ids"] if packed else (batch[tokens] != 0).astype(jnp.int32)
        name = side if packed else tokens
        sums[f"examples/{name}"] = jnp.sum(jnp.max(segments_BxL, axis=1)).astype(jnp.float32)
        sums[f"real_tokens/{name}"] = jnp.sum(segments_BxL != 0).astype(jnp.float32)
        sums[f"all_tokens/{name}"] = jnp.float32(math.prod(segments_BxL.shape))
    return sums


def scalars(sums: Mapping[str, jax.Array], steps: int = 1) -> dict[str, jax.Array]:
    """Turns sums over `steps` training steps into T5X's scalar tags (means per step, or ratios of the sums)."""
    loss, penalty, weights, tokens = (sums[name] for name in ("loss", "z_loss", "weights", "target_tokens"))
    tags = {
        "accuracy": sums["correct"] / weights,
        "loss": loss / steps,
        "loss_per_nonpadding_target_token": loss / weights,
        "loss_per_all_target_tokens": loss / tokens,
        "z_loss": penalty / steps,
        "z_loss_per_all_target_tokens": penalty / tokens,
        "cross_ent_loss": (loss - penalty) / steps,
        "cross_ent_loss_per_all_target_tokens": (loss - penalty) / tokens,
        "non_padding_fraction/loss_weights": weights / tokens,
    }
    features = [name.removeprefix("examples/") for name in sums if name.startswith("examples/")]
    for name in features:
        tags[f"effective_batch_size/{name}"] = sums[f"examples/{name}"] / steps
        tags[f"non_padding_fraction/{name}"] = sums[f"real_tokens/{name}"] / sums[f"all_tokens/{name}"]
    if features:
        real = jnp.stack([sums[f"real_tokens/{name}"] for name in features])
        every = jnp.stack([sums[f"all_tokens/{name}"] for name in features])
        tags["non_padding_fraction/overall"] = jnp.sum(real) / jnp.sum(every)
    return tags
