"""Two processes of one device each are one run: one data position, one checkpoint, one answer to SIGTERM."""

import json
import pathlib
import signal
import socket
import time

import numpy as np
import pytest

from flan_jax.training import metrics
from tests.e2e import demo_runs


class Asked:
    """What a run answers and scores at every evaluation, as gin writes it."""

    def __repr__(self) -> str:
        return "@infer_eval/utils.DatasetConfig()"


SETTINGS = {
    "MIXTURE_OR_TASK_NAME": "sentiment_10templates",
    "TRAIN_STEPS": 100_000,
    "EVAL_PERIOD": 0,
    "CHECKPOINT_PERIOD": 3,
    "DROPOUT_RATE": 0.1,
    "train_script__train__run_eval_before_training": True,
    "train_script__train__infer_eval_dataset_cfg": Asked(),
}
ASKED = {
    "mixture_or_task_name": "rte_1templates",
    "task_feature_lengths": {"inputs": 64, "targets": 16},
    "split": "validation",
    "batch_size": 4,
    "shuffle": False,
    "pack": False,
    "module": "flan_jax.tasks.catalogue",
    "num_examples": 6,
}
SETTINGS |= {f"infer_eval/utils__DatasetConfig__{name}": value for name, value in ASKED.items()}
TWO_DEVICES = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"}
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def logs(model_dir: pathlib.Path) -> list[pathlib.Path]:
    return [model_dir.with_name(f"process_{number}.log") for number in (0, 1)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, launch, sample_dir) -> tuple[pathlib.Path, int]:
    """A run of two processes of which one is told to stop after the first checkpoint, and the step that it reached."""
    model_dir = tmp_path_factory.mktemp("two") / "run"
    address = f"127.0.0.1:{free_port()}"
    given = ["train", *demo_runs.flags(model_dir, sample_dir, **SETTINGS)]
    given += [f"--coordinator_address={address}", "--num_processes=2"]
    processes = [launch([*given, f"--process_id={n}"], log) for n, log in enumerate(logs(model_dir))]
    said = "\n".join
    deadline = time.monotonic() + demo_runs.PATIENCE
    while not any(model_dir.glob("checkpoint_3")):
        assert all(p.poll() is None for p in processes), said(log.read_text() for log in logs(model_dir))
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(demo_runs.PATIENCE) == 0, said(log.read_text() for log in logs(model_dir))
    return model_dir, max(int(path.name.rpartition("_")[2]) for path in model_dir.glob("checkpoint_*"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, launch, sample_dir, stopped) -> tuple[pathlib.Path, int]:
    """One process with both devices, two steps further, without a break."""
    model_dir, steps = tmp_path_factory.mktemp("one") / "run", stopped[1] + 2
    settings = {**SETTINGS, "TRAIN_STEPS": steps, "utils__SaveCheckpointConfig__keep": None, "CHECKPOINT_PERIOD": 1}
    given = ["train", *demo_runs.flags(model_dir, sample_dir, **settings)]
    demo_runs.finish(launch(given, model_dir.with_suffix(".log"), settings=TWO_DEVICES), model_dir)
    return model_dir, steps


def test_both_stop_at_the_step_that_they_save(stopped):
    model_dir, reached = stopped
    assert all(f"stopped after step {reached} of 100000" in log.read_text() for log in logs(model_dir))


def test_both_have_the_same_configuration_libraries_and_data(stopped):
    model_dir, _ = stopped
    for log in logs(model_dir):
        text = log.read_text()
        assert "configuration and versions: the same on all 2 processes" in text
        assert "data: the same on all 2 processes" in text


def test_the_saved_position_is_that_of_the_whole_batch(stopped, alone):
    (model_dir, reached), (other, _) = stopped, alone
    saved = demo_runs.data_position(model_dir, reached)
    assert len(saved["lanes"]) == 8
    assert saved == demo_runs.data_position(other, reached)


def losses(folder: pathlib.Path) -> dict[int, float]:
    lines = metrics.read(str(folder))
    return {int(line["step"]): line["loss_per_target_token"] for line in lines if "loss_per_target_token" in line}


def test_they_compute_what_one_process_does(stopped, alone):
    (model_dir, _), (other, _) = stopped, alone
    ours, theirs = losses(model_dir / "train"), losses(other / "train")
    assert len(ours) >= 4
    np.testing.assert_allclose(list(ours.values()), [theirs[step] for step in ours], rtol=1e-5)
    held_back = [losses(run / "training_eval" / "sentiment_10templates") for run in (model_dir, other)]
    assert held_back[0][0] == pytest.approx(held_back[1][0], rel=1e-5)


def test_they_answer_what_one_process_does(stopped, alone):
    folders = [run / "inference_eval" for run, _ in (stopped, alone)]
    ours, theirs = (json.loads((folder / "results.json").read_text())["scores"] for folder in folders)
    assert ours == theirs
    (line, *others), expected = (
        [json.loads(line) for line in (folder / "rte_type_0_scoring_eval-000000.jsonl").read_text().splitlines()]
        for folder in folders
    )
    assert len(others) == len(expected) - 1 == 5
    assert line["output"] == expected[0]["output"]
    np.testing.assert_allclose(line["scores"], expected[0]["scores"], rtol=1e-4)


def test_one_process_goes_on_where_two_stopped(stopped, alone, launch, sample_dir):
    (model_dir, _), (other, steps) = stopped, alone
    settings = {**SETTINGS, "TRAIN_STEPS": steps}
    given = ["train", *demo_runs.flags(model_dir, sample_dir, **settings)]
    demo_runs.finish(launch(given, model_dir.with_suffix(".log"), settings=TWO_DEVICES), model_dir)
    assert demo_runs.data_position(model_dir, steps) == demo_runs.data_position(other, steps)
    ours, theirs = losses(model_dir / "train"), losses(other / "train")
    assert sorted(ours) == sorted(theirs)
    np.testing.assert_allclose(list(ours.values()), [theirs[step] for step in ours], rtol=1e-5)
