"""docs/DATASETS.md: its table is that of the registry, and every dataset whose choices it explains exists."""

import re
import subprocess
import sys

from flan_jax.data import mixtures
from flan_jax.tasks import cot
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


def test_the_counts_of_the_chain_of_thought():
    counts = PAGE.read_text(encoding="utf-8").partition("<!-- counts: tasks/cot.py -->")[2].partition("<!-- end")[0]
    cells = [line.strip("| ").split(" | ") for line in counts.splitlines() if line.startswith(("| `", "| together"))]
    told = {row[0].strip("`"): row[1:] for row in cells}
    whole = told.pop("together")
    assert whole[:2] == [f"{sum(cot.LINES.values()):,}", f"{sum(cot.EXAMPLES.values()):,}"] == ["74,771", "74,730"]
    known = {dataset.name: dataset for dataset in cot.SPECS}
    assert told.keys() == known.keys()
    for name, (lines, examples, read_from, rows) in told.items():
        assert [lines, examples] == [f"{cot.LINES[name]:,}", f"{cot.EXAMPLES[name]:,}"]
        assert rows == f"{known[name].train_rows:,}"
        assert (read_from == "the file") == known[name].tfds_dataset.startswith("cot_")
