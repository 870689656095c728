"""What a run writes about itself: scalar tags as t5x names them, in TensorBoard files and as JSON lines."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flan_jax.training import loss

METRICS_FILE = "metrics.jsonl"


class Accumulator:
    """Adds the sums of steps up, on the host, until they are written."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self.steps = 0

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds one step's sums, which are on the host."""
        for name, value in sums.items():
            if name == "learning_rate":
                self._sums[name] = float(value)
            else:
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self.steps += 1

    def take(self) -> dict[str, float]:
        """Returns the tags over the steps added since the last call, and starts anew."""
        sums = dict(self._sums)
        rate = sums.pop("learning_rate", None)
        undivided = sums.pop("undivided_loss")
        tags = {name: float(value) for name, value in loss.scalars(_arrays(sums), self.steps).items()}
        tags["loss_per_target_token"] = undivided / sums["weights"]
        if rate is not None:
            tags["learning_rate"] = rate
        self._sums, self.steps = {}, 0
        return tags


def _arrays(sums: Mapping[str, float]) -> dict[str, Any]:
    return {name: np.float32(value) for name, value in sums.items()}


class Writer:
    """Writes scalars under a directory, by process 0 only."""

    def __init__(self, directory: str) -> None:
        self._events: Any = None
        self._lines: Any = None
        if jax.process_index() == 0:
            import tensorboardX

            os.makedirs(directory, exist_ok=True)
            self._events = tensorboardX.SummaryWriter(directory, write_to_disk=True)
            self._lines = open(os.path.join(directory, METRICS_FILE), "a", encoding="utf-8")  # noqa: SIM115  (held for the run)

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


def read(directory: str) -> list[dict[str, float]]:
    """Reads what `Writer` wrote, ordered by step; after a restart the later of two lines for a step counts."""
    path = os.path.join(directory, METRICS_FILE)
    by_step: dict[int, dict[str, float]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # a killed run may leave half a line
                entry = json.loads(line)
                by_step[int(entry["step"])] = entry
    return [by_step[step] for step in sorted(by_step)]
