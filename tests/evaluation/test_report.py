"""Results: the summary and the table by their literals, and the files that an evaluation leaves."""

import json

import jax
import numpy as np
import pytest

from flan_jax import eval as eval_lib
from flan_jax import sharding
from flan_jax.data import seqio_tasks, spec
from flan_jax.evaluation import report
from flan_jax.inference import decode, score
from flan_jax.models import presets
from flan_jax.training import configs
from tests.evaluation.test_protocols import Letters


def result(dataset, template, value, **fields):
    given = {
        "cluster": "nli",
        "examples": 50,
        "chance": 50.0,
        "values": {"accuracy": value, "ties": 0.0},
        "main": "accuracy",
    }
    return report.TaskResult(f"{dataset}_type_{template}", dataset, template=template, **{**given, **fields})


RESULTS = [
    result("rte", 0, 50.0),
    result("rte", 1, 60.0),
    result("rte", 2, 55.0),
    result("cb", 0, 40.0, chance=100 / 3),
    result("nq", 0, 12.0, cluster="closed_book_qa", chance=None, values={"em": 12.0, "f1": 20.0}, main="em"),
]


def test_datasets_are_averaged_over_templates_and_clusters_over_datasets():
    found = report.summary(RESULTS)
    assert found["datasets"] == [
        {
            "dataset": "rte",
            "cluster": "nli",
            "metric": "accuracy",
            "mean": 55.0,
            "std": 5.0,  # of a sample: sqrt((25 + 25 + 0) / 2)
            "min": 50.0,
            "max": 60.0,
            "templates": 3,
            "examples": 50,
            "chance": 50.0,
        },
        {
            "dataset": "cb",
            "cluster": "nli",
            "metric": "accuracy",
            "mean": 40.0,
            "std": None,
            "min": 40.0,
            "max": 40.0,
            "templates": 1,
            "examples": 50,
            "chance": 100 / 3,
        },
        {
            "dataset": "nq",
            "cluster": "closed_book_qa",
            "metric": "em",
            "mean": 12.0,
            "std": None,
            "min": 12.0,
            "max": 12.0,
            "templates": 1,
            "examples": 50,
            "chance": None,
        },
    ]
    # A dataset counts once in its cluster, whatever the number of its templates.
    assert found["clusters"] == [{"cluster": "nli", "mean": 47.5}, {"cluster": "closed_book_qa", "mean": 12.0}]
    assert found["tasks"][0]["values"] == {"accuracy": 50.0, "ties": 0.0}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_table_is_markdown_of_even_columns():
    assert report.table(report.summary(RESULTS)).splitlines() == [
        "| dataset            | cluster        | metric   | mean | std |  min |  max | chance | templates | examples |",
        "|--------------------|----------------|----------|-----:|----:|-----:|-----:|-------:|----------:|---------:|",
        "| rte                | nli            | accuracy | 55.0 | 5.0 | 50.0 | 60.0 |   50.0 |         3 |       50 |",
        "| cb                 | nli            | accuracy | 40.0 |     | 40.0 | 40.0 |   33.3 |         1 |       50 |",
        "| nq                 | closed_book_qa | em       | 12.0 |     | 12.0 | 12.0 |        |         1 |       50 |",
        "| **nli**            |                |          | 47.5 |     |      |      |        |           |          |",
        "| **closed_book_qa** |                |          | 12.0 |     |      |      |        |           |          |",
    ]


