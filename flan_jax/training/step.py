"""One update, as a pure function (state, batch) -> (state, sums)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import sharding
from flan_jax.models import api
from flan_jax.training import adapters, loss, optim, state
from flan_jax.training.configs import Model

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
Step = Callable[..., tuple[state.TrainState, Sums]]

_WEIGHTS = "loss_weights"


def make_train_step(
    model: Model,
    optimizer: optim.Optimizer,
    learning_rate_fn: Callable[[jax.Array], jax.Array | float],
    num_microbatches: int | None = None,
    adapter: adapters.Adapter | None = None,
    *,
    tasks: int = 0,
    skip_nonfinite: bool = False,
) -> Step:
    """Builds the update.

    Args:
      model: architecture and loss settings.
      optimizer: takes the gradients.
      learning_rate_fn: step -> learning rate.
      num_microbatches: the batch is cut into so many pieces whose gradients are added; None or 1 does it whole.
      adapter: what the state's parameters belong to, if not to the model itself.
      tasks: also sum the loss by task, of so many (see `loss.loss_and_sums`).
      skip_nonfinite: where loss or gradient is not finite, keep parameters and optimizer state as they were; the step
        still counts.

    Returns:
      (state, batch, key) -> (state, sums); with an adapter, (state, batch, key, frozen parameters). The key is the run's
      own; dropout folds the step into it, so that a resumed run drops what the uninterrupted one would have. `sums` can
      be added over steps (see `loss.scalars`), but for `learning_rate`. `nonfinite` is 1 where loss or gradient is not finite.
    """

    def train_step(
        old: state.TrainState, batch: Batch, key: jax.Array, base: Any = None
    ) -> tuple[state.TrainState, Sums]:
        weights, divisor = loss.weights_and_divisor(model.loss_normalizing_factor, batch)
        key = jax.random.fold_in(key, old.step)
        effective = _itself if adapter is None else functools.partial(adapter.apply, base)
        gradients = functools.partial(_gradients, model, divisor, tasks, effective)
        if num_microbatches and num_microbatches > 1:
            grads, sums = _accumulate(gradients, old.params, {**batch, _WEIGHTS: weights}, key, num_microbatches)
        else:
            grads, sums = gradients(old.params, {**batch, _WEIGHTS: weights}, key)
        rate = jnp.asarray(learning_rate_fn(old.step), jnp.float32)
        params, opt_state = optimizer.update(grads, old.opt_state, old.params, old.step, rate)
        norm = _norm(grads)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm)
        if skip_nonfinite:
            kept = (old.params, old.opt_state)
            params, opt_state = jax.tree.map(lambda new, now: jnp.where(finite, new, now), (params, opt_state), kept)
        sums |= {"gradient_norm": norm, "nonfinite": jnp.float32(1) - finite, "learning_rate": rate}
        return state.TrainState(old.step + 1, params, opt_state), sums

    return train_step


def make_eval_step(model: Model, tasks: int = 0) -> Callable[[Any, Batch], Sums]:
    """Builds the loss without an update: (params, batch) -> sums; by task as well, where there are `tasks` of them."""

    def eval_step(params: Any, batch: Batch) -> Sums:
        weights, divisor = loss.weights_and_divisor(model.loss_normalizing_factor, batch)
        return _loss(model, divisor, params, {**batch, _WEIGHTS: weights}, None, tasks)[1]

    return eval_step


def _loss(
    model: Model, divisor: Any, params: Any, batch: Batch, key: jax.Array | None, tasks: int = 0
) -> tuple[jax.Array, Sums]:
    features = {name: value for name, value in batch.items() if name != _WEIGHTS}
    dropout = key if model.config.dropout_rate > 0 else None
    extra: Any = {"label_smoothing": model.label_smoothing, "z_loss": model.z_loss, "tasks": tasks}
    chunk = loss.chunk_length(model.logits_chunk, model.config.vocab_size, features["decoder_target_tokens"].shape[1])
    if chunk is None:
        logits_BxTxV = api.logits(model.config, params, features, dropout_rng=dropout)
        total, sums = loss.loss_and_sums(logits_BxTxV, features, batch[_WEIGHTS], divisor, **extra)
    else:
        hidden_BxTxD = api.hidden(model.config, params, features, dropout_rng=dropout)
        # Whole rows of whole vectors: pieces of the length are taken one after the other.
        hidden_BxTxD = sharding.constrain(hidden_BxTxD, ("batch", "length", None))
        project = functools.partial(api.project, model.config)
        projection = api.projection_params(model.config, params)
        total, sums = loss.chunked_loss_and_sums(
            project, projection, hidden_BxTxD, features, batch[_WEIGHTS], divisor, chunk=chunk, **extra
        )
    # The loss in nats a token, whatever it is divided by for the gradient: what a person compares between runs.
    sums["undivided_loss"] = sums["loss"] * (1.0 if divisor is None else divisor)
    return total, sums


def _norm(grads: Any) -> jax.Array:
    """The Euclidean norm of all gradients together, float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def _itself(params: Any) -> Any:
    return params


def _gradients(
    model: Model, divisor: Any, tasks: int, effective: Callable[[Any], Any], params: Any, batch: Batch, key: jax.Array
) -> tuple[Any, Sums]:
    def loss_of(params: Any) -> tuple[jax.Array, Sums]:
        return _loss(model, divisor, effective(params), batch, key, tasks)

    (_, sums), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
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
