"""A run that is killed and started again ends where the uninterrupted one does, to the bit."""

import pathlib
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from flan_jax import cli
from flan_jax.training import metrics
from tests.e2e import demo_runs

STEPS = 40
# Off the rhythm of the steps at which it is killed, so that a restart redoes some of them. With dropout, whose key must
# not depend on where a run was started.
SETTINGS = {
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": 0,
    "CHECKPOINT_PERIOD": 7,
    "DROPOUT_RATE": 0.1,
    "train_script__train__train_eval_dataset_cfg": None,
}
TAGS = ("loss", "accuracy", "z_loss", "learning_rate", "effective_batch_size/encoder", "non_padding_fraction/overall")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(launch, sample_dir) -> Callable[[pathlib.Path], subprocess.Popen]:
    def start_run(model_dir: pathlib.Path) -> subprocess.Popen:
        return launch(["train", *demo_runs.flags(model_dir, sample_dir, **SETTINGS)], model_dir.with_suffix(".log"))

    return start_run


def kill_when(process: subprocess.Popen, model_dir: pathlib.Path, reached: Callable[[], bool]) -> None:
    """Kills the process as soon as `reached()`."""
    deadline = time.monotonic() + demo_runs.PATIENCE
    while not reached():
        assert process.poll() is None, model_dir.with_suffix(".log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(demo_runs.PATIENCE) == -signal.SIGKILL


def last_step(model_dir: pathlib.Path) -> int:
    file = model_dir / "train" / metrics.METRICS_FILE
    steps = re.findall(r'^{"step": (\d+), "accuracy', file.read_text(), re.MULTILINE) if file.exists() else []
    return int(steps[-1]) if steps else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, start) -> pathlib.Path:
    model_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    demo_runs.finish(start(model_dir), model_dir)
    return model_dir


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, start, uninterrupted) -> pathlib.Path:
    model_dir = tmp_path_factory.mktemp("interrupted") / "run"
    # While the first checkpoint is being written: whatever is there of it, the run must go on from a whole one or none.
    kill_when(start(model_dir), model_dir, lambda: any(model_dir.glob("checkpoint_*")))
    # At a random moment, drawn anew each time the test is run: after a step, or just after a later checkpoint was begun.
    draw = random.SystemRandom()
    step, delay, at_checkpoint = draw.randint(8, STEPS - 4), draw.uniform(0, 0.05), draw.random() < 0.3

    def reached() -> bool:
        # The first checkpoint is written in the background: a run that is killed before it is whole has nothing to continue.
        if not any(model_dir.glob("checkpoint_*/commit_success.txt")):
            return False
        if at_checkpoint:
            return any(model_dir.glob(f"checkpoint_{max(step // 7, 2) * 7}*"))
        return last_step(model_dir) >= step and time.sleep(delay) is None

    kill_when(start(model_dir), model_dir, reached)
    with (model_dir / "train" / metrics.METRICS_FILE).open("a") as file:
        file.write('{"step": 39, "accur')  # what a kill in the middle of a write leaves
    demo_runs.finish(start(model_dir), model_dir)
    return model_dir


def test_the_final_state_is_the_same_bit_for_bit(uninterrupted, interrupted):
    log = interrupted.with_suffix(".log").read_text()
    assert log.count("flan train --gin_file") == 3, log
    assert "continuing" in log, log
    demo_runs.assert_same(demo_runs.final_state(uninterrupted, STEPS), demo_runs.final_state(interrupted, STEPS))


def test_every_step_saw_the_same_data(uninterrupted, interrupted):
    lines = [
        {int(line["step"]): line for line in metrics.read(str(run / "train"))} for run in (uninterrupted, interrupted)
    ]
    for step in range(1, STEPS + 1):
        assert [lines[0][step][tag] for tag in TAGS] == [lines[1][step][tag] for tag in TAGS], f"step {step}"
    assert demo_runs.data_position(uninterrupted, STEPS) == demo_runs.data_position(interrupted, STEPS)


def test_nothing_half_written_is_left(interrupted):
    assert sorted(path.name for path in interrupted.glob("*checkpoint*")) == [
        f"checkpoint_{step}" for step in (28, 35, STEPS)
    ]


def snapshot(model_dir: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(model_dir)): path.read_bytes() for path in model_dir.rglob("*") if path.is_file()}


def test_a_finished_run_that_is_started_again_changes_nothing(uninterrupted, sample_dir, capfd):
    before = snapshot(uninterrupted)
    assert cli.main(["train", *demo_runs.flags(uninterrupted, sample_dir, **SETTINGS)]) == 0
    assert snapshot(uninterrupted) == before
    assert f"is at step {STEPS} of {STEPS}: nothing to train" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"RANDOM_SEED": 1}, "the saved data position has seed = 0, this run has 1; "),
        (
            {"MIXTURE_OR_TASK_NAME": "sentiment_10templates"},
            "the saved data position has mixture = 'flan_minus_nli_10templates', this run has 'sentiment_10templates'; ",
        ),
    ],
)
def test_a_run_is_not_continued_on_other_data(uninterrupted, sample_dir, capfd, setting, message):
    before = snapshot(uninterrupted)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["train", *demo_runs.flags(uninterrupted, sample_dir, **{**SETTINGS, **setting})])
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("flan: ")]
    assert said.startswith(f"flan: {message}")
    assert said.endswith("or start from the checkpoint's parameters in a new MODEL_DIR")
    assert snapshot(uninterrupted) == before  # its config.gin above all
