"""The training loop: dispatches steps, reads their metrics one step late, and calls what is due in between."""

import collections
import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from flan_jax import preemption
from flan_jax import progress as progress_lib
from flan_jax.training import figures, metrics, nonfinite, state

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What happens when, in steps.

    Attributes:
      start: steps done before this loop.
      total: steps done at its end.
      stats_period: between two lines of metrics.
      eval_period: between two evaluations; 0 for none.
      save_period: between two checkpoints; 0 for none.
    """

    start: int
    total: int
    stats_period: int
    eval_period: int = 0
    save_period: int = 0


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls.

    Attributes:
      stats: (step, tags) when metrics are due.
      evaluate: (step, state) when evaluation is due, and at the end.
      save: (step, state, data position) when a checkpoint is due, and at the end.
      stopping: (step) after every step: whether to save and leave the rest to another run.
      counts: (step, sums, examples of each task) of every step: see `nonfinite.Guard.counts`.
    """

    stats: Callable[[int, Mapping[str, float]], object]
    evaluate: Callable[[int, state.TrainState], object]
    save: Callable[[int, state.TrainState, Any], object]
    stopping: Callable[[int], bool] = lambda step: False
    counts: Callable[[int, Mapping[str, Any], Any], bool] = nonfinite.Guard().counts


def run(
    step_fn: Callable[[state.TrainState, Any, jax.Array], tuple[state.TrainState, Any]],
    first: state.TrainState,
    batches: Iterator[Any],
    put: Callable[[Mapping[str, Any]], Any],
    key: jax.Array,
    schedule: Schedule,
    hooks: Hooks,
    sums: metrics.Accumulator | None = None,
    about: figures.Figures | None = None,
) -> state.TrainState:
    """Trains from `schedule.start` to `schedule.total`.

    The device is never waited for on the way: after step n is dispatched, the metrics of step n - 1 are read. Only an
    evaluation, a checkpoint and the end wait for the step they belong to.

    Args:
      step_fn: compiled; its state argument is donated.
      first: the state to start from.
      batches: `loader.Batch`es, from the one of step `schedule.start` on.
      put: turns a host's features into global arrays.
      key: the run's random key.
      schedule: see `Schedule`.
      hooks: see `Hooks`.
      sums: adds metrics up; it knows the tasks, where the loss is summed by them.
      about: what rates and shares of time are computed with.

    Returns:
      The state after the last step: of `schedule.total`, or the one at which it was stopped.
    """
    current, pending = first, None
    meter = _Meter(schedule, hooks, sums or metrics.Accumulator(), about or figures.Figures())
    if schedule.start < schedule.total:
        batches = _started(batches, schedule.start, hooks, meter)
    with progress_lib.Progress("train", schedule.total, start=schedule.start) as bar:
        for step in range(schedule.start + 1, schedule.total + 1):
            waited = time.monotonic()
            batch = next(batches)
            features = put(batch.features)
            meter.waited(time.monotonic() - waited)
            current, found = step_fn(current, features, key)
            if pending is not None:
                bar.advance(1, **meter.finished(*pending))
            pending = (step, found, batch)
            stop, last = hooks.stopping(step), step == schedule.total
            due_save = last or stop or (schedule.save_period > 0 and step % schedule.save_period == 0)
            due_eval = schedule.eval_period > 0 and not stop and (last or step % schedule.eval_period == 0)
            if due_save or due_eval:
                bar.advance(1, **meter.finished(*pending))
                pending = None
                with meter.paused():
                    stop = (due_eval and not _evaluated(step, current, hooks, meter)) or stop
                    if due_save or stop:
                        with _timed("checkpoint", step, hooks, meter):
                            hooks.save(step, current, batch.state)
            if stop:
                meter.written(step)
                logger.info("stopped after step %d of %d: the same command goes on from here", step, schedule.total)
                break
    return current


def _evaluated(step: int, current: state.TrainState, hooks: Hooks, meter: "_Meter") -> bool:
    """Evaluates; False where the run is to end meanwhile: the time that is left is for saving."""
    try:
        with _timed("evaluate", step, hooks, meter):
            hooks.evaluate(step, current)
    except preemption.Stopped:
        logger.warning("the evaluation of step %d was broken off; `flan eval` evaluates its checkpoint", step)
        return False
    return True


