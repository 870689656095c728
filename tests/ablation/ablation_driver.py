"""A sweep of stub commands in a process of its own: `python -m tests.ablation.ablation_driver ROOT JOBS SECONDS`."""

import pathlib
import signal
import sys

from flan_jax.ablation import run
from tests.ablation import ablation_grids

# Notes that it began, waits, writes its results whole. SIGTERM ends it, after a note.
STUB = """
import os, signal, sys, time
folder, seconds, text = sys.argv[1], float(sys.argv[2]), sys.argv[3]
def stop(number, frame):
    open(folder + "/stopped", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with open(folder + "/began", "a") as file:
    file.write("x")
time.sleep(seconds)
with open(folder + "/results.tmp", "w") as file:
    file.write(text)
os.rename(folder + "/results.tmp", folder + "/results.json")
"""


def value(key: str) -> float:
    """What a step scores: made of its name."""
    return 50.0 + sum(map(ord, key)) % 17 / 2


def command(seconds: float):
    def make(step, root):
        found = ablation_grids.results(value(step.key))
        return [sys.executable, "-S", "-c", STUB, str(root / step.key), str(seconds), found]

    return make


def main() -> int:
    root, jobs, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    try:
        failures = run.sweep(ablation_grids.sweep().steps, root, jobs=jobs, make=command(seconds))
    except run.Stopped as stopped:
        return 128 + stopped.number
    return 1 if failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
