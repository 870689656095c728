"""`flan mixture`: the table adds up, and is what a run then reads."""

import itertools
import json

import numpy as np
import pytest
from data_builders import LENGTHS, mixture

from flan_jax import cli
from flan_jax.data import loader, mixture_table


@pytest.mark.parametrize("pack", [True, False])
def test_totals_add_up(tmp_path, pack):
    mixed = mixture(tmp_path, {"one": 30, "two": 10, "three": 60})
    found = mixture_table.measure(mixed, lengths=LENGTHS, steps=50, batch_size=8, seed=0, pack=pack)
    assert json.loads(json.dumps(found)) == found
    assert [task["task"] for task in found["tasks"]] == ["one", "two", "three"]
    assert [task["rows"] for task in found["tasks"]] == [30, 10, 60]
    assert [task["rate"] for task in found["tasks"]] == pytest.approx([0.3, 0.1, 0.6])
    assert sum(task["examples"] for task in found["tasks"]) == pytest.approx(found["examples"])
    assert sum(task["tokens"] for task in found["tasks"]) == pytest.approx(found["tokens"])
    assert found["examples"] == pytest.approx(50 * 8 * found["examples_a_row"])
    for task in found["tasks"]:
        assert task["epochs"] == pytest.approx(task["examples"] / task["rows"])
        assert task["tokens"] == pytest.approx(task["examples"] * task["tokens_an_example"])
    assert (found["examples_a_row"] == 1) == (not pack)
    assert 0 < found["inputs_filled"] <= 1


def test_the_run_reads_what_the_table_says(tmp_path):
    sizes = {"one": 30, "two": 10, "three": 60}
    said = mixture_table.measure(mixture(tmp_path, sizes), lengths=LENGTHS, steps=200, batch_size=8, seed=0, pack=True)
    opened = loader.TrainLoader(mixture(tmp_path, sizes), lengths=LENGTHS, batch_size=8, seed=0, pack=True)
    batches = list(itertools.islice(opened, 200))
    assert sum(b.examples for b in batches) == pytest.approx([task["examples"] for task in said["tasks"]], rel=0.1)
    assert sum(b.tokens for b in batches) == pytest.approx(said["tokens"], rel=0.03)


def test_a_task_too_rare_to_be_met_is_measured_all_the_same(tmp_path):
    mixed = mixture(tmp_path, {"often": 60, "rare": 5}, rates={"often": 3000, "rare": 1e-6})
    found = mixture_table.measure(mixed, lengths=LENGTHS, steps=1, batch_size=8, seed=0, pack=True)
    own = mixed.members[1].stream.read(np.arange(32))
    assert found["tasks"][1]["tokens_an_example"] == pytest.approx(
        np.mean([len(e.inputs) + len(e.targets) for e in own])
    )


ARGUMENTS = ["mixture", "sentiment_10templates", "--steps", "10", "--batch", "4", "--inputs", "256", "--targets", "32"]


def test_command_line_table(sample_dir, capsys):
    assert cli.main([*ARGUMENTS, "--tfds_data_dir", sample_dir]) == 0
    printed = capsys.readouterr().out
    assert "sentiment_10templates: 10 steps x 4 rows of 256+32 tokens" in printed
    for word in (
        "imdb_reviews_10templates",
        "sst2_10templates",
        "rate",
        "examples",
        "tokens",
        "epochs",
        "total",
        "100%",
    ):
        assert word in printed
    assert "% of input positions filled" in printed


def test_command_line_json(sample_dir, capsys):
    assert cli.main([*ARGUMENTS, "--json", "--no_pack", "--tfds_data_dir", sample_dir]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mixture"] == "sentiment_10templates"
    assert found["examples"] == 40
    assert len(found["tasks"]) == 4


def test_the_published_table_needs_no_data(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["mixture", "flan2022", "--published", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole = {part["part"]: part["rate"] for part in found["parts"] if not part["kind"]}
    assert {name: round(100 * rate, 1) for name, rate in whole.items()} == {
        "muffin": 46.0,
        "t0": 27.9,
        "cot": 1.8,
        "niv2": 24.2,
    }
    assert sum(task["rate"] for task in found["tasks"]) == pytest.approx(1)
    rows = {task["task"]: task["rows"] for task in found["tasks"]}
    assert rows["qrecc_template_0to10_zero_shot"] == 10_170
    assert cli.main(["mixture", "opt_iml_base", "--published"]) == 0
    said = capsys.readouterr().out
    assert "of 1,556 datasets no size is published" in said
    assert "left out: crossfit, 4% of opt_iml_base" in said
    assert "22.22%" in said
