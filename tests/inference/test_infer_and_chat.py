"""`flan infer` and `flan chat`, from the command line to files and pipes."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flan_jax import chat, cli, config
from flan_jax.evaluation import open_ended
from flan_jax.inference import settings
from tests import markdown_commands


@pytest.fixture(autouse=True)
def _gin():
    with config.isolated():
        yield


def stopped(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    said = capsys.readouterr().err.strip().splitlines()
    return exit_.value.code, said[-1]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompts_of_a_file_are_answered(run_dir, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text(
        '{"inputs": "Is it so?", "id": 7}\n{"inputs": "Is the dog running?", "id": 8}\n'
    )
    out = tmp_path / "out.jsonl"
    flags = ["infer", f"--checkpoint={run_dir}", f"--prompts={tmp_path / 'prompts.jsonl'}", f"--out={out}"]
    assert cli.main([*flags, "--max_tokens=5"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 predictions\n"
    assert [(line["index"], line["id"], line["inputs"]) for line in lines(out)] == [
        (0, 7, "Is it so?"),
        (1, 8, "Is the dog running?"),
    ]
    notes = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
    assert notes["checkpoint"] == str(run_dir / "checkpoint_7")
    assert notes["decoding"]["max_tokens"] == 5
    assert stopped([*flags, "--max_tokens=6"], capsys)[1].startswith(
        f"flan: {out} was begun with decoding.max_tokens = 5"
    )


def test_open_questions_are_answered_by_a_selected_sample(run_dir, tmp_path):
    (tmp_path / "prompts.txt").write_text("Is it so?\n")
    out = tmp_path / "out.jsonl"
    flags = ["infer", f"--checkpoint={run_dir}", f"--prompts={tmp_path / 'prompts.txt'}", f"--out={out}"]
    assert cli.main([*flags, "--max_tokens=5", "--open_ended"]) == 0
    (line,) = lines(out)
    chosen = open_ended.select(line["scores"])
    assert len(set(line["scores"])) > 1
    assert (line["prediction"], line["score"]) == (line["predictions"][chosen], line["scores"][chosen])
    notes = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
    assert (notes["decoding"]["n"], notes["decoding"]["temperature"], notes["select"]) == (5, 0.7, "open_ended")


def test_a_task_is_answered_the_same_from_flags_and_from_gin(run_dir, sample_dir, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    task = ["--task=rte_type_0_one_shot", "--split=validation", f"--tfds_data_dir={sample_dir}", "--num_examples=3"]
    asked = ["--max_tokens=4", f"--out={out}", "--batch_size=8", "--inputs=256"]
    assert cli.main(["infer", f"--checkpoint={run_dir}", *task, *asked]) == 0
    found = lines(out)
    assert len(found) == 3
    # The exemplar is part of the prompt.
    assert all("###" in line["inputs"] or line["inputs"].count("OPTIONS:") == 2 for line in found)
    assert all(line["answers"][0] in ("yes", "no") for line in found)

    gin = {
        "CHECKPOINT_PATH": str(run_dir),
        "INFER_OUTPUT_DIR": str(tmp_path / "gin"),
        "MIXTURE_OR_TASK_NAME": "rte_type_0_one_shot",
        "TASK_FEATURE_LENGTHS": {"inputs": 256, "targets": 16},
        "EVAL_SPLIT": "validation",
        "EVAL_EXAMPLES": 3,
        "BATCH_SIZE": 8,
        "decoding.Settings.max_tokens": 4,
        "network.T5Config.num_encoder_layers": 1,
        "network.T5Config.num_decoder_layers": 1,
    }
    flags = ["--gin_file=models/t5_1_1/tiny.gin", "--gin_file=runs/infer.gin", f"--tfds_data_dir={sample_dir}"]
    assert cli.main(["infer", *flags, *(f"--gin.{name}={value!r}" for name, value in gin.items())]) == 0
    again = lines(tmp_path / "gin" / "rte_type_0_one_shot-predict.jsonl")
    for ours, expected in zip(again, found, strict=True):
        assert ours.pop("score") == pytest.approx(expected.pop("score"), rel=1e-5)
        assert ours == expected
    assert "rte_type_0_one_shot-predict.jsonl: 3 predictions" in capsys.readouterr().out


def test_a_killed_run_goes_on_where_it_was(run_dir, tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"Question {number}: is it so?\n" for number in range(400)))
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    flags = [f"--checkpoint={run_dir}", f"--prompts={tmp_path / 'p.txt'}", "--max_tokens=20", "--batch_size=2"]
    command = [sys.executable, "-m", "flan_jax.cli", "infer", *flags, f"--out={out}"]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(markdown_commands.ROOT),
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not partial.exists() or partial.stat().st_size < 500:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not out.exists()
    first = partial.read_bytes()
    first = first[: first.rfind(b"\n") + 1]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    found = out.read_text().splitlines(keepends=True)
    assert [json.loads(line)["index"] for line in found] == list(range(400))
    # What was there is there as it was.
    assert set(first.decode().splitlines(keepends=True)) <= set(found)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "the following arguments are required: --checkpoint, --out"),
        (["--checkpoint=x", "--out=y"], 2, "one of the arguments --prompts --task is required"),
        (["--checkpoint=x", "--out=y", "--prompts=no.txt"], 1, "flan: no prompt file no.txt"),
        (
            ["--checkpoint=x", "--out=y", "--task=rte_typ_0"],
            1,
            "flan: unknown task or mixture 'rte_typ_0'; did you mean",
        ),
        (
            ["--checkpoint=x", "--out=y", "--task=rte_type_0", "--top_p=2"],
            1,
            "flan: top_p is 2.0; expected more than 0",
        ),
        (
            ["--checkpoint=x", "--out=y", "--task=nli_10templates", "--tfds_data_dir=SAMPLE", "--split=validation"],
            1,
            "flan: 'nli_10templates' is a mixture of ",
        ),
        (["--gin_file=runs/infer.gin", "--gin.INFER_OUTPUT_DI='x'"], 1, "macro 'CHECKPOINT_PATH' is required"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(flags, code, message, capsys, sample_dir):
    flags = [flag.replace("SAMPLE", sample_dir) for flag in flags]
    found, said = stopped(["infer", *flags], capsys)
    assert found == code
    assert message in said


# ---- flan chat


class Parrot:
    """In place of a model."""

    def __init__(self):
        self.seeds = []

    def stream(self, text, how):
        self.seeds.append(how.seed)
        yield from (f"{how.temperature}", " ", text)

    def generate(self, text, how):
        class Answer:
            texts = tuple(f"{text} {number}" for number in range(how.n))
            text = texts[0]

        return [Answer]


def talk(typed, how=None):
    out, parrot = io.StringIO(), Parrot()
    session = chat.Session(parrot, how or settings.Settings(), out)
    code = chat.converse(session, io.StringIO(typed))
    return out.getvalue(), code, parrot


def test_every_line_is_a_prompt_or_a_command(capsys):
    said, code, parrot = talk("Hello\n\n/temperature 0.5\nAgain\n/reset\nAnd again\n/quit\nnever\n")
    told = said.splitlines()
    assert code == 0
    assert (told[0], told[2], told[4]) == ("0.0 Hello", "0.5 Again", "0.0 And again")
    assert len(told) == 5
    assert told[1].startswith("max_tokens 128  temperature 0.5")
    # A seed for each turn, the first again after a reset.
    assert len(set(parrot.seeds[:2])) == 2
    assert parrot.seeds[2] == parrot.seeds[0]
    assert capsys.readouterr().err == ""


def test_several_answers_are_numbered():
    assert talk("/temperature 1\n/n 2\nHi\n")[0].splitlines()[2:] == ["1. Hi 0", "2. Hi 1"]
    assert talk("/beams 2\nHi")[0].splitlines()[1:] == ["Hi 0"]


def test_a_mistake_is_told_and_the_conversation_goes_on(capsys):
    said, code, _ = talk('/temprature 1\n/top_p 7\n/n x\nHi\n/stop "."\n/stop\n')
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "flan: unknown command '/temprature'; did you mean '/temperature'?"
    assert told[1].startswith("flan: top_p is 7.0; expected")
    assert told[2] == "flan: /n was given 'x'; expected a number, e.g. /n 4"
    assert code == 1
    assert said.splitlines()[0] == "0.0 Hi"
    assert ["stop ('.',)" in said.splitlines()[1], "stop ()" in said.splitlines()[2]] == [True, True]


def test_help_names_every_setting():
    said = talk("/help\n")[0]
    for command in ("/settings", "/reset", "/quit", "/temperature"):
        assert command in said


def test_a_pipe_gets_answers_a_line_each(run_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Is it so?\nThe dog runs.\n"))
    assert cli.main(["chat", f"--checkpoint={run_dir}", "--max_tokens=5"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err == ""
    assert stopped(["chat", f"--checkpoint={run_dir}x"], capsys) == (
        1,
        f"flan: no run or checkpoint at {run_dir}x: it does not exist; did you mean 'demo'?",
    )
