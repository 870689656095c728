"""Ten steps of the demo: the whole path from rows on disk to a checkpoint, and a config.gin that repeats it."""

import json
import pathlib

import numpy as np
import pytest

from flan_jax import config
from flan_jax.training import metrics
from tests.e2e import demo_runs

EVERY_STEP = {
    "accuracy",
    "cross_ent_loss",
    "goodput/step",
    "gradient_norm",
    "memory/host_peak_gib",
    "cross_ent_loss_per_all_target_tokens",
    "learning_rate",
    "loss",
    "loss_per_all_target_tokens",
    "loss_per_nonpadding_target_token",
    "non_padding_fraction/decoder",
    "non_padding_fraction/encoder",
    "non_padding_fraction/loss_weights",
    "non_padding_fraction/overall",
    "timing/data_wait_seconds",
    "timing/model_tflops_per_second_per_chip",
    "timing/real_tokens_per_second_per_chip",
    "timing/seconds",
    "timing/seqs",
    "timing/seqs_per_second",
    "timing/seqs_per_second_per_core",
    "timing/steps_per_second",
    "timing/target_tokens_per_second",
    "timing/target_tokens_per_second_per_core",
    "z_loss",
    "z_loss_per_all_target_tokens",
}
FIRST_STEP = {"timing/compilation_seconds", "timing/init_or_restore_seconds", "timing/train_iter_warmup"}
TASK = "rte_type_0_scoring_eval"
ASKED = "infer_eval/utils.DatasetConfig"
INFER_EVAL = {
    "train_script.train.infer_eval_dataset_cfg": config.Reference(ASKED, True),
    f"{ASKED}.mixture_or_task_name": "rte_type_0",
    f"{ASKED}.task_feature_lengths": {"inputs": 64, "targets": 16},
    f"{ASKED}.split": "test",
    f"{ASKED}.batch_size": 8,
    f"{ASKED}.num_examples": 8,
    f"{ASKED}.module": "flan_jax.tasks.catalogue",
}
PAUSES = {"timing/checkpoint_seconds", "timing/evaluate_seconds"}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, sample_dir, launch) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("ten_steps") / "run"
    settings = {"TRAIN_STEPS": 10, "EVAL_PERIOD": 5, "CHECKPOINT_PERIOD": 5, "DROPOUT_RATE": 0.1, "LEARNING_RATE": 0.03}
    demo_runs.finish(
        launch(["train", *demo_runs.flags(folder, sample_dir, **settings, **INFER_EVAL)], folder.with_suffix(".log")),
        folder,
    )
    return folder


def test_the_loss_falls(model_dir):
    losses = [line["loss_per_target_token"] for line in metrics.read(str(model_dir / "train")) if "loss" in line]
    assert len(losses) == 10
    # A model that knows nothing pays ln(8192) = 9.01 nats.
    assert abs(losses[0] - np.log(8192)) < 1.0
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5


def test_a_run_leaves_the_files_that_t5x_leaves(model_dir):
    assert {path.name for path in model_dir.iterdir()} == {
        "config.gin",
        "model-info.txt",
        "train",
        "training_eval",
        "inference_eval",
        "checkpoint_5",
        "checkpoint_10",
    }
    info = (model_dir / "model-info.txt").read_text().splitlines()
    sizes = [int(line.split()[1].replace(",", "")) for line in info[:-1]]
    assert info[-1] == f"total parameters: {sum(sizes):,}"
    assert len(info) - 1 == sum(name.startswith("/target") for name in demo_runs.final_state(model_dir, 10))


def test_the_tags_are_those_of_t5x_in_both_kinds_of_file(model_dir):
    lines = {int(line["step"]): line for line in metrics.read(str(model_dir / "train"))}
    assert sorted(lines) == list(range(11))
    assert set(lines[0]) >= FIRST_STEP
    assert all(set(lines[step]) >= EVERY_STEP for step in range(1, 11))
    assert {step for step in lines if set(lines[step]) >= PAUSES} == {5, 10}
    logged = demo_runs.events(model_dir / "train")
    for tag in EVERY_STEP | FIRST_STEP | PAUSES:
        written = {step: line[tag] for step, line in lines.items() if tag in line}
        assert logged[tag] == pytest.approx(written, rel=1e-6), tag


def test_the_loss_of_tasks_and_clusters_is_around_the_loss(model_dir):
    for folder in ("train", "training_eval/flan_minus_nli_10templates"):
        for line in (line for line in metrics.read(str(model_dir / folder)) if "loss" in line):
            for kind in ("task", "cluster"):
                apart = [value for name, value in line.items() if name.startswith(f"loss_by_{kind}/")]
                assert len(apart) > 1
                assert min(apart) <= line["loss_per_target_token"] <= max(apart)
            assert not any("nli" in name for name in line if name.startswith("loss_by_cluster/"))


def test_held_back_rows_are_measured_at_every_evaluation(model_dir):
    folder = model_dir / "training_eval" / "flan_minus_nli_10templates"
    lines = metrics.read(str(folder))
    assert [line["step"] for line in lines] == [5, 10]
    assert lines[1]["loss_per_target_token"] < lines[0]["loss_per_target_token"]
    assert set(demo_runs.events(folder)) == set(lines[0]) - {"step"}
    # Train rows fall below rows that are not trained on only by chance; that the two differ shows that rows do.
    trained = metrics.read(str(model_dir / "train"))[5]
    assert trained["loss_per_target_token"] != lines[0]["loss_per_target_token"]


def test_tasks_are_asked_at_every_evaluation_and_their_metrics_are_plotted(model_dir):
    folder = model_dir / "inference_eval"
    lines = [json.loads(line) for line in (folder / f"{TASK}-metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["examples"]) for line in lines] == [(5, 8), (10, 8)]
    logged = demo_runs.events(folder / TASK)
    assert set(logged) == {f"eval/{name}" for name in lines[0] if name not in ("step", "examples")}
    assert logged["eval/accuracy"] == {line["step"]: line["accuracy"] for line in lines}
    for step in (5, 10):
        assert len((folder / f"{TASK}-{step:06d}.jsonl").read_text().splitlines()) == 8


def test_its_config_alone_repeats_the_run_bit_for_bit(model_dir, tmp_path, launch):
    again = tmp_path / "again"
    arguments = ["train", f"--gin_file={model_dir / 'config.gin'}", f"--gin.MODEL_DIR={str(again)!r}"]
    demo_runs.finish(launch(arguments, again.with_suffix(".log")), again)
    demo_runs.assert_same(demo_runs.final_state(model_dir, 10), demo_runs.final_state(again, 10))
    assert demo_runs.data_position(model_dir, 10) == demo_runs.data_position(again, 10)
    # The saved configuration is a fixed point: saved again it is the same text, but for the directory.
    first, second = ((folder / "config.gin").read_text() for folder in (model_dir, again))
    assert first.replace(str(model_dir), "") == second.replace(str(again), "")
