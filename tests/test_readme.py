"""Every command in README.md runs, offline, in the order in which a reader meets them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_SKIPPED = 3
# A block, and the comment before it that says why it is not run: <!-- not run: downloads a checkpoint -->
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+?) -->\s*)?^```bash\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match["reason"], match["commands"]) for match in BLOCK.finditer(README)]
# What sets the environment up cannot run inside it; of `make` the target is looked for.
SET_UP = re.compile(r"^(make|git clone|cd|source|\.|pip|python -m (pip|venv)|python3(\.\d+)? -m venv)\b")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("readme")]  # in order, each in the folder that the last one left


def commands_of(block: str) -> list[str]:
    """The commands of a block; a line that ends in a backslash goes on."""
    joined = block.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.strip().startswith("#")]


RUN = [
    commands
    for reason, block in BLOCKS
    if reason is None and (commands := [line for line in commands_of(block) if not SET_UP.match(line)])
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory, sample_dir):
    """An empty folder, with `flan` and `python` of this interpreter on the path, and no way to the network."""
    folder = tmp_path_factory.mktemp("readme")
    tools = folder / "bin"
    tools.mkdir()
    for name, arguments in (("flan", "-m flan_jax.cli"), ("python", ""), ("pytest", "-m pytest")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    (folder / "work").mkdir()
    for name in ("scripts", "benchmarks", "Makefile"):
        (folder / "work" / name).symlink_to(ROOT / name)
    nowhere = "http://127.0.0.1:9"
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "FLAN_JAX_CACHE": str(pathlib.Path(sample_dir).parent),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiled in a third of the time
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
    }

    def run(commands: list[str]) -> subprocess.CompletedProcess:
        script = "\n".join(["set -euo pipefail", *commands])
        return subprocess.run(
            ["bash", "-c", script], cwd=folder / "work", env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_few_blocks_are_not_run():
    assert RUN
    skipped = [(reason, commands) for reason, commands in BLOCKS if reason is not None]
    assert len(skipped) <= MOST_SKIPPED, skipped


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(named)
    assert set(named) <= targets


@pytest.mark.parametrize("commands", RUN, ids=[commands[0][:40] for commands in RUN])
def test_the_commands_of_a_block_run(commands, shell):
    ran = shell(commands)
    assert ran.returncode == 0, f"{commands}\n--- stdout\n{ran.stdout[-3000:]}\n--- stderr\n{ran.stderr[-3000:]}"
    assert "Traceback" not in ran.stderr


def test_every_file_that_it_links_to_exists():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
