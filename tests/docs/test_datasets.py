"""docs/DATASETS.md: its table is that of the registry, and every dataset whose choices it explains exists."""

import re
import subprocess
import sys

from flan_jax.data import mixtures
from tests import markdown_commands

PAGE = markdown_commands.ROOT / "docs" / "DATASETS.md"


def test_the_table_is_up_to_date():
    script = markdown_commands.ROOT / "scripts" / "dataset_table.py"
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_choices_are_about_datasets_that_exist():
    names = {dataset.name for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs}
    _, choices = PAGE.read_text(encoding="utf-8").split("### What a row becomes")
    told = [
        name for cell in re.findall(r"^\| ([^|]*) \|", choices, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    ]
    assert len(told) > 30
    for name in told:
        assert any(re.fullmatch(name.replace("*", ".*"), known) for known in names), name