def _started(batches: Iterator[Any], step: int, hooks: Hooks, meter: "_Meter") -> Iterator[Any]:
    """Waits for the first batch, which takes longer than any later one: opening files, filling the packers."""
    began = time.monotonic()
    first = next(batches)
    seconds = time.monotonic() - began
    hooks.stats(step, {"timing/train_iter_warmup": seconds})
    meter.paused_for("data_wait", seconds)
    return itertools.chain([first], batches)


@contextlib.contextmanager
def _timed(what: str, step: int, hooks: Hooks, meter: "_Meter") -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        meter.spent(what, time.monotonic() - began)
    hooks.stats(step, {f"timing/{what}_seconds": time.monotonic() - began})


class _Meter:
    """Adds metrics up and turns them, with the time they took, into tags."""

    def __init__(self, schedule: Schedule, hooks: Hooks, sums: metrics.Accumulator, about: figures.Figures) -> None:
        self._schedule, self._hooks = schedule, hooks
        self._sums, self._about = sums, about
        self._tokens = self._rows = self._target_tokens = self._steps = 0
        self._started, self._waited = time.monotonic(), 0.0
        self._began, self._spent = self._started, collections.defaultdict(float, about.before)
        self._all_tokens, self._earlier = 0, 0.0  # of the whole loop, and its seconds before `_started`

    def waited(self, seconds: float) -> None:
        """Counts waiting for data. Up to a step of it costs nothing, since the devices still have one to do."""
        self._waited += seconds
        self.spent("data_wait", seconds)

    def spent(self, what: str, seconds: float) -> None:
        """Counts time that is not steps' to what it was spent on."""
        self._spent[what] += seconds

    def paused_for(self, what: str, seconds: float) -> None:
        self.spent(what, seconds)
        self.shift(seconds)

    def paused(self) -> "_Pause":
        return _Pause(self)

    def shift(self, seconds: float) -> None:
        """Leaves time out of the count: an evaluation or a checkpoint is not training."""
        self._started += seconds

    def finished(self, step: int, sums: Mapping[str, Any], batch: Any) -> dict[str, float]:
        """Takes a step's metrics in; returns what the progress bar shows."""
        sums, shape = jax.device_get(dict(sums)), batch.features["decoder_target_tokens"].shape
        if self._hooks.counts(step, sums, batch.examples):
            self._sums.add(sums)
        self._steps += 1
        self._tokens += batch.tokens
        self._all_tokens += batch.tokens
        self._rows += shape[0]
        self._target_tokens += shape[0] * shape[1]
        seconds = max(time.monotonic() - self._started, 1e-9)
        # The rate over the whole loop: the one since the last line of metrics jumps while few steps are in it.
        rate = self._all_tokens * jax.process_count() / (self._earlier + seconds)
        shown = {"loss": float(sums["undivided_loss"] / sums["weights"]), "tokens/s": rate}
        if step % self._schedule.stats_period == 0 or step == self._schedule.total:
            self._write(step, seconds)
        return shown

    def written(self, step: int) -> None:
        """Writes what a run that ends early has not written yet."""
        if self._steps:
            self._write(step, max(time.monotonic() - self._started, 1e-9))

    def _write(self, step: int, seconds: float) -> None:
        steps, left_out = self._steps, self._steps - self._sums.steps
        rows, targets = self._rows * jax.process_count(), self._target_tokens * jax.process_count()
        tokens = self._tokens * jax.process_count()
        tags = self._sums.take() if self._sums.steps else {}
        if left_out:
            tags["updates_left_out"] = float(left_out)
        tags |= {
            "timing/seconds": seconds,
            "timing/steps_per_second": steps / seconds,
            "timing/seqs": rows,
            "timing/seqs_per_second": rows / seconds,
            "timing/seqs_per_second_per_core": rows / seconds / jax.device_count(),
            "timing/target_tokens_per_second": targets / seconds,
            "timing/target_tokens_per_second_per_core": targets / seconds / jax.device_count(),
            "timing/real_tokens_per_second": tokens / seconds,
            "timing/data_wait_seconds": self._waited,
            **self._about.rates(steps, tokens, seconds),
            **figures.goodput(self._spent, sum(self._about.before.values()) + time.monotonic() - self._began),
            **figures.memory(),
        }
        self._hooks.stats(step, tags)
        self._tokens = self._rows = self._target_tokens = self._steps = 0
        self._earlier += seconds
        self._started, self._waited = time.monotonic(), 0.0


class _Pause:
    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._meter.shift(time.monotonic() - self._began)
