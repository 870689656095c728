"""Runs the ```bash blocks of a Markdown page as a reader would: in order, in one folder, offline."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A block, and the comment before it that says why it is not run: <!-- not run: downloads a checkpoint -->
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\s*)?^```bash\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL
)
# What sets the environment up cannot run inside it.
_SET_UP = re.compile(r"^(make|git clone|cd|source|\.|pip|python -m (pip|venv)|python3(\.\d+)? -m venv)\b")


def blocks(page: str) -> list[tuple[str | None, list[str]]]:
    """Each block's commands, and why they are not run or None; a line that ends in a backslash goes on."""
    found = []
    for match in _BLOCK.finditer(page):
        lines = match["commands"].replace("\\\n", " ").splitlines()
        commands = [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
        found.append((match["reason"], commands))
    return found


def to_run(page: str) -> list[list[str]]:
    """The commands of the blocks that are run, without those that set the environment up; no empty block."""
    runs = (
        [line for line in commands if not _SET_UP.match(line)] for reason, commands in blocks(page) if reason is None
    )
    return [commands for commands in runs if commands]


def skipped(page: str) -> list[str]:
    """Why blocks are not run, a reason each."""
    return [reason for reason, _ in blocks(page) if reason is not None]


def missing_links(page: pathlib.Path) -> list[str]:
    """The files that a page links to and that are not there."""
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    return [link for link in links if not (page.parent / link).exists()]


class Shell:
    """A folder to work in, with `flan` and `python` of this interpreter on the path, and no way to the network.

    Commands find the folder and the exported variables as the last ones left them.
    """

    def __init__(self, folder: pathlib.Path, sample_dir: str) -> None:
        """Makes FOLDER/work; `sample_dir` is the prepared embedded sample, which the commands need not make again."""
        self.work, self._exported = folder / "work", folder / "exported"
        tools = folder / "bin"
        tools.mkdir()
        # -P: an installed `flan` does not look for modules in the current folder.
        for name, arguments in (("flan", "-P -m flan_jax.cli"), ("python", ""), ("pytest", "-P -m pytest")):
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            (tools / name).chmod(0o755)
        self.work.mkdir()
        for name in ("scripts", "benchmarks", "Makefile"):
            (self.work / name).symlink_to(ROOT / name)
        nowhere = "http://127.0.0.1:9"
        self._environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "FLAN_JAX_CACHE": str(pathlib.Path(sample_dir).parent),
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
        }

    def run(self, commands: list[str]) -> subprocess.CompletedProcess:
        """Runs the commands of a block, the first failing one being the last."""
        before = [f". '{self._exported}'"] if self._exported.exists() else []
        script = "\n".join(["set -euo pipefail", *before, *commands, f"export -p > '{self._exported}'"])
        return subprocess.run(
            ["bash", "-c", script], cwd=self.work, env=self._environment, capture_output=True, text=True, check=False
        )

    def succeed(self, commands: list[str]) -> str:
        """Runs the commands of a block, fails the test if one of them fails, and returns what they printed."""
        ran = self.run(commands)
        if ran.returncode or "Traceback" in ran.stderr:
            pytest.fail(f"{commands}\n--- stdout\n{ran.stdout[-3000:]}\n--- stderr\n{ran.stderr[-3000:]}")
        return ran.stdout
