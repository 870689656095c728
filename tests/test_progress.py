"""Progress: log lines where nobody watches, a bar on a terminal."""

import logging
import os
import pathlib
import pty
import re
import subprocess
import sys
import types

import pytest

from flan_jax import progress

ROOT = pathlib.Path(__file__).resolve().parent.parent

ON_A_TERMINAL = """
import logging
from flan_jax import log, progress
log.set_up()
with progress.Progress("train", 10, start=4) as bar:
    for step in range(5, 11):
        bar.advance(1, loss=step / 3)
        if step == 7:
            logging.getLogger("flan_jax.train").info("a line in between")
"""


@pytest.fixture
def clock(monkeypatch):
    found = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: found.now))
    return found


@pytest.fixture
def lines(caplog):
    # Straight at its logger: the command line's set-up keeps lines from the root logger.
    logger = logging.getLogger("flan_jax.progress")
    caplog.set_level(logging.INFO, logger.name)
    caplog.handler.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    propagates, logger.propagate = logger.propagate, False
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = propagates
    logger.removeHandler(caplog.handler)


def test_without_a_terminal_a_line_is_logged_every_ten_seconds_and_at_the_end(clock, lines):
    with progress.Progress("train", 40, start=10) as bar:
        for step in range(11, 41):
            clock.now += 1.0
            bar.advance(1, loss=step / 10, note="x")
    assert lines() == [
        "train: 21/40 steps in 0:11, 0:19 left loss 2.1 note x",
        "train: 32/40 steps in 0:22, 0:08 left loss 3.2 note x",
        "train: 40/40 steps in 0:30 loss 4 note x",
    ]


def test_a_total_may_be_unknown_and_hours_are_written_out(clock, lines):
    with progress.Progress("read", None, unit="rows") as bar:
        clock.now += 3725
        bar.advance(7)
    assert lines() == ["read: 7 rows in 1:02:05 "]  # once, although the end is due as well


def test_what_failed_or_did_nothing_logs_no_end(clock, lines):
    with progress.Progress("train", 3):
        pass

    def fail() -> None:
        with progress.Progress("train", 3) as bar:
            bar.advance(1)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert lines() == []


def test_on_a_terminal_there_is_a_bar_and_log_lines_stand_whole_above_it():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        said += read
    os.close(ours)
    assert process.wait(60) == 0, said
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    last = text.replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(r"train .*━.* 10/10 0:00:0\d left 0:00:00 loss 3.333", last), text
    assert "steps in" not in text  # no log lines of its own
    assert any(re.fullmatch(r"\d\d:\d\d:\d\d a line in between *", line) for line in re.split(r"[\r\n]+", text)), text
