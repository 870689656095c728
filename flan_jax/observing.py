"""What a training run is watched by: which task a token is of, what its devices can do, whether steps go on."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from flan_jax import watchdog
from flan_jax.data import cache_read, features, loader
from flan_jax.models import flops
from flan_jax.planning import slices
from flan_jax.training import adapters, configs, figures, loop, metrics, nonfinite, state, tracing

logger = logging.getLogger(__name__)


Loader = loader.TrainLoader | cache_read.CachedLoader


class Observer:
    """Knows the tasks of what a run reads, and runs the loop under watch."""

    def __init__(
        self, of: Loader, loss_by_task: bool = True, profile_steps: str | None = None, step_limit: float = 0.0
    ) -> None:
        """Args:
          of: what is read.
          loss_by_task: whether the step also sums the loss by task.
          profile_steps: see `tracing.parse`.
          step_limit: see `watchdog.Watchdog`.

        Raises:
          FlanError: `profile_steps` is not FROM:TO.
        """
        self._loader, self._limit = of, step_limit
        self._traced = tracing.parse(profile_steps) if profile_steps else None
        # Room for the tasks, a power of two: runs on mixtures of like size share a compiled step.
        self.tasks = 1 << max(len(of.tasks) - 1, 63).bit_length() if loss_by_task else 0

    def batches(self) -> Iterator[Any]:
        """What is read; where the loss is summed by task, every token says of which task it is."""
        for batch in self._loader:
            if not self.tasks:
                yield batch
                continue
            ids = features.task_ids(batch.features, batch.tasks)
            yield dataclasses.replace(batch, features={**batch.features, "decoder_task_ids": ids})

    def sums(self) -> metrics.Accumulator:
        """What adds up metrics that may be by task."""
        return metrics.Accumulator(self._loader.tasks, self._loader.clusters)

    def guard(self, trainer: configs.Trainer) -> nonfinite.Guard:
        """What looks whether steps are finite."""
        return nonfinite.Guard(self._loader.tasks, skip=trainer.nonfinite == "skip")

    def run(
        self,
        compiled: Any,
        first: state.TrainState,
        put: Callable[[Mapping[str, Any]], Any],
        key: jax.Array,
        schedule: loop.Schedule,
        hooks: loop.Hooks,
        about: figures.Figures,
        directory: str,
    ) -> state.TrainState:
        """`loop.run`, with batches read ahead, the watchdog, and a trace into `directory` if one is asked for."""
        if self.tasks and not any(self._loader.clusters):
            logger.info("the loss is reported by task and not by cluster: what is read does not say the clusters")
        with contextlib.ExitStack() as opened:
            batches = opened.enter_context(contextlib.closing(loader.prefetch(self.batches())))
            if self._traced is not None:
                compiled = tracing.Tracer(compiled, schedule.start, self._traced, directory)
                opened.callback(compiled.close)
            hooks = _watched(hooks, self._limit, opened)
            return loop.run(compiled, first, batches, put, key, schedule, hooks, self.sums(), about)


def run_figures(
    model: configs.Model,
    cfg: configs.DatasetConfig,
    tuning: adapters.Tuning | None,
    before: Mapping[str, float],
) -> figures.Figures:
    """What the devices can do and what a step asks of them."""
    lengths = loader.feature_lengths({"inputs": 1, **cfg.task_feature_lengths}, cfg.pack, model.feature_converter)
    sizes = (cfg.batch_size, lengths.get("encoder_input_tokens", 0), lengths["decoder_target_tokens"])
    # With an adapter the frozen parameters have no gradients: backward is as much as forward.
    work = 2 * flops.forward(model.config, *sizes) if tuning else flops.train_step(model.config, *sizes)
    where = slices.own_devices()
    peak = slices.peak_of(where)
    return figures.Figures(work, peak, where.chips, before)


def _watched(hooks: loop.Hooks, limit: float, opened: contextlib.ExitStack) -> loop.Hooks:
    """The hooks, with a watchdog that hears of every step and pauses while there are none."""
    dog = watchdog.Watchdog(limit, who=f"process {jax.process_index()}" if jax.process_count() > 1 else "")
    opened.callback(dog.close)

    def stopping(at: int) -> bool:
        dog.beat(at)
        return hooks.stopping(at)

    def paused(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any) -> Any:
            with dog.paused():
                return call(*arguments)

        return inner

    return dataclasses.replace(hooks, stopping=stopping, evaluate=paused(hooks.evaluate), save=paused(hooks.save))
