"""Results: the summary and the table by their literals, and the files that an evaluation leaves."""

import json
import os

import jax
import numpy as np
import pytest

from flan_jax import eval as eval_lib
from flan_jax import sharding
from flan_jax.checkpoint import manager
from flan_jax.data import seqio_tasks, spec
from flan_jax.evaluation import report
from flan_jax.inference import score
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


def test_the_template_is_chosen_on_other_rows_than_it_is_reported_on():
    """rte: template 1 is best of those reported; validation rows prefer 2, and 0 as much. cb has no validation rows."""
    selection = [
        result("rte", 0, 70.0),
        result("rte", 1, 40.0),
        result("rte", 2, 70.5),
        result("nq", 0, 1.0, main="em", values={"em": 1.0}),
    ]
    found = report.summary(RESULTS, selection)
    assert found["datasets"][0]["best_dev"] == {"template": 2, "selected_by": 70.5, "value": 55.0}
    assert "best_dev" not in found["datasets"][1]
    assert found["scores"][0] == {
        "name": "rte",
        "group": "nli",
        "metric": "accuracy",
        "value": 55.0,
        "std": 5.0,
        "examples": 50,
        "chance": 50.0,
        "templates": 3,
        "best_dev": {"template": 2, "selected_by": 70.5, "value": 55.0},
    }
    # A cluster of which a dataset has no template chosen has no such average.
    assert found["averages"] == [
        {"name": "nli", "value": 47.5},
        {"name": "closed_book_qa", "value": 12.0},
        {"name": "closed_book_qa, best dev template", "value": 12.0},
    ]


def test_ties_are_told():
    ties = [{"accuracy": 50.0, "ties": a, "near_ties": b} for a, b in ((25.0, 0.0), (0.0, 5.0))]
    found = report.summary([*RESULTS[3:], *(result("rte", at, 50.0, values=of) for at, of in enumerate(ties))])
    assert found["notes"] == [
        "rte: the best options tie in 12.5% of the answers, and are within 0.01 nats of each other in 2.5%"
    ]


