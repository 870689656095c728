"""The training step as XLA is given it: which shapes, living where, what is donated. Training runs it, planning reads it."""

from collections.abc import Mapping
from typing import Any

import jax

from flan_jax import sharding
from flan_jax.training import adapters, configs, state, step


def lower(
    model: configs.Model,
    optimizer: Any,
    trainer: configs.Trainer,
    places: state.TrainState,
    shapes: state.TrainState,
    mesh: Any,
    key: Any,
    rows: int,
    lengths: Mapping[str, int],
    *,
    rules: sharding.Rules = sharding.STANDARD_RULES,
    adapter: adapters.Adapter | None = None,
    frozen: Any = None,
    tasks: int = 0,
) -> jax.stages.Lowered:
    """Traces the update for a mesh whose devices need not be there.

    Args:
      model: architecture and loss.
      optimizer: knows the axes of what is trained.
      trainer: learning rate and microbatches.
      places: where each array of the state lives, as `state.shardings` gives it.
      shapes: the state, as `state.abstract` gives it; it is donated.
      mesh: the devices.
      key: the run's random key, or its shape.
      rows: of the global batch.
      lengths: feature -> tokens of a row.
      rules: the table of axes for activations and batch.
      adapter: what is trained, if not the model's own parameters.
      frozen: with an adapter, the model's parameters: arrays or shapes that know their shardings.
      tasks: how many the loss is also summed by; the batch then holds `decoder_task_ids`. Plans leave this out.

    Returns:
      What `.compile()` makes (state, batch, key) -> (state, sums) of; with an adapter (state, batch, key, frozen).
    """
    where, everywhere = sharding.batch_sharding(mesh, rules), sharding.replicated(mesh)
    update = step.make_train_step(
        model,
        optimizer,
        trainer.learning_rate_fn,
        trainer.num_microbatches,
        adapter,
        tasks=tasks,
        skip_nonfinite=trainer.nonfinite == "skip",
    )
    base = () if frozen is None else (frozen,)
    jitted = jax.jit(
        update,
        in_shardings=(places, where, everywhere, *jax.tree.map(lambda leaf: leaf.sharding, base)),
        out_shardings=(places, everywhere),
        donate_argnums=0,
    )
    batch = {name: jax.ShapeDtypeStruct((rows, length), "int32", sharding=where) for name, length in lengths.items()}
    with sharding.use(mesh, rules):
        return jitted.lower(placed(shapes, places), batch, key, *base)


def placed(shapes: Any, places: Any) -> Any:
    """Shapes that know their shardings."""
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, places)
