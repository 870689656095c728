"""docs/MODELS.md: its tables are those of the presets, and its gin files name the presets that they stand beside."""

import re
import subprocess
import sys

import pytest

from flan_jax import config
from flan_jax.models import presets
from tests import markdown_commands

PAGE = markdown_commands.ROOT / "docs" / "MODELS.md"
ROWS = re.findall(r"^\| `([\w.]+)` \| `(models/\S+\.gin)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_tables_are_up_to_date():
    script = markdown_commands.ROOT / "scripts" / "model_table.py"
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_preset_and_every_gin_file_has_a_row():
    assert {name for name, _ in ROWS} == {*presets.T5_1_1, *presets.DECODER_ONLY}
    shipped = {
        str(path.relative_to(config.shipped_gin_dir()))
        for path in config.shipped_gin_dir().glob("models/*/*.gin")
        if path.parent.name != "small_world"  # no paper's, and no presets
    }
    assert {file for _, file in ROWS} == {file for file in shipped if "base_model" not in file}


@pytest.mark.parametrize(("name", "file"), ROWS)
def test_a_gin_file_names_its_preset(name, file):
    text = (config.shipped_gin_dir() / file).read_text(encoding="utf-8")
    assert re.findall(r"^network\.\w+\.preset = '(.*)'$", text, re.MULTILINE) == [name]
