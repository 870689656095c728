"""Cross entropy with z-loss and label smoothing, its normalisation, and the sums that T5X's scalar tags are made of.

Everything is float32. Shapes: B batch, T target length, V vocabulary.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import errors

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
Project = Callable[[Any, jax.Array], jax.Array]

# From a vocabulary of this size on, logits are made for `CHUNK` target positions at a time unless a run says otherwise: of
# PaLM's 256,000 pieces a row of 2,560 tokens would take 2.4 GiB, and its gradient as much again.
LARGE_VOCABULARY = 100_000
CHUNK = 512

# Divisors of the loss that depend on the batch (T5X's SpecialLossNormalizingFactor).
NORMALIZING_FACTORS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


def chunk_length(given: int | None, vocab_size: int, length: int) -> int | None:
    """How many target positions to make logits for at a time; None for all of them in one piece.

    Args:
      given: what the run says: a number, 0 for all at once, None to go by the size of the vocabulary.
      vocab_size: V.
      length: T.
    """
    if given is None:
        given = CHUNK if vocab_size >= LARGE_VOCABULARY else 0
    return given if 0 < given < length else None


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
    tasks: int = 0,
) -> tuple[jax.Array, Sums]:
    """The scalar to differentiate, and the sums from which `scalars` makes the reported values.

    Args:
      logits_BxTxV: float32.
      batch: the features, for targets and padding.
      weights_BxT: from `weights_and_divisor`.
      divisor: likewise; None leaves the sum.
      label_smoothing: see `token_losses`.
      z_loss: see `token_losses`.
      tasks: also sum the loss by task, of so many; the batch then has `decoder_task_ids` [B, T]: at every token of an
        example one more than the number of its task, 0 at padding.

    Returns:
      The loss, and sums that may be added over microbatches and steps. With `tasks`, `task_loss` and `task_weights` [tasks]:
      the loss in nats, not divided, and the weights that it is of.
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
    return loss, _sums(loss, losses_BxT, penalties_BxT, correct_BxT, batch, weights_BxT, scale, tasks)


