"""The command line: help, hints, exit codes."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from flan_jax import cli, config

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMO = ["--gin_file=recipes/demo.gin", "--gin.MODEL_DIR='run'"]


@pytest.fixture(autouse=True)
def _gin() -> Iterator[None]:
    with config.isolated():  # what one test binds the next one must not find
        yield


def stopped(arguments) -> Any:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return exit_.value.code


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_flan_alone_lists_its_commands(arguments, code, capsys):
    assert cli.main(arguments) == code
    shown = capsys.readouterr().out
    for name, (_, about) in cli.COMMANDS.items():
        assert f"  {name:16}{about}\n" in shown


@pytest.mark.parametrize("command", [*cli.COMMANDS, "data import"])
def test_every_command_has_help(command, capsys):
    assert stopped([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: flan {command}")
    assert "--help" in shown


@pytest.mark.parametrize(
    ("given", "hint"), [("trian", "; did you mean 'train'?"), ("zzz", "; known: ablate, chat, check, check-templates,")]
)
def test_an_unknown_command_brings_a_hint(given, hint, capsys):
    assert stopped([given]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"flan: unknown command {given!r}{hint}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "eval", "check"])
def test_a_run_without_a_configuration_says_what_to_give(command, capsys):
    assert stopped([command]) == 2
    assert "no configuration: expected --gin_file=PATH, e.g. --gin_file=recipes/demo.gin" in capsys.readouterr().err


def test_a_dry_run_prints_a_configuration_that_parses_to_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *DEMO, "--tfds_data_dir=sample", "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "utils.DatasetConfig.data_dir = 'sample'\n" in text
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "again.gin").write_text(text)
    assert cli.main(["train", "--gin_file=again.gin", "--dry_run"]) == 0
    assert capsys.readouterr().out == text
    assert config.config_hash(text) == config.config_hash("# a comment\n" + text)


def test_missing_data_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stopped(["train", *DEMO, f"--gin.MODEL_DIR={str(tmp_path / 'run')!r}"]) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flan: ")]
    assert said.startswith("flan: no data directory: expected --tfds_data_dir=DIR with prepared TFDS datasets")
    assert said.endswith("--tfds_data_dir=sample reads the embedded sample")
    assert not (tmp_path / "run").exists()


def test_a_data_directory_without_the_datasets_names_each_of_them(tmp_path, capsys):
    arguments = ["--gin.MIXTURE_OR_TASK_NAME='sentiment_10templates'", f"--gin.MODEL_DIR={str(tmp_path / 'run')!r}"]
    (tmp_path / "data").mkdir()
    assert stopped(["train", *DEMO, *arguments, f"--tfds_data_dir={tmp_path / 'data'}"]) == 1
    said = capsys.readouterr().err
    for name in ("imdb_reviews", "sentiment140", "glue/sst2", "yelp_polarity_reviews"):
        assert f"dataset '{name}" in said
    # gin's own note of what it was calling is of no use to a user.
    assert "Traceback" not in said
    assert "configurable" not in said


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "preview", (interrupted, ""))
    assert stopped(["preview"]) == 130
    assert capsys.readouterr().err == "flan: interrupted\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(argv):
        raise ValueError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "preview", (broken, ""))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["preview"])


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flan_jax.cli", "--help"]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_python_m_train_is_flan_train():
    ran = subprocess.run(
        [sys.executable, "-m", "flan_jax.train", "--gin_file=recipes/dmeo.gin"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("flan: no gin file 'recipes/dmeo.gin' in ")


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path, sample_dir, capsys):
    run = f"--gin.MODEL_DIR={str(tmp_path / 'run')!r}"
    arguments = [*DEMO, run, f"--tfds_data_dir={sample_dir}", "--gin.network.T5Config.vocab_size=4096"]
    assert stopped(["train", *arguments]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said == "flan: the vocabulary has 8192 pieces, but network.T5Config.vocab_size is 4096; expected at least 8192"
    )
    assert not (tmp_path / "run").exists()