class Rows:
    """Four rows of RTE; with the scores below two are right, and two options of the last tie."""

    def in_order(self, limit, seed):
        rows = [("yes", "no", 0), ("yes", "no", 1), ("yes, “really”\n", "no", 1), ("abc", "xyz", 0)]
        for row, (first, second, right) in enumerate(rows[:limit]):
            example = spec.Example({}, (first, second)[right], (first, second))
            yield seqio_tasks.Formatted(f"Is {row} so?\u2028", example.answer, example, row, 0)


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Evaluates a task of RTE without data, vocabulary or model: short options score best; every answer is 'no'."""

    def scored(config, params, batch):
        return -np.asarray(batch["decoder_target_tokens"] > 0).sum(axis=1).astype(np.float32)

    def answered(config, params, batch, max_decode_length, eos_id):
        rows = batch["encoder_input_tokens"].shape[0]
        return np.tile([ord("n"), ord("o"), eos_id, 0], (rows, 1))

    monkeypatch.setattr(score, "score_targets", scored)
    monkeypatch.setattr(decode, "greedy", answered)
    monkeypatch.setattr(eval_lib.vocabulary, "Tokenizer", lambda vocabulary: Letters())
    monkeypatch.setattr(eval_lib.sources, "resolve_data_dir", lambda data_dir: "")
    monkeypatch.setattr(eval_lib.mixtures, "open_tasks", lambda tasks, *_: [(task.name, Rows()) for task in tasks])
    config = presets.t5_config("tiny", vocab_size=256)
    model = configs.EncoderDecoderModel(configs.Transformer(config), None, None, None)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    def run(name, step=10, **fields):
        lengths = {"inputs": 64, "targets": 16}
        cfg = configs.DatasetConfig(name, lengths, "test", 4, module="flan_jax.tasks.nli", **fields)
        return eval_lib.evaluate_params(model, None, cfg, str(tmp_path), step=step, mesh=mesh)

    return run


def lines(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def test_predictions_are_complete_json_lines(evaluate, tmp_path):
    found = evaluate("rte_type_0_scoring_eval")
    # Wrong, right, right, and half of the last.
    assert found["tasks"][0]["values"] == {"accuracy": 62.5, "ties": 25.0}
    assert (found["step"], found["split"], found["tasks"][0]["chance"]) == (10, "test", 50.0)
    predictions = lines(tmp_path / "rte_type_0_scoring_eval-000010.jsonl")
    assert predictions[0] == {
        "row": 0,
        "inputs": "Is 0 so?\u2028",
        "answers": ["yes"],
        "prediction": "no",
        "options": ["yes", "no"],
        "scores": [-4.0, -3.0],
    }
    assert [line["prediction"] for line in predictions] == ["no", "no", "no", "abc"]
    assert predictions[2]["options"][0] == "yes, \u201creally\u201d\n"


def test_an_evaluation_leaves_its_results_beside_the_predictions(evaluate, tmp_path):
    found = evaluate("rte_2templates")
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json",
        "results.md",
        *(f"rte_type_{i}_scoring_eval-{kind}" for i in (0, 1) for kind in ("000010.jsonl", "metrics.jsonl")),
    }
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert (tmp_path / "results.md").read_text() == report.table(found) + "\n"
    assert (found["datasets"][0]["templates"], found["datasets"][0]["std"]) == (2, 0.0)


def test_a_later_evaluation_adds_to_the_metrics_and_keeps_the_predictions(evaluate, tmp_path):
    evaluate("rte_type_0_scoring_eval")
    evaluate("rte_type_0_scoring_eval", step=20, num_examples=2)
    assert lines(tmp_path / "rte_type_0_scoring_eval-metrics.jsonl") == [
        {"step": 10, "examples": 4, "accuracy": 62.5, "ties": 25.0},
        {"step": 20, "examples": 2, "accuracy": 50.0, "ties": 0.0},
    ]
    assert len(lines(tmp_path / "rte_type_0_scoring_eval-000010.jsonl")) == 4
    assert len(lines(tmp_path / "rte_type_0_scoring_eval-000020.jsonl")) == 2


def test_a_killed_evaluation_leaves_no_half_file_of_predictions(evaluate, tmp_path, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(eval_lib.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate("rte_type_0_scoring_eval")
    assert not list(tmp_path.glob("*-000010.jsonl"))


def test_the_checkpoint_that_is_asked_for_is_evaluated_wherever_results_go(tmp_path, monkeypatch):
    """OUTPUT_DIR may be the MODEL_DIR: its newest checkpoint must not stand in for the one that is named."""
    for step in (5, 10):
        folder = tmp_path / f"checkpoint_{step}"
        (folder / "state").mkdir(parents=True)
        (folder / "dataset").mkdir()
        for name in ("commit_success.txt", "state/_METADATA", "dataset/metadata"):
            (folder / name).touch()
        (folder / "_CHECKPOINT_METADATA").write_text('{"custom_metadata": {"fingerprints": {"a": 1}}}')
    asked = []

    def restored(path, *_, **__):
        asked.append(path)
        return {"target": None}

    monkeypatch.setattr(eval_lib.manager, "restore_from", restored)
    monkeypatch.setattr(
        eval_lib, "evaluate_params", lambda *_, step, **__: asked.append(step) or report.summary(RESULTS)
    )
    model = configs.EncoderDecoderModel(
        configs.Transformer(presets.t5_config("tiny", vocab_size=256)), None, None, None
    )
    cfg = configs.DatasetConfig("rte_1templates", {"inputs": 8, "targets": 8}, "test", 8)
    for path, mode in ((tmp_path / "checkpoint_5", "specific"), (tmp_path, "latest")):
        restore = configs.RestoreCheckpointConfig(str(path), mode)
        eval_lib.evaluate(model, cfg, restore, configs.Partitioner(), str(tmp_path))
    assert asked == [str(tmp_path / "checkpoint_5"), 5, str(tmp_path / "checkpoint_10"), 10]