def chunked_loss_and_sums(
    project: Project,
    projection: Any,
    hidden_BxTxD: jax.Array,
    batch: Batch,
    weights_BxT: jax.Array,
    divisor: jax.Array | float | None = None,
    *,
    chunk: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    tasks: int = 0,
) -> tuple[jax.Array, Sums]:
    """`loss_and_sums` of logits that never exist as a whole: of `chunk` target positions at a time.

    The gradients of a piece are made while its logits are there, so that differentiating costs no second projection.

    Args:
      project: (projection, vectors [B, C, D]) -> float32 logits [B, C, V], such as a partial of `models.api.project`; the
        same object for the same model.
      projection: the parameters that it reads; gradients flow to them and to `hidden_BxTxD`, and to nothing else.
      hidden_BxTxD: the model's final vectors.
      batch: as in `loss_and_sums`, like all that follow.
      weights_BxT: likewise.
      divisor: likewise.
      chunk: target positions at a time; any number from 1.
      label_smoothing: see `token_losses`.
      z_loss: see `token_losses`.
      tasks: as in `loss_and_sums`.
    """
    scale = 1.0 if divisor is None else divisor
    settings = (chunk, label_smoothing, z_loss)
    found: Any = _chunked(
        project, settings, projection, hidden_BxTxD, batch["decoder_target_tokens"], weights_BxT / scale
    )
    loss, losses_BxT, penalties_BxT, correct_BxT = found
    return loss, _sums(loss, losses_BxT, penalties_BxT, correct_BxT, batch, weights_BxT, scale, tasks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(
    project: Project,
    settings: tuple[int, float, float],
    projection: Any,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
) -> Any:
    """The weighted loss, and of every token its loss, its z-loss and whether the largest logit is the target's."""
    return _over_chunks(project, settings, projection, hidden_BxTxD, targets_BxT, weights_BxT, gradients=False)[0]


def _chunked_forward(
    project: Project, settings: tuple[int, float, float], projection: Any, *of_tokens: jax.Array
) -> Any:
    return _over_chunks(project, settings, projection, *of_tokens, gradients=True)


def _chunked_backward(project: Project, settings: tuple[int, float, float], gradients: Any, cotangents: Any) -> Any:
    del project, settings
    scaled: Any = jax.tree.map(lambda leaf: (cotangents[0] * leaf.astype(jnp.float32)).astype(leaf.dtype), gradients)
    return (*scaled, None, None)


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _over_chunks(
    project: Project,
    settings: tuple[int, float, float],
    projection: Any,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    *,
    gradients: bool,
) -> tuple[Any, Any]:
    """What `_chunked` returns, and the gradients of its loss by projection and hidden vectors, if they are asked for."""
    (chunk, label_smoothing, z_loss), length = settings, targets_BxT.shape[1]

    def cut(value: jax.Array) -> jax.Array:
        padding = [(0, 0), (0, -length % chunk), *[(0, 0)] * (value.ndim - 2)]
        padded = jnp.pad(value, padding)  # with tokens of weight 0
        return jnp.swapaxes(padded.reshape(value.shape[0], -1, chunk, *value.shape[2:]), 0, 1)

    def joined(pieces: jax.Array) -> jax.Array:
        whole = jnp.swapaxes(pieces, 0, 1)
        return whole.reshape(whole.shape[0], -1, *whole.shape[3:])[:, :length]

    def one(total: Any, piece: Any) -> tuple[Any, Any]:
        hidden_BxCxD, targets_BxC, weights_BxC = piece
        if gradients:
            logits_BxCxV, pull_back = jax.vjp(project, projection, hidden_BxCxD)
        else:
            logits_BxCxV, pull_back = project(projection, hidden_BxCxD), None
        (losses_BxC, penalties_BxC), kept = _token_losses_forward(logits_BxCxV, targets_BxC, label_smoothing, z_loss)
        correct_BxC = jnp.argmax(logits_BxCxV, axis=-1) == targets_BxC
        loss, gradient = total
        loss += jnp.sum(losses_BxC * weights_BxC)
        of_hidden = None
        if pull_back is not None:
            by_logits, _ = _token_losses_backward(label_smoothing, z_loss, kept, (weights_BxC, penalties_BxC))
            of_projection, of_hidden = pull_back(by_logits)
            gradient = jax.tree.map(jnp.add, gradient, of_projection)
        return (loss, gradient), (losses_BxC, penalties_BxC, correct_BxC, of_hidden)

    start = jax.tree.map(jnp.zeros_like, projection) if gradients else None
    pieces = (cut(hidden_BxTxD), cut(targets_BxT), cut(weights_BxT))
    (loss, gradient), (losses, penalties, correct, of_hidden) = jax.lax.scan(one, (jnp.float32(0.0), start), pieces)
    of_tokens = (joined(losses), joined(penalties), joined(correct))
    return (loss, *of_tokens), (gradient, joined(of_hidden)) if gradients else None


def _sums(
    loss: jax.Array,
    losses_BxT: jax.Array,
    penalties_BxT: jax.Array,
    correct_BxT: jax.Array,
    batch: Batch,
    weights_BxT: jax.Array,
    scale: jax.Array | float,
    tasks: int,
) -> Sums:
    targets_BxT = batch["decoder_target_tokens"]
    sums = {
        "loss": loss,
        "z_loss": jnp.sum(penalties_BxT * weights_BxT / scale),
        "correct": jnp.sum(correct_BxT * weights_BxT),
        "weights": jnp.sum(weights_BxT),
        "target_tokens": jnp.float32(math.prod(targets_BxT.shape)),
        **_padding_sums(batch),
    }
    if tasks:
        ids_BxT = batch["decoder_task_ids"]
        sums["task_loss"] = _sum_by_task(losses_BxT * weights_BxT, ids_BxT, tasks)
        sums["task_weights"] = _sum_by_task(weights_BxT, ids_BxT, tasks)
    return jax.lax.stop_gradient(sums)


def _sum_by_task(values_BxT: jax.Array, ids_BxT: jax.Array, tasks: int) -> jax.Array:
    return jax.ops.segment_sum(values_BxT.reshape(-1), ids_BxT.reshape(-1), num_segments=tasks + 1)[1:]


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


def scalars(sums: Mapping[str, Any], steps: int = 1) -> dict[str, Any]:
    """Turns sums over `steps` training steps into T5X's scalar tags (means per step, or ratios of the sums).

    Of sums on the host it makes numbers on the host: an operation of the device's would wait for the step that it is at.
    """
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
        real, every = (sum(sums[f"{kind}/{name}"] for name in features) for kind in ("real_tokens", "all_tokens"))
        tags["non_padding_fraction/overall"] = real / every
    return tags
