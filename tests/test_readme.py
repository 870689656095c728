"""Every command in README.md runs, offline, in the order in which a reader meets them."""

import re

import pytest

from tests import markdown_commands

README = markdown_commands.ROOT / "README.md"
PAGE = README.read_text(encoding="utf-8")
RUN = markdown_commands.to_run(PAGE)
MOST_SKIPPED = 3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shell(tmp_path_factory, sample_dir):
    return markdown_commands.Shell(tmp_path_factory.mktemp("readme"), sample_dir)


def test_few_blocks_are_not_run():
    assert RUN
    assert len(markdown_commands.skipped(PAGE)) <= MOST_SKIPPED


def test_every_make_target_exists():
    makefile = (markdown_commands.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", PAGE, re.MULTILINE)
    assert {"demo", "test"} <= set(named)
    assert set(named) <= targets


@pytest.mark.parametrize("commands", RUN, ids=[commands[0][:40] for commands in RUN])
def test_the_commands_of_a_block_run(commands, shell):
    shell.succeed(commands)


def test_the_python_example_runs_on_the_model_trained_above(shell):
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(example.split("\n\n")[-1].splitlines()) <= 10
    (shell.work / "example.py").write_text(example)
    said = shell.succeed(["python example.py"])
    assert len(said.splitlines()) >= 3


def test_every_file_that_it_links_to_exists():
    assert markdown_commands.missing_links(README) == []
