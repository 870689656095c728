"""Training: `python -m flan_jax.train --gin_file=...`, which is `flan train`. Read `train` from top to bottom."""

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from flan_jax import config as config_lib
from flan_jax import errors, launch, sharding
from flan_jax import eval as eval_lib
from flan_jax.checkpoint import manager
from flan_jax.data import loader, mixtures, sources, vocabulary
from flan_jax.models import api
from flan_jax.training import configs, loop, metrics, state, step

logger = logging.getLogger(__name__)


def train(
    model: configs.EncoderDecoderModel,
    train_dataset_cfg: configs.DatasetConfig,
    checkpoint_cfg: configs.CheckpointConfig,
    partitioner: configs.Partitioner,
    trainer_cls: Any,
    model_dir: str,
    total_steps: int,
    random_seed: int | None = None,
    train_eval_dataset_cfg: configs.DatasetConfig | None = None,
    infer_eval_dataset_cfg: configs.DatasetConfig | None = None,
    eval_steps: int = 20,
    eval_period: int = 1000,
    stats_period: int | None = None,
    relative_steps: int | None = None,
    use_hardware_rng: bool = False,
    run_eval_before_training: bool = False,
) -> None:
    """Trains a model; what gin binds as `train_script.train`.

    Args:
      model: architecture, vocabularies, optimizer and loss.
      train_dataset_cfg: what to train on.
      checkpoint_cfg: when to save, where to start from.
      partitioner: the device mesh.
      trainer_cls: `@trainer.Trainer`: learning rate and microbatches.
      model_dir: where the run writes; an interrupted run in it is continued.
      total_steps: updates in all.
      random_seed: of parameters, dropout and data; 0 where None.
      train_eval_dataset_cfg: what the loss is also computed on at every evaluation.
      infer_eval_dataset_cfg: what is answered and scored at every evaluation.
      eval_steps: batches of `train_eval_dataset_cfg`.
      eval_period: steps between evaluations.
      stats_period: steps between lines of metrics; the smaller of 100 and `eval_period` where None.
      relative_steps: train so many steps from the restored one; overrides `total_steps`.
      use_hardware_rng: dropout from the accelerator's own generator: faster, and other numbers.
      run_eval_before_training: also evaluate the first state.

    Raises:
      FlanError: for anything in the configuration or the data that the user can mend.
    """
    started = time.monotonic()
    seed = random_seed or 0
    model_dir = os.path.abspath(os.path.expanduser(model_dir)) if "://" not in model_dir else model_dir

    # --- What to train: model, optimizer, mesh ---
    trainer: configs.Trainer = trainer_cls()
    mesh = partitioner.mesh()
    optimizer = model.optimizer_def.with_axes(api.logical_axes(model.config))
    shapes = state.abstract(model.config, optimizer)
    places = state.shardings(model.config, optimizer, mesh, partitioner.rules)

    # --- What to train on ---
    train_loader = open_loader(train_dataset_cfg, model, seed)

    save_cfg = checkpoint_cfg.save or configs.SaveCheckpointConfig()
    with contextlib.ExitStack() as opened:
        # --- Where to start from ---
        checkpoints = opened.enter_context(
            manager.CheckpointManager(model_dir, keep=save_cfg.keep, period=save_cfg.period)
        )
        first, position = initial_state(model, optimizer, shapes, places, checkpoint_cfg, checkpoints, seed)
        if position is not None:
            train_loader.restore(position)
        start = int(first.step)
        total = start + relative_steps if relative_steps else total_steps
        if start >= total:
            logger.info("%s is at step %d of %d: nothing to train", model_dir, start, total)
            return
        # Not before: a restart that does not fit what is there leaves the run's own files as they are.
        write_run_files(model_dir, model, shapes.params, places.params)

        # --- The step, compiled ---
        put = functools.partial(to_global, sharding.batch_sharding(mesh))
        impl = "rbg" if use_hardware_rng else None
        key = jax.device_put(jax.random.key(seed, impl=impl), sharding.replicated(mesh))
        opened.enter_context(sharding.use(mesh))
        compiled, seconds = compile_step(model, optimizer, trainer, places, shapes, mesh, key, train_dataset_cfg)
        ready = time.monotonic() - started - seconds
        write = _writer(os.path.join(model_dir, "train"), start, opened)
        write(start, {"timing/compilation_seconds": seconds, "timing/init_or_restore_seconds": ready})
        held_back = _held_back_loss(model, mesh, model_dir, train_eval_dataset_cfg, eval_steps, seed, start, opened)
        evaluate = functools.partial(_evaluate, held_back, model, mesh, model_dir, infer_eval_dataset_cfg)
        if run_eval_before_training:
            evaluate(start, first)

        # --- The steps ---
        batches = opened.enter_context(contextlib.closing(loader.prefetch(iter(train_loader))))
        schedule = loop.Schedule(
            start=start,
            total=total,
            stats_period=stats_period or min(100, eval_period or 100),
            eval_period=eval_period,
            save_period=save_cfg.period,
        )
        hooks = loop.Hooks(
            stats=write,
            evaluate=evaluate,
            save=lambda at, now, data: checkpoints.save(at, now.checkpoint_tree(), data, force=True),
        )
        loop.run(compiled, first, batches, put, key, schedule, hooks)
    logger.info("trained to step %d in %.0f s: %s", total, time.monotonic() - started, model_dir)


