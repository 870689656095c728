"""An adapter on the demo's model: trained, killed and continued, evaluated, merged; the model's own files stay as they are."""

import json
import pathlib

import jax
import numpy as np
import pytest

from flan_jax import cli
from flan_jax.checkpoint import fingerprint, manager
from flan_jax.models import presets
from flan_jax.training import adapters, metrics, optim, state
from tests.e2e import demo_runs

pytestmark = pytest.mark.slow
STEPS = 6
SETTINGS = {"EVAL_PERIOD": 0, "CHECKPOINT_PERIOD": 4, "DROPOUT_RATE": 0.1}
SETTINGS |= {"train_script__train__train_eval_dataset_cfg": None}
SMALL = presets.t5_config("tiny", vocab_size=8192, num_encoder_layers=1, num_decoder_layers=1)
KINDS = {"lora": adapters.LoRA(), "prompt_tuning": adapters.PromptTuning(length=10)}


def snapshot(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(launch, sample_dir):
    def train(model_dir, *files, **settings):
        command = ["train", *demo_runs.flags(model_dir, sample_dir, **{**SETTINGS, **settings})]
        command[2:2] = [f"--gin_file={file}" for file in files]  # behind the recipe
        demo_runs.finish(launch(command, model_dir.with_suffix(".log")), model_dir)
        return model_dir

    return train


@pytest.fixture(scope="module")
def base(tmp_path_factory, trained):
    return trained(tmp_path_factory.mktemp("base") / "run", TRAIN_STEPS=4)


def adapt(trained, model_dir, kind, base, steps):
    more = {"PROMPT_LENGTH": 10} if kind == "prompt_tuning" else {}
    start = str(base / "checkpoint_4")
    return trained(model_dir, f"adapters/{kind}.gin", INITIAL_CHECKPOINT_PATH=start, TRAIN_STEPS=steps, **more)


def final(model_dir, kind):
    shapes = state.abstract(SMALL, optim.Adafactor(), KINDS[kind])
    tree = manager.restore_from(model_dir / f"checkpoint_{STEPS}", shapes.checkpoint_tree())
    return {name: np.asarray(leaf) for name, leaf in fingerprint.named_leaves(tree).items()}


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tmp_path_factory, trained, base):
    """(kind, a run in one go, the same stopped after 3 steps and started again, the base's files before)."""
    folder, before = tmp_path_factory.mktemp(request.param), snapshot(base)
    whole = adapt(trained, folder / "whole", request.param, base, STEPS)
    adapt(trained, folder / "parts", request.param, base, 3)
    parts = adapt(trained, folder / "parts", request.param, base, STEPS)
    return request.param, whole, parts, before


def test_a_continued_run_ends_where_the_uninterrupted_one_does(runs):
    kind, whole, parts, _ = runs
    assert "continuing" in parts.with_suffix(".log").read_text()
    demo_runs.assert_same(final(whole, kind), final(parts, kind))
    assert demo_runs.data_position(whole, STEPS) == demo_runs.data_position(parts, STEPS)
    lines = [{int(line["step"]): line for line in metrics.read(str(run / "train"))} for run in (whole, parts)]
    assert [lines[0][step]["loss"] for step in range(1, STEPS + 1)] == [
        lines[1][step]["loss"] for step in range(1, STEPS + 1)
    ]


def test_nothing_of_the_model_is_written_again(runs, base):
    kind, whole, _, before = runs
    assert snapshot(base) == before
    own, everything = (
        sum(path.stat().st_size for path in (run / f"checkpoint_{step}" / "state").rglob("*") if path.is_file())
        for run, step in ((whole, STEPS), (base, 4))
    )
    assert own < everything / 4
    info = (whole / "model-info.txt").read_text()
    assert ("lora_a" in info) == (kind == "lora")
    assert info.endswith(f"total parameters: {10 * 64:,}\n") == (kind == "prompt_tuning")


def test_it_is_evaluated_with_its_base(runs, sample_dir, tmp_path, base):
    _, whole, _, _ = runs
    found = {}
    for name, run in (("adapted", whole), ("base", base)):
        settings = {"CHECKPOINT_PATH": str(run), "EVAL_OUTPUT_DIR": str(tmp_path / name), "EVAL_EXAMPLES": 2}
        settings |= {"EVAL_MIXTURE": "rte_type_0_scoring_eval", "MIXTURE_OR_TASK_MODULE": "flan_jax.tasks.nli"}
        settings |= {key: value for key, value in demo_runs.SHRUNK.items() if key.startswith("network.")}
        bound = [f"--gin.{key}={value!r}" for key, value in settings.items()]
        assert cli.main(["eval", "--gin_file=recipes/demo_eval.gin", f"--tfds_data_dir={sample_dir}", *bound]) == 0
        (predictions,) = (tmp_path / name).glob("*-0*.jsonl")
        found[name] = [json.loads(line)["scores"] for line in predictions.read_text().splitlines()]
    assert found["adapted"] != found["base"]


def test_another_base_or_none_is_refused(runs, sample_dir, tmp_path, capfd):
    kind, whole, _, _ = runs
    before = snapshot(whole)
    other = state.create(SMALL, optim.Adafactor(), jax.random.key(9)).checkpoint_tree()
    with manager.CheckpointManager(tmp_path / "other", keep=None, period=1) as checkpoints:
        checkpoints.save(4, other, {})
    adapter = [f"--gin_file=adapters/{kind}.gin", f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/other/checkpoint_4'"]
    length = ["--gin.PROMPT_LENGTH=10"] if kind == "prompt_tuning" else []
    for more, message in (([*adapter, *length], "whose parameters are others"), ([], "and this run has none")):
        command = ["train", *demo_runs.flags(whole, sample_dir, **SETTINGS, TRAIN_STEPS=9)]
        command[2:2] = more
        with pytest.raises(SystemExit, match="1"):
            cli.main(command)
        (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("flan: ")]
        assert message in said
    assert snapshot(whole) == before
