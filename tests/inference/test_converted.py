"""What `flan convert` makes can be asked: it says in a config.gin what it is."""

import dataclasses
import io
import sys

import pytest

from flan_jax import cli, config, errors
from flan_jax.checkpoint import sources
from flan_jax.data import vocabulary
from flan_jax.evaluation import seen
from flan_jax.inference import saved
from flan_jax.models import presets
from tests.checkpoint import toy_checkpoints as toy

T5 = presets.t5_config("tiny", vocab_size=8192, num_encoder_layers=1, num_decoder_layers=1)


@pytest.fixture(autouse=True)
def _gin():
    with config.isolated():
        yield


def converted(source, out, *flags):
    assert cli.main(["convert", "--in", str(source), "--out", str(out), "--no_verify", *flags]) == 0


def asked(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Is it so?\n"))
    capsys.readouterr()
    assert cli.main(["chat", *flags, "--max_tokens=3", "--inputs=16"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("to", "layers"), [("orbax", "stacked"), ("t5x", "separate")])
def test_a_folder_of_hugging_face_is_converted_and_asked(tmp_path, monkeypatch, capsys, to, layers):
    folder = toy.save_hugging_face(tmp_path / "hf", T5)
    converted(folder, tmp_path / "out" / "checkpoint_0", "--to", to, "--layers", layers)
    assert "config.gin names the model for flan chat, infer, serve and eval\n" in capsys.readouterr().out
    run = saved.read_run(tmp_path / "out" / "checkpoint_0")
    assert run.model.config == dataclasses.replace(T5, scan_layers=layers == "stacked")
    assert run.model.input_vocabulary == vocabulary.sentencepiece_vocabulary()
    # As the folder of a run, and as a checkpoint in it.
    said = [asked(monkeypatch, capsys, f"--checkpoint={path}") for path in (run_of(tmp_path), run_of(tmp_path).parent)]
    assert said[0] == said[1]
    assert said[0].endswith("\n")
    # There is nothing that it was trained on here.
    assert seen.trained_on(run_of(tmp_path)) == []


def run_of(tmp_path):
    return tmp_path / "out" / "checkpoint_0"


def test_a_model_without_a_vocabulary_has_to_be_told_one(tmp_path, monkeypatch, capsys):
    llama = dataclasses.replace(toy.LLAMA, vocab_size=9000)
    converted(toy.save_hugging_face(tmp_path / "hf", llama), run_of(tmp_path), "--to=orbax")
    assert "no vocabulary is known: give them --vocabulary FILE" in capsys.readouterr().out
    with pytest.raises(errors.FlanError, match=r"config.gin names no vocabulary; expected --vocabulary FILE"):
        saved.read_run(run_of(tmp_path))
    embedded = vocabulary.embedded_path()
    run = saved.read_run(run_of(tmp_path), embedded)
    assert run.model.config == llama
    # LLaMA's sequences begin with <s>, as its shipped files say.
    assert run.model.question_converter.bos_id == 1
    said = asked(monkeypatch, capsys, f"--checkpoint={run_of(tmp_path)}", f"--vocabulary={embedded}")
    converted(tmp_path / "hf", run_of(tmp_path), "--to=t5x", "--overwrite", f"--vocabulary={embedded}")
    assert asked(monkeypatch, capsys, f"--checkpoint={run_of(tmp_path)}") == said


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (toy.OPT, "%gin.REQUIRED"),
        (toy.OPT_350M, "%gin.REQUIRED"),
        (toy.LLAMA_GROUPED, "%gin.REQUIRED"),
        (toy.T5_RELU, "%gin.REQUIRED"),
        (
            dataclasses.replace(toy.T5, vocab_size=32128),
            "'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'",
        ),
    ],
    ids=repr,
)
def test_every_model_is_described(tmp_path, of, name):
    text = saved.described(sources.open_source(toy.save_hugging_face(tmp_path / "hf", of)), False)
    assert f"VOCABULARY_FILE = {name}\n" in text
    (tmp_path / "config.gin").write_text(text)
    if of.vocab_size < 8192:
        of = dataclasses.replace(of, vocab_size=8192)
        (tmp_path / "config.gin").write_text(text.replace("vocab_size = 67", "vocab_size = 8192"))
    again = saved.read_run(tmp_path / "checkpoint_0", vocabulary.embedded_path()).model.config
    rate = sources.open_source(tmp_path / "hf").config.dropout_rate
    assert again == dataclasses.replace(of, dropout_rate=rate)


def test_the_vocabulary_of_the_folder_is_named(tmp_path):
    folder = toy.save_hugging_face(tmp_path / "hf", dataclasses.replace(toy.LLAMA, vocab_size=32000))
    (folder / "tokenizer.model").write_bytes(b"")
    text = saved.described(sources.open_source(folder), False)
    assert f"VOCABULARY_FILE = {str(folder / 'tokenizer.model')!r}\n" in text


def test_of_a_run_its_own_configuration_is_taken_over(run_dir, tmp_path, monkeypatch, capsys):
    converted(run_dir / "checkpoint_7", run_of(tmp_path), "--to=orbax", "--layers=stacked")
    before, after = saved.read_run(run_dir / "checkpoint_7"), saved.read_run(run_of(tmp_path))
    assert after.model.config == dataclasses.replace(before.model.config, scan_layers=True)
    assert after.lengths == before.lengths != {}
    assert (
        [run.mixture for run in seen.trained_on(run_of(tmp_path))]
        == [run.mixture for run in seen.trained_on(run_dir / "checkpoint_7")]
        != []
    )
    assert asked(monkeypatch, capsys, f"--checkpoint={run_of(tmp_path)}") == asked(
        monkeypatch, capsys, f"--checkpoint={run_dir}"
    )


def test_a_vocabulary_that_cannot_be_replaced_is_said(run_dir, tmp_path):
    text = (run_dir / "config.gin").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("seqio.SentencePieceVocabulary.sentencepiece")]
    (tmp_path / "config.gin").write_text("\n".join(kept))
    with pytest.raises(errors.FlanError, match=r"names no SentencePiece vocabulary that 'x.model' could replace"):
        saved.read_run(tmp_path / "checkpoint_0", "x.model")
