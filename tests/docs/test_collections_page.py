"""docs/COLLECTIONS.md does what it says: its commands, its table, its example."""

import re

import pytest

from flan_jax.data import mixtures
from tests import markdown_commands

PAGE = (markdown_commands.ROOT / "docs" / "COLLECTIONS.md").read_text(encoding="utf-8")
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")

pytestmark = pytest.mark.slow


def test_its_commands_and_its_example_run(tmp_path, sample_dir):
    assert markdown_commands.skipped(PAGE) == []
    shell = markdown_commands.Shell(tmp_path, sample_dir)
    said = "".join(shell.succeed(commands) for commands in markdown_commands.to_run(PAGE))
    assert "flan2022_heldout_nli holds nothing of nli" in said
    assert "nli: fully held-out: " in said
    assert "sentiment: fully supervised: " in said
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (shell.work / "my_blends.py").write_text(example)
    lengths = "--steps=10 --batch=8 --inputs=256 --targets=128"
    shown = shell.succeed(
        [f"PYTHONPATH=$PYTHONPATH:. flan mixture mine --module my_blends --tfds_data_dir=sample {lengths}"]
    )
    assert "muffin" in shown


def test_its_table_is_that_of_the_collections():
    rows = re.findall(r"^\| (`.*?)\| ([\d,; ]+) \|", PAGE, re.MULTILINE)
    told = {}
    for names, counts in rows:
        found = [name for name in re.findall(r"`([a-z0-9_]+)`", names.partition(" (")[0]) if name]
        numbers = [int(count.replace(",", "")) for count in counts.split(";")]
        told |= dict(zip(found, numbers if len(numbers) > 1 else numbers * len(found), strict=True))
    assert set(CATALOGUE.blends.collections) - {"promptsource"} == set(told) - {"cot"}
    for name, count in told.items():
        assert count == (9 if name == "cot" else len(CATALOGUE.blends.members(name))), name


def test_every_mixture_that_it_names_exists():
    names = re.findall(r"`((?:flan2022|opt_iml)\w*(?:\{[\w,]+\}\w*)?)`", PAGE)
    assert len(names) > 10
    for name in names:
        before, brace, rest = name.partition("{")
        middles, _, after = rest.partition("}")
        for middle in middles.split(",") if brace else [""]:
            assert CATALOGUE.mixture(before + middle + after).tasks
