"""gin/recipes/demo.gin, shrunk to what a test can afford: what the end-to-end tests run."""

import json
import pathlib
import struct
import subprocess
from typing import Any

import numpy as np

from flan_jax.checkpoint import manager
from flan_jax.models import presets
from flan_jax.training import optim, state

PATIENCE = 180.0  # seconds; a run takes about 15 on two free cores
RECIPE = "recipes/demo.gin"
SHRUNK = {
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 16},
    "EVAL_STEPS": 1,
    "train_script.train.stats_period": 1,
    "network.T5Config.num_encoder_layers": 1,
    "network.T5Config.num_decoder_layers": 1,
}


def flags(model_dir: pathlib.Path | str, data_dir: str, **settings: Any) -> list[str]:
    """What comes after `flan train`; a `__` in a name of `settings` stands for a dot."""
    bindings = {**SHRUNK, "MODEL_DIR": str(model_dir), **settings}
    bound = [f"--gin.{name.replace('__', '.')}={value!r}" for name, value in bindings.items()]
    return [f"--gin_file={RECIPE}", f"--tfds_data_dir={data_dir}", *bound]


def finish(process: subprocess.Popen, model_dir: pathlib.Path) -> None:
    """Waits for a run whose log stands beside its MODEL_DIR."""
    assert process.wait(PATIENCE) == 0, model_dir.with_suffix(".log").read_text()


def final_state(model_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its name."""
    config = presets.t5_config("tiny", vocab_size=8192, num_encoder_layers=1, num_decoder_layers=1)
    shapes = state.abstract(config, optim.Adafactor())
    tree = manager.restore_from(model_dir / f"checkpoint_{step}", shapes.checkpoint_tree())
    return dict(_flat(tree, ""))


def _flat(node: Any, name: str) -> list[tuple[str, np.ndarray]]:
    if isinstance(node, dict):
        return [pair for key in sorted(node) for pair in _flat(node[key], f"{name}/{key}")]
    return [(name, np.asarray(node))]


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    """Asserts that two states are equal bit for bit."""
    assert first.keys() == second.keys()
    differ = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert differ == []


def data_position(model_dir: pathlib.Path, step: int) -> Any:
    return json.loads((model_dir / f"checkpoint_{step}" / "dataset" / "metadata").read_text())


def events(directory: pathlib.Path) -> dict[str, dict[int, float]]:
    """Reads the TensorBoard files of a directory: tag -> step -> value."""
    from tensorboardX.proto import event_pb2

    found: dict[str, dict[int, float]] = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (size,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found
