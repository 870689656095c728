"""What a run writes about itself: scalar tags as t5x names them, in TensorBoard files and as JSON lines."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flan_jax.training import loss

METRICS_FILE = "metrics.jsonl"


class Accumulator:
    """Adds the sums of steps up, on the host, until they are written."""

    def __init__(self, tasks: Sequence[str] = (), clusters: Sequence[str | None] = ()) -> None:
        """Args:
        tasks: the names of what `task_loss` and `task_weights` are summed by; they may have room for more.
        clusters: of each task the cluster, if it has one.
        """
        self._sums: dict[str, Any] = {}
        self._tasks, self._clusters = tasks, clusters
        self.steps = 0

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds one step's sums, which are on the host."""
        for name, value in sums.items():
            number = np.asarray(value, np.float64)
            self._sums[name] = number if name == "learning_rate" else self._sums.get(name, 0.0) + number
        self.steps += 1

    def take(self) -> dict[str, float]:
        """Returns the tags over the steps added since the last call, and starts anew."""
        sums = dict(self._sums)
        by_task = self._by_task(sums.pop("task_loss", None), sums.pop("task_weights", None))
        rate, norm = sums.pop("learning_rate", None), sums.pop("gradient_norm", None)
        sums.pop("nonfinite", None)
        undivided = sums.pop("undivided_loss")
        tags = {name: float(value) for name, value in loss.scalars(_arrays(sums), self.steps).items()}
        tags["loss_per_target_token"] = float(undivided / sums["weights"])
        if rate is not None:
            tags["learning_rate"] = float(rate)
        if norm is not None:
            tags["gradient_norm"] = float(norm / self.steps)
        self._sums, self.steps = {}, 0
        return tags | by_task

    def _by_task(self, losses: Any, weights: Any) -> dict[str, float]:
        """The loss a target token of each task and of each cluster that was there."""
        if losses is None:
            return {}
        found: dict[str, list[float]] = {}
        for number in np.flatnonzero(weights).tolist():
            names = [f"loss_by_task/{self._tasks[number]}"]
            if number < len(self._clusters) and self._clusters[number]:
                names.append(f"loss_by_cluster/{self._clusters[number]}")
            for name in names:
                total = found.setdefault(name, [0.0, 0.0])
                total[0] += float(losses[number])
                total[1] += float(weights[number])
        return {name: loss / weight for name, (loss, weight) in found.items()}


def _arrays(sums: Mapping[str, float]) -> dict[str, Any]:
    return {name: np.float32(value) for name, value in sums.items()}


class Writer:
    """Writes scalars under a directory, by process 0 only."""

    def __init__(self, directory: str, continues: int = 0) -> None:
        """Args:
        directory: made if absent; what an earlier run wrote there is kept.
        continues: the step that the run goes on from; TensorBoard then hides what was written of later ones before.
        """
        self._events: Any = None
        self._lines: Any = None
        if jax.process_index() == 0:
            import tensorboardX

            os.makedirs(directory, exist_ok=True)
            path = os.path.join(directory, METRICS_FILE)
            _drop_half_line(path)
            # Files are named by the second; one of the same name would be overwritten.
            self._events = tensorboardX.SummaryWriter(
                directory, purge_step=continues + 1 if continues else None, filename_suffix=f".{continues}"
            )
            self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115  (held for the run)

    def write(self, step: int, tags: Mapping[str, float]) -> None:
        """Writes tags at a step."""
        if self._events is None:
            return
        for name, value in tags.items():
            self._events.add_scalar(name, value, step)
        self._lines.write(json.dumps({"step": step, **tags}) + "\n")
        self._lines.flush()
        self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._lines.close()


def _drop_half_line(path: str) -> None:
    """Cuts off what a killed run began to write, so that the next line starts on its own."""
    if not os.path.exists(path):
        return
    with open(path, "r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def read(directory: str) -> list[dict[str, float]]:
    """Reads what `Writer` wrote: one entry a step, in order.

    A step may have several lines, with a tag in each; where one was written twice, by a run and by its restart, the later
    value counts.
    """
    path = os.path.join(directory, METRICS_FILE)
    by_step: dict[int, dict[str, float]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # a killed run may leave half a line
                entry = json.loads(line)
                by_step.setdefault(int(entry["step"]), {}).update(entry)
    return [by_step[step] for step in sorted(by_step)]
