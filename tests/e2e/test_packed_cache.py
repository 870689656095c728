"""A run on a packed cache: no TensorFlow anywhere, stopped by SIGTERM and continued to the same bits."""

import os
import pathlib
import signal
import sys
import time

import pytest

from flan_jax.data import cache, cache_write, row_request
from flan_jax.training import metrics
from tests.e2e import demo_runs

MIXTURE = "sentiment_10templates"
# Whatever imports one of these fails, as where they are not installed.
NO_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5"):
    sys.modules[name] = None
from flan_jax import cli
sys.exit(cli.main())
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def caches(tmp_path_factory, sample_dir) -> dict[str, str]:
    made = {}
    for split in ("train", "validation"):
        asked = row_request.Request(
            MIXTURE,
            "flan_jax.tasks.catalogue",
            sample_dir,
            inputs=64,
            targets=16,
            split=split,
            shuffle=split == "train",
        )
        made[split] = str(tmp_path_factory.mktemp("cache") / split)
        cache_write.build(asked, made[split], 40)
    return made


def arguments(model_dir: pathlib.Path, caches: dict[str, str], **settings) -> list[str]:
    settings = {
        "MIXTURE_OR_TASK_NAME": MIXTURE,
        "PACKED_CACHE": caches["train"],
        "PACKED_EVAL_CACHE": caches["validation"],
        "TRAIN_STEPS": 100_000,
        "EVAL_PERIOD": 6,
        "CHECKPOINT_PERIOD": 5,
        "DROPOUT_RATE": 0.1,
        **settings,
    }
    return ["train", *demo_runs.flags(model_dir, "nowhere", **settings)]


@pytest.fixture(scope="module")
def start(launch):
    def start_run(given: list[str], model_dir: pathlib.Path):
        return launch(given, model_dir.with_suffix(".log"), [sys.executable, "-c", NO_TENSORFLOW])

    return start_run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, start, caches) -> tuple[pathlib.Path, int]:
    """A run that was told to stop while its first checkpoint was written, and the step that it reached."""
    model_dir = tmp_path_factory.mktemp("stopped") / "run"
    process = start(arguments(model_dir, caches), model_dir)
    deadline = time.monotonic() + demo_runs.PATIENCE
    while not any(model_dir.glob("checkpoint_5*")):
        assert process.poll() is None, model_dir.with_suffix(".log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    demo_runs.finish(process, model_dir)
    return model_dir, max(int(path.name.rpartition("_")[2]) for path in model_dir.glob("checkpoint_*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, start, caches, stopped) -> tuple[pathlib.Path, int]:
    """A run that goes three steps further without a break."""
    model_dir, steps = tmp_path_factory.mktemp("whole") / "run", stopped[1] + 3
    demo_runs.finish(start(arguments(model_dir, caches, TRAIN_STEPS=steps), model_dir), model_dir)
    return model_dir, steps


def test_sigterm_saves_the_step(stopped):
    model_dir, reached = stopped
    log = model_dir.with_suffix(".log").read_text()
    assert f"stopped after step {reached} of 100000" in log
    assert f"trained to step {reached} " in log
    assert demo_runs.data_position(model_dir, reached)["rows"] == 8 * reached
    assert [path.name for path in model_dir.iterdir() if "tmp" in path.name] == []


def test_it_trains_and_measures_without_tensorflow(uninterrupted):
    model_dir, steps = uninterrupted
    lines = {int(line["step"]): line for line in metrics.read(str(model_dir / "train"))}
    assert {step for step, line in lines.items() if "loss" in line} == set(range(1, steps + 1))
    held_back = metrics.read(str(model_dir / "training_eval" / MIXTURE))
    assert [line["step"] for line in held_back] == sorted({*range(6, steps + 1, 6), steps})


def test_the_position_is_one_number(uninterrupted, caches):
    model_dir, steps = uninterrupted
    assert demo_runs.data_position(model_dir, steps) == {
        "identity": {
            "packed_cache": cache.open_cache(caches["train"]).digest,
            "mixture": MIXTURE,
            "seed": 0,
            "shuffle": True,
        },
        "rows": 8 * steps,
    }


def test_the_next_run_ends_in_the_same_bits(uninterrupted, stopped, start, caches):
    (whole, steps), (model_dir, _) = uninterrupted, stopped
    demo_runs.finish(start(arguments(model_dir, caches, TRAIN_STEPS=steps), model_dir), model_dir)
    demo_runs.assert_same(demo_runs.final_state(whole, steps), demo_runs.final_state(model_dir, steps))
    losses = [
        {int(line["step"]): line["loss"] for line in metrics.read(str(run / "train")) if "loss" in line}
        for run in (whole, model_dir)
    ]
    assert losses[0] == losses[1]


def test_online_input_says_what_is_missing(start, caches, tmp_path):
    model_dir = tmp_path / "run"
    process = start(arguments(model_dir, caches, MIXTURE_OR_TASK_NAME="my_seqio_task", PACKED_CACHE=None), model_dir)
    assert process.wait(demo_runs.PATIENCE) == 1
    said = model_dir.with_suffix(".log").read_text()
    assert "without TensorFlow and seqio a run reads packed caches only, PACKED_CACHE for training" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MIXTURE_OR_TASK_NAME": "nli_10templates"}, 'mixture: "sentiment_10templates" there, "nli_10templates" here'),
        ({"TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 16}}, 'lengths: {"inputs": 64, "targets": 16} there'),
        ({"PACKED_CACHE": "nowhere"}, "no packed cache in nowhere"),
        ({"USE_CACHED_TASKS": True}, "see `flan data cache` and PACKED_CACHE"),
    ],
)
def test_the_check_names_what_does_not_fit(caches, tmp_path, settings, message, capsys):
    from flan_jax import cli

    with pytest.raises(SystemExit):
        cli.main(["check", *arguments(tmp_path / "run", caches, **settings)[1:]])
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
