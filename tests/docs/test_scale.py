"""docs/SCALE.md does what it says: its launchers print, and the tags that it lists are those of a run."""

import re

import pytest

from flan_jax.training import figures
from tests import markdown_commands

FILE = markdown_commands.ROOT / "docs" / "SCALE.md"
PAGE = FILE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_commands_run(tmp_path, sample_dir):
    assert len(markdown_commands.skipped(PAGE)) == 1
    said = "".join(
        markdown_commands.Shell(tmp_path, sample_dir).succeed(commands) for commands in markdown_commands.to_run(PAGE)
    )
    assert "--accelerator-type=v5litepod-64" in said
    assert "kind: JobSet" in said
    assert said.rstrip().endswith("# sbatch")


def test_its_links_lead_somewhere():
    assert markdown_commands.missing_links(FILE) == []


def test_the_tags_are_those_of_the_code():
    listed = set(re.findall(r"`((?:timing|goodput|memory)/\w+)`", PAGE))
    made = {*figures.Figures(1.0, 1.0).rates(1, 1.0, 1.0), *figures.goodput({}, 1.0), *figures.memory()}
    there = {"memory/device_peak_gib", "timing/data_wait_seconds", "goodput/data_wait"}
    assert made <= listed | there
    assert listed <= made | there


def test_every_plan_in_its_table_fits_its_device():
    rows = re.findall(r"^\| `\w.*? \| v\d.*? ([\d.]+) of ([\d.]+) GiB \((\d+)%\)", PAGE, flags=re.M)
    assert len(rows) == 6
    for used, there, percent in rows:
        assert round(100 * float(used) / float(there)) == int(percent) < 90