def test_of_equal_templates_the_first_is_chosen():
    found = report.summary(RESULTS[:3], [result("rte", number, 60.0) for number in range(3)])
    assert found["datasets"][0]["best_dev"]["template"] == 0


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

    num_examples = 4

    def in_order(self, limit, seed):
        rows = [("yes", "no", 0), ("yes", "no", 1), ("yes, “really”\n", "no", 1), ("abc", "xyz", 0)]
        for row, (first, second, right) in enumerate(rows[:limit]):
            example = spec.Example({}, (first, second)[right], (first, second))
            yield seqio_tasks.Formatted(f"Is {row} so?\u2028", example.answer, example, row, 0)


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Evaluates a task of RTE without data, vocabulary or model: short options score best."""

    def scored(config, params, cache, first, batch):
        tokens = np.asarray(batch["decoder_target_tokens"] > 0)
        return -tokens.astype(np.float32), tokens

    monkeypatch.setattr(score, "read", lambda *_: (None, None))
    monkeypatch.setattr(score, "continuation_log_likelihood", scored)
    monkeypatch.setattr(eval_lib.vocabulary, "Tokenizer", lambda vocabulary: Letters())
    monkeypatch.setattr(eval_lib.sources, "resolve_data_dir", lambda data_dir: "")
    monkeypatch.setattr(eval_lib.mixtures, "open_tasks", lambda tasks, *_: [(task.name, Rows()) for task in tasks])
    config = presets.t5_config("tiny", vocab_size=256)
    model = configs.EncoderDecoderModel(configs.Transformer(config), None, None, None)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    def run(name, step=10, num_examples=None, **asked):
        lengths = {"inputs": 64, "targets": 16}
        cfg = configs.DatasetConfig(name, lengths, "test", 4, module="flan_jax.tasks.nli", num_examples=num_examples)
        return eval_lib.evaluate_params(model, None, cfg, str(tmp_path), step=step, mesh=mesh, **asked)

    return run


def lines(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def test_predictions_are_complete_json_lines(evaluate, tmp_path):
    found = evaluate("rte_type_0_scoring_eval")
    # Wrong, right, right, and half of the last.
    assert found["tasks"][0]["values"] == {"accuracy": 62.5, "ties": 25.0, "near_ties": 0.0}
    assert (found["step"], found["split"], found["tasks"][0]["chance"]) == (10, "test", 50.0)
    predictions = lines(tmp_path / "rte_type_0_scoring_eval-000010.jsonl")
    assert predictions[0] == {
        "index": 0,
        "prompt": "Is 0 so?\u2028",
        "output": "no",
        "parsed": "no",
        "target": "yes",
        "targets": ["yes"],
        "score": 0.0,
        "options": ["yes", "no"],
        "scores": [-4.0, -3.0],
        "tokens": [4, 3],
        "shots": 0,
    }
    assert [line["output"] for line in predictions] == ["no", "no", "no", "abc"]
    assert [line["score"] for line in predictions] == [0.0, 1.0, 1.0, 0.5]
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


def test_results_say_how_they_were_made_and_where_the_predictions_are(evaluate, tmp_path):
    found = evaluate("rte_2templates", checkpoint="runs/x/checkpoint_10", select_template_on="validation")
    assert (found["suite"], found["checkpoint"], found["seed"]) == ("rte_2templates", "runs/x/checkpoint_10", 0)
    assert found["settings"]["select_template_on"] == "validation"
    assert found["versions"]["jax"] == jax.__version__
    # Rows of the selection are counted, and not left among the predictions.
    assert found["scores"][0]["best_dev"] == {"template": 0, "selected_by": 62.5, "value": 62.5}
    assert found["predictions"] == [f"rte_type_{i}_scoring_eval-000010.jsonl" for i in (0, 1)]
    assert all(len(lines(tmp_path / name)) == 4 for name in found["predictions"])


def test_options_are_ranked_by_the_mean_of_their_tokens_if_asked_to(evaluate, tmp_path):
    evaluate("rte_type_0_scoring_eval", normalize_by_target_length=True)
    (first, *_) = lines(tmp_path / "rte_type_0_scoring_eval-000010.jsonl")
    # Every token scores -1 here, so that length is no matter any more.
    assert (first["scores"], first["tokens"], first["score"]) == ([-1.0, -1.0], [4, 3], 0.5)


def test_a_later_evaluation_adds_to_the_metrics_and_keeps_the_predictions(evaluate, tmp_path):
    evaluate("rte_type_0_scoring_eval")
    evaluate("rte_type_0_scoring_eval", step=20, num_examples=2)
    assert lines(tmp_path / "rte_type_0_scoring_eval-metrics.jsonl") == [
        {"step": 10, "examples": 4, "accuracy": 62.5, "ties": 25.0, "near_ties": 0.0},
        {"step": 20, "examples": 2, "accuracy": 50.0, "ties": 0.0, "near_ties": 0.0},
    ]
    assert len(lines(tmp_path / "rte_type_0_scoring_eval-000010.jsonl")) == 4
    assert len(lines(tmp_path / "rte_type_0_scoring_eval-000020.jsonl")) == 2


def test_a_killed_evaluation_leaves_no_half_file_of_predictions(evaluate, tmp_path, monkeypatch):
    replace = os.replace

    def killed(source, target):
        if target.endswith("rte_type_0_scoring_eval-000010.jsonl") and "generated" not in target:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate("rte_type_0_scoring_eval")
    assert not list(tmp_path.glob("*-000010.jsonl"))
    assert list(tmp_path.glob("generated/*-000010.jsonl"))


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

    monkeypatch.setattr(manager, "restore_from", restored)

    def evaluated(of, *_, **__):
        of[0].load()
        asked.append(of[0].step)
        return report.summary(RESULTS)

    monkeypatch.setattr(eval_lib, "_evaluate", evaluated)
    model = configs.EncoderDecoderModel(
        configs.Transformer(presets.t5_config("tiny", vocab_size=256)), None, None, None
    )
    cfg = configs.DatasetConfig("rte_1templates", {"inputs": 8, "targets": 8}, "test", 8)
    for path, mode in ((tmp_path / "checkpoint_5", "specific"), (tmp_path, "latest")):
        restore = configs.RestoreCheckpointConfig(str(path), mode)
        eval_lib.evaluate(model, cfg, restore, configs.Partitioner(), str(tmp_path), write_report=False)
    assert asked == [str(tmp_path / "checkpoint_5"), 5, str(tmp_path / "checkpoint_10"), 10]