def open_loader(cfg: configs.DatasetConfig, model: configs.EncoderDecoderModel, seed: int) -> loader.TrainLoader:
    """Opens the endless, packed stream of a dataset configuration, this host's part of it."""
    catalogue = mixtures.Catalogue.from_modules(cfg.module)
    lengths = dict(cfg.task_feature_lengths)
    chosen = seed if cfg.seed is None else cfg.seed
    mixture = catalogue.open(
        cfg.mixture_or_task_name,
        data_dir=sources.resolve_data_dir(cfg.data_dir),
        split=cfg.split,
        tokenizer=vocabulary.Tokenizer(model.input_vocabulary),
        lengths=lengths,
        seed=chosen,
        missing=cfg.missing,
        shuffle=cfg.shuffle,
    )
    return loader.TrainLoader(
        mixture,
        lengths=lengths,
        batch_size=cfg.batch_size,
        seed=chosen,
        pack=cfg.pack,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def initial_state(
    model: configs.EncoderDecoderModel,
    optimizer: Any,
    shapes: state.TrainState,
    places: state.TrainState,
    checkpoint_cfg: configs.CheckpointConfig,
    checkpoints: manager.CheckpointManager,
    seed: int,
) -> tuple[state.TrainState, Any]:
    """Restores or creates the first state, in the order that `manager.resolve_restore` states.

    Returns:
      The state on its devices, and the data position where the run continues its own checkpoint, else None.
    """
    restore = checkpoint_cfg.restore
    decision = manager.resolve_restore(
        checkpoints.directory,
        restore.path if restore else None,
        restore.mode if restore else "latest",
        fallback_to_scratch=restore is None or restore.fallback_to_scratch,
    )
    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, places
    )
    if decision.source == "model_dir":
        tree, position = checkpoints.restore(placed.checkpoint_tree())
        logger.info("continuing %s from step %d", checkpoints.directory, int(tree["state"]["step"]))
        return state.TrainState.from_checkpoint_tree(tree), position
    create = functools.partial(state.create, model.config, optimizer)
    if decision.path is not None and restore is not None:
        logger.info("starting from %s", decision.path)
        if not restore.params_only:
            return state.TrainState.from_checkpoint_tree(
                manager.restore_from(decision.path, placed.checkpoint_tree())
            ), None
        params = manager.restore_from(decision.path, placed.checkpoint_tree(), params_only=True)["target"]
        fresh = jax.jit(create, out_shardings=places)(jax.random.key(seed))
        return state.TrainState(fresh.step, params, fresh.opt_state), None
    logger.info("starting from random parameters")
    return jax.jit(create, out_shardings=places)(jax.random.key(seed)), None


