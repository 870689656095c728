"""docs/PACKED_CACHE.md does what it says, command by command."""

import pytest

from tests import markdown_commands

FILE = markdown_commands.ROOT / "docs" / "PACKED_CACHE.md"
PAGE = FILE.read_text(encoding="utf-8")
RUN = markdown_commands.to_run(PAGE)

pytestmark = pytest.mark.slow


def test_its_commands_run(tmp_path, sample_dir):
    assert markdown_commands.skipped(PAGE) == ["needs a Google Cloud project"]
    shell = markdown_commands.Shell(tmp_path, sample_dir)
    said = "".join(shell.succeed(commands) for commands in RUN)
    assert "256 rows" in said
    assert "all as written" in said
    assert (shell.work / "runs" / "cached" / "checkpoint_10").is_dir()
    assert any((shell.work / "compiled").iterdir())
