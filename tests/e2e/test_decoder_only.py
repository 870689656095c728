"""The decoder-only demo: it learns, goes on after a kill as if there had been none, and answers what it is asked."""

import json
import pathlib
import signal
import time

import numpy as np
import pytest

from flan_jax import cli
from flan_jax.checkpoint import manager
from flan_jax.models import presets
from flan_jax.training import metrics, optim, state
from tests.e2e import demo_runs

STEPS = 12
SETTINGS = {
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 16},
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": STEPS,
    "EVAL_STEPS": 1,
    "CHECKPOINT_PERIOD": 5,
    "LEARNING_RATE": 0.03,
    "DROPOUT_RATE": 0.1,
    "trainer.Trainer.num_microbatches": 2,
    "train_script.train.stats_period": 1,
    "network.TransformerConfig.num_layers": 1,
}
pytestmark = pytest.mark.slow


def flags(recipe: str, data_dir: str, **settings) -> list[str]:
    bound = [f"--gin.{name.replace('__', '.')}={value!r}" for name, value in settings.items()]
    return [f"--gin_file=recipes/{recipe}.gin", f"--tfds_data_dir={data_dir}", *bound]


def final_state(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
    config = presets.decoder_only_config("t5x_tiny", vocab_size=8192, num_layers=1)
    shapes = state.abstract(config, optim.Adafactor())
    tree = manager.restore_from(model_dir / f"checkpoint_{STEPS}", shapes.checkpoint_tree())
    return dict(demo_runs._flat(tree, ""))


def losses(model_dir: pathlib.Path) -> list[float]:
    return [line["loss_per_target_token"] for line in metrics.read(str(model_dir / "train")) if "accuracy" in line]


@pytest.fixture(scope="module")
def start(launch, sample_dir):
    def start_run(model_dir):
        given = flags("decoder_only_demo", sample_dir, MODEL_DIR=str(model_dir), **SETTINGS)
        return launch(["train", *given], model_dir.with_suffix(".log"))

    return start_run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, start) -> pathlib.Path:
    model_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    demo_runs.finish(start(model_dir), model_dir)
    return model_dir


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, start, uninterrupted) -> pathlib.Path:
    model_dir = tmp_path_factory.mktemp("interrupted") / "run"
    process, deadline = start(model_dir), time.monotonic() + demo_runs.PATIENCE
    # Two steps behind the first checkpoint, so that the restart redoes some.
    while not (model_dir / "train" / metrics.METRICS_FILE).exists() or len(losses(model_dir)) < 7:
        assert process.poll() is None, model_dir.with_suffix(".log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(demo_runs.PATIENCE) == -signal.SIGKILL
    demo_runs.finish(start(model_dir), model_dir)
    return model_dir


def test_the_loss_falls(uninterrupted):
    found = losses(uninterrupted)
    assert len(found) == STEPS
    # A model that knows nothing pays ln(8192) = 9.01 nats.
    assert abs(found[0] - np.log(8192)) < 1.0
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.5
    (held,) = metrics.read(str(uninterrupted / "training_eval" / "flan_minus_nli_10templates"))
    assert held["loss_per_target_token"] < found[0]
    info = (uninterrupted / "model-info.txt").read_text().splitlines()
    assert len(info) - 1 == sum(name.startswith("/target") for name in final_state(uninterrupted))


def test_a_killed_run_ends_where_the_uninterrupted_one_does(uninterrupted, interrupted):
    log = interrupted.with_suffix(".log").read_text()
    assert "continuing" in log, log
    demo_runs.assert_same(final_state(uninterrupted), final_state(interrupted))
    assert losses(uninterrupted) == losses(interrupted)
    assert demo_runs.data_position(uninterrupted, STEPS) == demo_runs.data_position(interrupted, STEPS)


@pytest.mark.parametrize(("task", "scored"), [("rte_type_0_scoring_eval", True), ("natural_questions_type_0", False)])
def test_its_checkpoint_is_evaluated(uninterrupted, sample_dir, tmp_path, task, scored):
    given = flags(
        "decoder_only_demo_eval",
        sample_dir,
        CHECKPOINT_PATH=str(uninterrupted),
        EVAL_OUTPUT_DIR=str(tmp_path),
        EVAL_MIXTURE=task,
        EVAL_EXAMPLES=3,
        BATCH_SIZE=8,
        TASK_FEATURE_LENGTHS=SETTINGS["TASK_FEATURE_LENGTHS"],
        network__TransformerConfig__num_layers=1,
    )
    assert cli.main(["eval", *given]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["step"], found["split"]) == (STEPS, "test")
    (file,) = tmp_path.glob(f"{task}-0*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        if scored:
            assert len(line["scores"]) == len(line["options"])
            assert line["output"] == line["options"][int(np.argmax(line["scores"]))]
        else:
            assert isinstance(line["output"], str)
