"""docs/ABLATIONS.md does what it says: its commands, its table, its example."""

import re

import pytest

from flan_jax import ablate, config
from flan_jax.ablation import steps as steps_lib
from tests import markdown_commands

PAGE = (markdown_commands.ROOT / "docs" / "ABLATIONS.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_commands_run(tmp_path, sample_dir):
    assert markdown_commands.skipped(PAGE) == []
    shell = markdown_commands.Shell(tmp_path, sample_dir)
    said = "".join(shell.succeed(commands) for commands in markdown_commands.to_run(PAGE))
    assert "pretrain" in said
    assert "#SBATCH" in said or "sbatch --parsable" in said


def test_its_table_names_every_file():
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.partition("| flag |")[0], re.MULTILINE)))
    there = [path.stem for path in (config.shipped_gin_dir() / "ablations").glob("*.gin")]
    assert sorted(named) == sorted(there)


def test_its_example_resolves(tmp_path):
    (example,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "warmup.gin").write_text(example)
    ablation = ablate.read(config.GinFlags((str(tmp_path / "warmup.gin"),), (), ()))
    sweep = steps_lib.build(ablation.grid)
    assert [step.name for step in sweep.steps.values()].count("train") == 6