def write_run_files(model_dir: str, model: configs.EncoderDecoderModel, params: Any, places: Any) -> None:
    """Writes `config.gin` (the whole configuration, defaults included) and `model-info.txt` (every parameter)."""
    if jax.process_index() != 0:
        return
    os.makedirs(model_dir, exist_ok=True)
    with open(os.path.join(model_dir, "config.gin"), "w", encoding="utf-8") as file:
        file.write(config_lib.config_str())
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    lines = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/'):70} {leaf.size:>14,} {leaf.shape!s:24} {where.spec}"
        for (path, leaf), where in zip(flat, jax.tree.leaves(places), strict=True)
    ]
    lines.append(f"total parameters: {api.num_params(model.config):,}")
    with open(os.path.join(model_dir, "model-info.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def to_global(where: Any, features: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: jax.make_array_from_process_local_data(where, value) for name, value in features.items()}


def compile_step(
    model: configs.EncoderDecoderModel,
    optimizer: Any,
    trainer: configs.Trainer,
    places: state.TrainState,
    shapes: state.TrainState,
    mesh: Any,
    key: jax.Array,
    cfg: configs.DatasetConfig,
) -> tuple[Any, float]:
    """Compiles the update for the shapes of the run; returns it and the seconds that took."""
    began = time.monotonic()
    where = sharding.batch_sharding(mesh)
    update = step.make_train_step(model, optimizer, trainer.learning_rate_fn, trainer.num_microbatches)
    jitted = jax.jit(
        update,
        in_shardings=(places, where, sharding.replicated(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    batch = {
        name: jax.ShapeDtypeStruct((cfg.batch_size, length), "int32", sharding=where)
        for name, length in loader.feature_lengths(dict(cfg.task_feature_lengths), cfg.pack).items()
    }
    placed = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, places)
    compiled = jitted.lower(placed, batch, key).compile()
    seconds = time.monotonic() - began
    logger.info("compiled the training step in %.1f s", seconds)
    return compiled, seconds


def _evaluate(
    held_back_loss: Callable[[int, state.TrainState], None],
    model: configs.EncoderDecoderModel,
    mesh: Any,
    model_dir: str,
    cfg: configs.DatasetConfig | None,
    at: int,
    now: state.TrainState,
) -> None:
    """What runs at every evaluation: the loss on held-back rows, and answering tasks."""
    held_back_loss(at, now)
    if cfg is not None:
        folder = os.path.join(model_dir, "inference_eval")
        eval_lib.evaluate_params(model, now.params, cfg, folder, step=at, mesh=mesh)


def _writer(directory: str, start: int, opened: contextlib.ExitStack) -> Callable[[int, Mapping[str, float]], None]:
    writer = metrics.Writer(directory, continues=start)
    opened.callback(writer.close)
    return writer.write


def _held_back_loss(
    model: configs.EncoderDecoderModel,
    mesh: Any,
    model_dir: str,
    cfg: configs.DatasetConfig | None,
    batches: int,
    seed: int,
    start: int,
    opened: contextlib.ExitStack,
) -> Callable[[int, state.TrainState], None]:
    """Builds (step, state) -> None that writes the loss on the first `batches` batches of `cfg`, the same every time."""
    if cfg is None or not batches:
        return lambda at, now: None
    where = sharding.batch_sharding(mesh)
    eval_step = jax.jit(step.make_eval_step(model))
    stream = iter(open_loader(cfg, model, seed))
    held = [next(stream).features for _ in range(batches)]  # they are few, so they are kept
    write = _writer(os.path.join(model_dir, "training_eval", cfg.mixture_or_task_name), start, opened)

    def evaluate(at: int, now: state.TrainState) -> None:
        sums = metrics.Accumulator()
        for features in held:
            sums.add(jax.device_get(eval_step(now.params, to_global(where, features))))
        tags = sums.take()
        write(at, tags)
        logger.info("step %d: held-back loss %.4f a target token", at, tags["loss_per_target_token"])

    return evaluate


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m flan_jax.train` and `flan train`."""
    about = "Trains a model, or continues the run in MODEL_DIR."
    return launch.run("train_script.train", "flan train", about, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
