"""The doctor says of collections how much of them is there, what is wrong with files, and what nobody can get."""

import json

import niv2_files
import pytest
from data_builders import prepare

from flan_jax import cli
from flan_jax.data import doctor_collections, mixtures, natural_instructions, spec
from flan_jax.tasks import t0_sf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_CACHE", str(tmp_path / "cache"))
    natural_instructions.checkout.cache_clear()


def test_natural_instructions(tmp_path):
    data_dir = niv2_files.checkout(tmp_path, good=niv2_files.content(), bad=niv2_files.content(Definition=None))
    (found,) = doctor_collections.examine(niv2_files.catalogue("good", "bad", "gone"), data_dir)
    assert (found.defined, found.there, found.absent) == (3, 1, ("niv2_gone",))
    assert [problem.rpartition("/")[2] for problem in found.problems] == [
        "bad.json: 'Definition' is missing or empty; expected a text or a list of texts"
    ]
    assert not found.ready
    assert found.fix == ""  # the checkout is there; what it lacks it lacks


def test_without_a_checkout_it_says_how_to_get_one(tmp_path):
    (found,) = doctor_collections.examine(niv2_files.catalogue("good"), str(tmp_path))
    assert (
        found.fix
        == f"git clone --depth 1 https://github.com/allenai/natural-instructions {tmp_path}/natural-instructions"
    )


def test_prompts_of_p3(tmp_path, capsys):
    data_dir = prepare(tmp_path, "p3/duorc_SelfRC_answer_question", train=[{"prompt": "a?", "completion": "b"}])
    catalogue = mixtures.Catalogue([], collections=t0_sf.COLLECTIONS)
    found = {f.collection: f for f in doctor_collections.examine(catalogue, data_dir)}
    assert found["t0"].there == 1
    assert found["t0"].published == 193
    assert len(found["t0"].absent) == 192
    assert found["t0"].fix.startswith("flan data import RECORDS")
    doctor_collections.show([found["t0"]])
    assert "(huggingface.co/datasets/bigscience/P3; Apache-2.0, the texts under the terms of" in capsys.readouterr().out


def test_what_nobody_can_get_is_named(capsys, tmp_path):
    gone = spec.Collection(
        "few", {}, members=lambda: ("lost",), left_out=lambda: {"lost": "burnt", "other": "?"}, published=1
    )
    found = doctor_collections.examine(mixtures.Catalogue([], collections=[gone]), str(tmp_path))
    assert found[0].left_out == {"lost": "burnt"}
    doctor_collections.show(found)
    assert (
        "collection few: 0 datasets of 1 as published, 0 with data\n  left out: lost (burnt)" in capsys.readouterr().out
    )


def test_the_command(tmp_path, capsys):
    """Seven of Muffin's tasks and six inverted forms are left out by name; the exit code counts what was asked about."""
    assert cli.main(["data", "doctor", "muffin_zsopt", "--tfds_data_dir", str(tmp_path), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    (muffin,) = content["collections"]
    assert muffin["defined"] == 73
    assert {"trivia_qa_wiki_missing", "task_master", "dmcc_python", "dr_repair_plain_code"} <= set(muffin["left_out"])
    assert len(muffin["left_out"]) == 13
    assert "lambada" in muffin["absent"]
    assert {entry["dataset"] for entry in content["datasets"]} >= {"rte", "lambada", "wiki_dialog"}
