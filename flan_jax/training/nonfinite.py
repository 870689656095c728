"""A step whose loss or gradient is not finite: the run stops, or the update is left out and the run says so."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors

logger = logging.getLogger(__name__)

IN_A_ROW = 10  # updates left out one after the other: nothing will come of that run
_NAMED = 8  # tasks in a message


class Guard:
    """Looks at the sums of every step. All processes see the same ones, so they stop at the same step."""

    def __init__(self, tasks: Sequence[str] = (), *, skip: bool = False) -> None:
        """Args:
        tasks: their names, in the order of `Batch.examples` and of `task_weights`.
        skip: go on: the step itself has left the update out (`make_train_step(skip_nonfinite=True)`).
        """
        self._tasks, self._skip = tasks, skip
        self._in_a_row = 0

    def counts(self, step: int, sums: Mapping[str, Any], examples: Any) -> bool:
        """Whether a step's sums belong in the metrics: False where its update was left out.

        Args:
          step: its number.
          sums: of `make_train_step`, on the host.
          examples: [tasks] of this host's rows; read where `sums` has no `task_weights`.

        Raises:
          FlanError: they are not finite and the run is not to go on, or it has gone on too often in a row.
        """
        if not sums["nonfinite"]:
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        said = f"step {step}: {_what(sums)}; {self._batch(sums, examples)}"
        if not self._skip:
            raise errors.FlanError(
                f"{said}. Nothing of this step is saved: the same command goes on from the last checkpoint, and with "
                "trainer.Trainer.nonfinite = 'skip' it leaves such updates out"
            )
        if self._in_a_row >= IN_A_ROW:
            raise errors.FlanError(f"{said}. That makes {IN_A_ROW} updates in a row that were left out")
        logger.warning("%s: the update is left out", said)
        return False

    def _batch(self, sums: Mapping[str, Any], examples: Any) -> str:
        if "task_weights" not in sums:
            there = np.flatnonzero(np.asarray(examples))
            return f"tasks of this host's rows: {self._names(there)}"
        weights, losses = np.asarray(sums["task_weights"]), np.asarray(sums["task_loss"])
        there, bad = np.flatnonzero(weights), np.flatnonzero(~np.isfinite(losses))
        # Not finite in all of them: the parameters are.
        apart = f"; not finite in {self._names(bad)}" if 0 < len(bad) < len(there) else ""
        return f"tasks in the batch: {self._names(there)}{apart}"

    def _names(self, numbers: Any) -> str:
        names = [self._tasks[int(number)] if number < len(self._tasks) else f"task {number}" for number in numbers]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more


def _what(sums: Mapping[str, Any]) -> str:
    loss, norm = float(sums["loss"]), float(sums["gradient_norm"])
    return f"the loss is {loss}" if not np.isfinite(loss) else f"the loss is {loss:.4g}, the gradient's norm {norm}"
