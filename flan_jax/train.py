"""Training: `python -m flan_jax.train --gin_file=...`, which is `flan train`. Read `train` from top to bottom."""

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from flan_jax import config as config_lib
from flan_jax import distributed, errors, hosts, launch, observing, preemption, sharding
from flan_jax import eval as eval_lib
from flan_jax.checkpoint import adapted, manager
from flan_jax.data import cache_read, loader, loader_processes, row_request
from flan_jax.models import api
from flan_jax.training import (
    adapters,
    configs,
    figures,
    loop,
    metrics,
    program,
    state,
    step,
)

logger = logging.getLogger(__name__)


def train(
    model: configs.Model,
    train_dataset_cfg: configs.DatasetConfig,
    checkpoint_cfg: configs.CheckpointConfig,
    partitioner: configs.Partitioner,
    trainer_cls: Callable[[], configs.Trainer],
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
    adapter: adapters.Adapter | None = None,
    loss_by_task: bool = True,
    profile_steps: str | None = None,
    step_limit: float = 900.0,
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
      adapter: `@adapters.LoRA()` or `@adapters.PromptTuning()`: trains this alone, on the frozen parameters of
        `checkpoint_cfg.restore`; steps count from 0.
      loss_by_task: also report the loss of each task and cluster, summed inside the step.
      profile_steps: `FROM:TO` (`--profile_steps`): write a profiler trace of these steps to MODEL_DIR/train.
      step_limit: seconds after which a step that is not followed by another has the stacks of all threads printed; 0 never.

    Raises:
      FlanError: for anything in the configuration or the data that the user can mend.
    """
    started = time.monotonic()
    seed = random_seed or 0
    model_dir = os.path.abspath(os.path.expanduser(model_dir)) if "://" not in model_dir else model_dir

    # --- What to train: model, optimizer, mesh ---
    mesh = partitioner.mesh()
    optimizer = model.optimizer_def.with_axes(state.trained_axes(model.config, adapter))
    shapes = state.abstract(model.config, optimizer, adapter)
    places = state.shardings(model.config, optimizer, mesh, partitioner.rules, adapter)
    tuning = adapted.open_base(adapter, model.config, checkpoint_cfg.restore, mesh, partitioner.rules)

    # --- What to train on ---
    train_loader = open_loader(train_dataset_cfg, model, seed)
    distributed.compare("data", train_loader.identity)
    watch = observing.Observer(train_loader, loss_by_task, profile_steps, step_limit)

    save_cfg = checkpoint_cfg.save or configs.SaveCheckpointConfig()
    with contextlib.ExitStack() as opened:
        # --- Where to start from ---
        checkpoints = opened.enter_context(_checkpoints(model_dir, save_cfg, tuning))
        first, position = initial_state(model, optimizer, shapes, places, checkpoint_cfg, checkpoints, seed, tuning)
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
        put = functools.partial(to_global, sharding.batch_sharding(mesh, partitioner.rules))
        key = _random_key(seed, use_hardware_rng, mesh)
        opened.enter_context(sharding.use(mesh, partitioner.rules))
        trainer, rules = trainer_cls(), partitioner.rules
        compiled, seconds = compile_step(
            model, optimizer, trainer, places, shapes, mesh, key, train_dataset_cfg, tuning, rules, watch.tasks
        )
        ready = time.monotonic() - started - seconds
        write = _writer(os.path.join(model_dir, "train"), start, opened)
        write(start, {"timing/compilation_seconds": seconds, "timing/init_or_restore_seconds": ready})
        held_back = _held_back_loss(
            model, mesh, model_dir, train_eval_dataset_cfg, eval_steps, seed, start, opened, loss_by_task
        )
        evaluate = functools.partial(_evaluate, held_back, model, mesh, model_dir, infer_eval_dataset_cfg, tuning)
        evaluated = figures.seconds_of(evaluate, start, first) if run_eval_before_training else 0.0

        # --- The steps ---
        preemption.defer()
        lines = stats_period or min(100, eval_period or 100)
        schedule = loop.Schedule(start, total, stats_period=lines, eval_period=eval_period, save_period=save_cfg.period)
        save = functools.partial(_save, checkpoints, train_loader)
        hooks = loop.Hooks(write, evaluate, save, stopping=preemption.requested, counts=watch.guard(trainer).counts)
        before = {"compile": seconds, "evaluate": evaluated, "start": time.monotonic() - started - seconds - evaluated}
        about = observing.run_figures(model, train_dataset_cfg, tuning, before)
        last = watch.run(compiled, first, put, key, schedule, hooks, about, os.path.join(model_dir, "train"))
    logger.info("trained to step %d in %.0f s: %s", int(last.step), time.monotonic() - started, model_dir)


def open_loader(
    cfg: configs.DatasetConfig, model: configs.Model, seed: int
) -> loader.TrainLoader | cache_read.CachedLoader:
    """Opens the endless, packed stream of a dataset configuration, this host's part of it."""
    # A language model's tasks may have no inputs ({'targets': 2048}); of inputs that a task has, only their end is read.
    lengths = {"inputs": 1, **cfg.task_feature_lengths}
    api.check_length(model.config, max(model.feature_converter.capacity(lengths)))
    if cfg.packed_cache:
        return cache_read.open_loader(
            cfg.packed_cache,
            mixture=cfg.mixture_or_task_name,
            split=cfg.split,
            lengths=cfg.task_feature_lengths,
            pack=cfg.pack,
            converter=model.feature_converter,
            vocabulary=model.input_vocabulary,
            batch_size=cfg.batch_size,
            seed=seed if cfg.seed is None else cfg.seed,
            shuffle=cfg.shuffle,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
    request = row_request.Request(
        cfg.mixture_or_task_name,
        module=cfg.module if cfg.module is None or isinstance(cfg.module, str) else tuple(cfg.module),
        data_dir=cfg.data_dir,
        vocabulary=model.input_vocabulary,
        inputs=lengths["inputs"],
        targets=lengths["targets"],
        split=cfg.split,
        seed=seed if cfg.seed is None else cfg.seed,
        shuffle=cfg.shuffle,
        pack=cfg.pack,
        missing=cfg.missing,
        converter=model.feature_converter,
        threads=1 if cfg.data_processes else 2,
    )
    return loader.TrainLoader(
        request.open(),
        lengths=request.lengths,
        batch_size=cfg.batch_size,
        seed=request.seed,
        pack=request.pack,
        converter=request.converter,
        host=jax.process_index(),
        hosts=jax.process_count(),
        source=loader_processes.Processes(request, cfg.data_processes) if cfg.data_processes else None,
    )


def _checkpoints(
    model_dir: str, cfg: configs.SaveCheckpointConfig, tuning: adapters.Tuning | None
) -> manager.CheckpointManager:
    notes = None if tuning is None else tuning.record
    return manager.CheckpointManager(model_dir, keep=cfg.keep, period=cfg.period, notes=notes)


def initial_state(
    model: configs.Model,
    optimizer: Any,
    shapes: state.TrainState,
    places: state.TrainState,
    checkpoint_cfg: configs.CheckpointConfig,
    checkpoints: manager.CheckpointManager,
    seed: int,
    tuning: adapters.Tuning | None = None,
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
    adapted.check(decision, tuning)
    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, places
    )
    if decision.source == "model_dir":
        tree, position = checkpoints.restore(placed.checkpoint_tree())
        logger.info("continuing %s from step %d", checkpoints.directory, int(tree["state"]["step"]))
        return state.TrainState.from_checkpoint_tree(tree), position
    create = functools.partial(state.create, model.config, optimizer)
    if tuning is not None:
        logger.info("adapting %s", tuning.record["base"]["path"])
        make = jax.jit(lambda rng, base: create(rng, tuning.adapter, base), out_shardings=places)
        return make(jax.random.key(seed), tuning.base), None
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


def write_run_files(model_dir: str, model: configs.Model, params: Any, places: Any) -> None:
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
    lines.append(f"total parameters: {sum(leaf.size for _, leaf in flat):,}")
    with open(os.path.join(model_dir, "model-info.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def to_global(where: Any, features: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: jax.make_array_from_process_local_data(where, value) for name, value in features.items()}


def compile_step(
    model: configs.Model,
    optimizer: Any,
    trainer: configs.Trainer,
    places: state.TrainState,
    shapes: state.TrainState,
    mesh: Any,
    key: jax.Array,
    cfg: configs.DatasetConfig,
    tuning: adapters.Tuning | None = None,
    rules: sharding.Rules = sharding.STANDARD_RULES,
    tasks: int = 0,
) -> tuple[Any, float]:
    """Compiles the update for the shapes of the run; returns it and the seconds that took."""
    began = time.monotonic()
    adapter, frozen = (tuning.adapter, (tuning.base,)) if tuning else (None, ())
    lengths = loader.feature_lengths(dict(cfg.task_feature_lengths), cfg.pack, model.feature_converter)
    if tasks:
        lengths["decoder_task_ids"] = lengths["decoder_target_tokens"]
    lowered = program.lower(
        model,
        optimizer,
        trainer,
        places,
        shapes,
        mesh,
        key,
        cfg.batch_size,
        lengths,
        rules=rules,
        adapter=adapter,
        frozen=frozen[0] if frozen else None,
        tasks=tasks,
    )
    compiled = lowered.compile()
    seconds = time.monotonic() - began
    logger.info("compiled the training step in %.1f s", seconds)
    return (lambda now, rows, at: compiled(now, rows, at, *frozen)) if frozen else compiled, seconds


def _random_key(seed: int, hardware: bool, mesh: Any) -> jax.Array:
    """The run's key, made by every process on its own devices: `device_put` reaches no others."""
    make = functools.partial(jax.random.key, seed, impl="rbg" if hardware else None)
    return jax.jit(make, out_shardings=sharding.replicated(mesh))()


def _save(checkpoints: manager.CheckpointManager, of: Any, at: int, now: state.TrainState, position: Any) -> None:
    """Saves the state, and the data position of all hosts."""
    checkpoints.save(at, now.checkpoint_tree(), of.merge(hosts.gather(position)), force=True)


def _evaluate(
    held_back_loss: Callable[[int, state.TrainState], None],
    model: configs.Model,
    mesh: Any,
    model_dir: str,
    cfg: configs.DatasetConfig | None,
    tuning: adapters.Tuning | None,
    at: int,
    now: state.TrainState,
) -> None:
    """What runs at every evaluation: the loss on held-back rows, and answering tasks."""
    if tuning is not None:
        now = dataclasses.replace(now, params=tuning.effective(now.params))
    held_back_loss(at, now)
    if cfg is not None:
        folder = os.path.join(model_dir, "inference_eval")
        found = eval_lib.evaluate_params(model, now.params, cfg, folder, step=at, mesh=mesh)
        for task in found["tasks"]:
            with contextlib.ExitStack() as opened:  # there may be hundreds of tasks, so their files are not held open
                write = _writer(os.path.join(folder, task["task"]), at, opened)
                write(at, {f"eval/{name}": value for name, value in task["values"].items()})


def _writer(directory: str, start: int, opened: contextlib.ExitStack) -> Callable[[int, Mapping[str, float]], None]:
    writer = metrics.Writer(directory, continues=start)
    opened.callback(writer.close)
    return writer.write


def _held_back_loss(
    model: configs.Model,
    mesh: Any,
    model_dir: str,
    cfg: configs.DatasetConfig | None,
    batches: int,
    seed: int,
    start: int,
    opened: contextlib.ExitStack,
    loss_by_task: bool = True,
) -> Callable[[int, state.TrainState], None]:
    """Builds (step, state) -> None that writes the loss on the first `batches` batches of `cfg`, the same every time."""
    if cfg is None or not batches:
        return lambda at, now: None
    where = sharding.batch_sharding(mesh)
    watch = observing.Observer(open_loader(cfg, model, seed), loss_by_task)
    eval_step = jax.jit(step.make_eval_step(model, watch.tasks))
    stream = watch.batches()
    held = [next(stream).features for _ in range(batches)]  # they are few, so they are kept
    write = _writer(os.path.join(model_dir, "training_eval", cfg.mixture_or_task_name), start, opened)

    def evaluate(at: int, now: state.TrainState) -> None:
        sums = watch.sums()
        for batch in held:
            preemption.check()
            sums.add(jax.device_get(eval_step(now.params, to_global(where, batch))))
        tags = sums.take()
        write(at, tags)
        logger.info("step %d: held-back loss %.4f a target token", at, tags["loss_per_target_token"])

    return evaluate


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m flan_jax.train` and `flan train`."""
    about = "Trains a model, or continues the run in MODEL_DIR."
    with preemption.handled():
        return launch.run("train_script.train", "flan train", about, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
