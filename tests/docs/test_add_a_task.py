"""docs/ADD_A_TASK.md does what it says, command by command."""

import re

import pytest

from tests import markdown_commands

FILE = markdown_commands.ROOT / "docs" / "ADD_A_TASK.md"
PAGE = FILE.read_text(encoding="utf-8")
RUN = markdown_commands.to_run(PAGE)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shell(tmp_path_factory, sample_dir):
    return markdown_commands.Shell(tmp_path_factory.mktemp("add_a_task"), sample_dir)


def test_no_block_is_left_out():
    assert len(RUN) == 7
    assert markdown_commands.skipped(PAGE) == []
    assert markdown_commands.missing_links(FILE) == []


@pytest.mark.parametrize("commands", RUN, ids=[commands[0][:40] for commands in RUN])
def test_the_commands_of_a_block_run(commands, shell):
    shell.succeed(commands)


def test_what_they_leave_behind(shell):
    """After the last block: the code that the page shows, and a checkpoint of the second step."""
    (shown,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown in (shell.work / "mytasks" / "garden_quiz_task.py").read_text(encoding="utf-8")
    assert (shell.work / "runs" / "garden" / "checkpoint_2").is_dir()
    named = set(re.findall(r"`(mytasks/[a-z_.]+)`", PAGE))
    assert len(named) == 3
    assert [path for path in named if not (shell.work / path).is_file()] == []


def test_a_second_time_nothing_is_overwritten(shell):
    (new_task,) = [line for commands in RUN for line in commands if line.startswith("flan new-task")]
    ran = shell.run([new_task])
    assert ran.returncode == 1
    assert "mytasks/garden_quiz_task.py exists and is left as it is" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
