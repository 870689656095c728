"""One update, as a pure function (state, batch) -> (state, sums)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import sharding
from flan_jax.models import api
from flan_jax.training import loss, optim, state
from flan_jax.training.configs import EncoderDecoderModel

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
Step = Callable[[state.TrainState, Batch, jax.Array], tuple[state.TrainState, Sums]]

_WEIGHTS = "loss_weights"


def make_train_step(
    model: EncoderDecoderModel,
    optimizer: optim.Optimizer,
    learning_rate_fn: Callable[[jax.Array], jax.Array],
    num_microbatches: int | None = None,
) -> Step:
    """Builds the update.

    Args:
      model: architecture and loss settings.
      optimizer: takes the gradients.
      learning_rate_fn: step -> learning rate.
      num_microbatches: the batch is cut into so many pieces whose gradients are added; None or 1 does it whole.

    Returns:
      (state, batch, key) -> (state, sums). The key is the run's own; dropout folds the step into it, so that a resumed
      run drops what the uninterrupted one would have. `sums` can be added over steps (see `loss.scalars`), but for
      `learning_rate`.
    """

    def train_step(old: state.TrainState, batch: Batch, key: jax.Array) -> tuple[state.TrainState, Sums]:
        weights, divisor = loss.weights_and_divisor(model.loss_normalizing_factor, batch)
        key = jax.random.fold_in(key, old.step)
        gradients = functools.partial(_gradients, model, divisor)
        if num_microbatches and num_microbatches > 1:
            grads, sums = _accumulate(gradients, old.params, {**batch, _WEIGHTS: weights}, key, num_microbatches)
        else:
            grads, sums = gradients(old.params, {**batch, _WEIGHTS: weights}, key)
        rate = learning_rate_fn(old.step)
        params, opt_state = optimizer.update(grads, old.opt_state, old.params, old.step, rate)
        return state.TrainState(old.step + 1, params, opt_state), {**sums, "learning_rate": rate}

    return train_step


def make_eval_step(model: EncoderDecoderModel) -> Callable[[Any, Batch], Sums]:
    """Builds the loss without an update: (params, batch) -> sums."""

    def eval_step(params: Any, batch: Batch) -> Sums:
        weights, divisor = loss.weights_and_divisor(model.loss_normalizing_factor, batch)
        return _loss(model, divisor, params, {**batch, _WEIGHTS: weights}, None)[1]

    return eval_step


def _loss(
    model: EncoderDecoderModel, divisor: Any, params: Any, batch: Batch, key: jax.Array | None
) -> tuple[jax.Array, Sums]:
    features = {name: value for name, value in batch.items() if name != _WEIGHTS}
    dropout = key if model.config.dropout_rate > 0 else None
    logits_BxTxV = api.logits(model.config, params, features, dropout_rng=dropout)
    total, sums = loss.loss_and_sums(
        logits_BxTxV, features, batch[_WEIGHTS], divisor, label_smoothing=model.label_smoothing, z_loss=model.z_loss
    )
    # The loss in nats a token, whatever it is divided by for the gradient: what a person compares between runs.
    sums["undivided_loss"] = sums["loss"] * (1.0 if divisor is None else divisor)
    return total, sums


def _gradients(model: EncoderDecoderModel, divisor: Any, params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Sums]:
    (_, sums), grads = jax.value_and_grad(functools.partial(_loss, model, divisor), has_aux=True)(params, batch, key)
    return grads, sums


def _accumulate(
    gradients: Callable[[Any, Batch, jax.Array], tuple[Any, Sums]],
    params: Any,
    batch: Batch,
    key: jax.Array,
    pieces: int,
) -> tuple[Any, Sums]:
    """Adds gradients and sums over microbatches. Piece i takes rows i, i + K, ...: every device keeps its own rows."""

    def cut(value: jax.Array) -> jax.Array:
        return jnp.swapaxes(value.reshape(value.shape[0] // pieces, pieces, *value.shape[1:]), 0, 1)

    def one(total: Any, piece: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        rows, number = piece
        rows = {name: sharding.constrain(value, ("batch", *[None] * (value.ndim - 1))) for name, value in rows.items()}
        return jax.tree.map(jnp.add, total, gradients(params, rows, jax.random.fold_in(key, number))), None

    cut_batch = {name: cut(value) for name, value in batch.items()}
    shapes = jax.eval_shape(gradients, params, jax.tree.map(lambda value: value[0], cut_batch), key)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(one, start, (cut_batch, jnp.arange(pieces)))
    return total
