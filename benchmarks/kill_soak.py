"""A run that is killed again and again, beside one that is not: equal to the bit?

    python benchmarks/kill_soak.py [--kills 30] [--terms 10] [--steps 400] [--online] [--seed 0] [--out DIR]

gin/recipes/demo.gin, shrunk to one layer, with dropout, evaluations and a checkpoint every five steps. SIGKILL and SIGTERM are
sent at random moments: after a step, while a checkpoint is written, during an evaluation, SIGKILL also while the run starts. A
SIGTERM must end the run with exit code 0 and the step that it reached saved. At the end the parameters, the optimizer's state,
every step's loss and the data position are compared with the uninterrupted run's. Exit code 1 if anything differs.

Input is a packed cache of the embedded sample, for which a start takes a few seconds; `--online` reads the rows themselves.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

MIXTURE = "sentiment_10templates"
LENGTHS = {"inputs": 64, "targets": 16}
PERIOD, EVAL_PERIOD, BATCH = 5, 7, 8
PATIENCE = 600.0  # seconds for anything that a run does
MOMENTS = ("start", "step", "save", "eval")
WITH_A_STEP = MOMENTS[1:]  # a SIGTERM is to save a step: before the first there is none
ROOT = pathlib.Path(__file__).resolve().parent.parent


def flags(model_dir: pathlib.Path, steps: int, caches: dict[str, str] | None) -> list[str]:
    """What comes after `flan train`."""
    bindings: dict[str, Any] = {
        "MODEL_DIR": str(model_dir),
        "MIXTURE_OR_TASK_NAME": MIXTURE,
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "BATCH_SIZE": BATCH,
        "TRAIN_STEPS": steps,
        "CHECKPOINT_PERIOD": PERIOD,
        "EVAL_PERIOD": EVAL_PERIOD,
        "EVAL_STEPS": 4,
        "DROPOUT_RATE": 0.1,
        "train_script.train.stats_period": 1,
        "network.T5Config.num_encoder_layers": 1,
        "network.T5Config.num_decoder_layers": 1,
    }
    if caches:
        bindings |= {"PACKED_CACHE": caches["train"], "PACKED_EVAL_CACHE": caches["validation"]}
    bound = [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    return ["--gin_file=recipes/demo.gin", "--tfds_data_dir=sample", *bound]


class Run:
    """One MODEL_DIR, and the processes that work on it one after the other."""

    def __init__(
        self, model_dir: pathlib.Path, steps: int, caches: dict[str, str] | None, compiled: pathlib.Path
    ) -> None:
        self.model_dir, self.steps = model_dir, steps
        self._launched = 0.0
        self._metrics = model_dir / "train" / "metrics.jsonl"
        self._read = 0
        self._command = [sys.executable, "-m", "flan_jax.cli", "train", *flags(model_dir, steps, caches)]
        self._command.append(f"--compilation_cache_dir={compiled}")
        self.log = model_dir.with_suffix(".log")
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def start(self) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._launched = time.time()
        # A line that was cut off is taken away by the next process.
        self._read = self._metrics.read_bytes().rfind(b"\n") + 1 if self._metrics.exists() else 0
        with self.log.open("ab") as file:
            return subprocess.Popen(self._command, stdout=file, stderr=file, env=environment, cwd=self.model_dir.parent)

    def finish(self) -> None:
        code = self.start().wait(PATIENCE)
        if code:
            raise SystemExit(f"the run ended with {code}:\n{self.log.read_text()[-3000:]}")

    def saved(self) -> int:
        """The newest checkpoint that is whole."""
        found = [
            int(path.parent.name.rpartition("_")[2]) for path in self.model_dir.glob("checkpoint_*/commit_success.txt")
        ]
        return max(found, default=0)

    def step(self) -> int:
        """The last step whose metrics this process has written; those of an earlier one may be ahead of it."""
        if not self._metrics.exists():
            return 0
        written = self._metrics.read_bytes()[self._read :].decode()
        found = re.findall(r'^{"step": (\d+), "accuracy', written, re.MULTILINE)
        return int(found[-1]) if found else 0

    def saving(self, after: int) -> bool:
        """Whether this process has begun a checkpoint of a step from `after` on."""
        begun = (path.name for path in self.model_dir.glob("checkpoint_*") if self._is_new(path))
        numbers = (re.match(r"checkpoint_(\d+)", name) for name in begun)
        return any(match is not None and int(match[1]) >= after for match in numbers)

    def _is_new(self, path: pathlib.Path) -> bool:
        try:
            return path.stat().st_mtime > self._launched
        except FileNotFoundError:  # a checkpoint that has just been renamed
            return False


def moment(run: Run, kind: str, target: int, draw: random.Random) -> Callable[[], bool]:
    """Returns a test for whether the moment has come, a little after which the signal is sent."""
    if kind == "start":
        until = time.monotonic() + draw.uniform(0.3, 6.0)
        return lambda: time.monotonic() >= until
    if kind == "save":
        at = -(-target // PERIOD) * PERIOD
        return lambda: run.saving(at)
    if kind == "eval":
        at = -(-target // EVAL_PERIOD) * EVAL_PERIOD
        return lambda: run.step() >= at  # written right before the evaluation begins
    return lambda: run.step() >= target


def interrupt(run: Run, number: int, kind: str, target: int, draw: random.Random) -> str:
    """Starts the run, sends a signal at a moment, and returns what came of it; 'ended' where the run was faster."""
    size = run.log.stat().st_size if run.log.exists() else 0
    process = run.start()
    come, deadline = moment(run, kind, target, draw), time.monotonic() + PATIENCE
    while not come():
        if process.poll() is not None:
            return "ended" if process.returncode == 0 else f"WRONG: exit code {process.returncode} before any signal"
        if time.monotonic() > deadline:
            process.kill()
            return "WRONG: it hangs"
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.03))
    process.send_signal(number)
    code = process.wait(PATIENCE)
    said = run.log.read_text()[size:]
    if number == signal.SIGKILL:
        return "killed" if code == -signal.SIGKILL else "ended"
    if code == -signal.SIGTERM and not said:
        return "before Python read its first line"
    if code != 0:
        return f"WRONG: SIGTERM gave exit code {code}: {said[-500:]}"
    stopped = re.search(r"stopped after step (\d+) of", said)
    if stopped:
        return "saved" if run.saved() == int(stopped[1]) else f"WRONG: stopped at {stopped[1]}, saved {run.saved()}"
    return "nothing to save" if "before the first step" in said else "ended"


def differences(one: Run, other: Run) -> list[str]:
    """What differs between two finished runs."""
    from flan_jax.checkpoint import fingerprint, manager
    from flan_jax.models import presets
    from flan_jax.training import metrics, optim, state

    config = presets.t5_config("tiny", vocab_size=8192, num_encoder_layers=1, num_decoder_layers=1)
    shapes = state.abstract(config, optim.Adafactor()).checkpoint_tree()
    trees, losses, positions = [], [], []
    for run in (one, other):
        folder = run.model_dir / f"checkpoint_{run.steps}"
        trees.append(fingerprint.named_leaves(manager.restore_from(folder, shapes)))
        lines = metrics.read(str(run.model_dir / "train"))
        losses.append({int(line["step"]): line["loss"] for line in lines if "loss" in line})
        positions.append(json.loads((folder / "dataset" / "metadata").read_text()))
    found = [name for name, leaf in trees[0].items() if leaf.tobytes() != trees[1][name].tobytes()]
    found += [f"loss of step {step}" for step in range(1, one.steps + 1) if losses[0].get(step) != losses[1].get(step)]
    return found + (["data position"] if positions[0] != positions[1] else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--online", action="store_true", help="read rows rather than a packed cache")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", help="where the runs go; a new temporary directory if not given")
    given = parser.parse_args()
    folder = pathlib.Path(given.out or tempfile.mkdtemp(prefix="kill_soak_")).resolve()
    caches = None
    if not given.online:
        from flan_jax.data import cache_write

        caches = {split: str(folder / split) for split in ("train", "validation")}
        for split, directory in caches.items():
            asked = cache_write.Request(
                MIXTURE, "flan_jax.tasks.catalogue", "sample", None, LENGTHS["inputs"], LENGTHS["targets"], split
            )
            cache_write.build(asked, directory, 64)
    whole, broken = (
        Run(folder / name / "run", given.steps, caches, folder / "compiled") for name in ("whole", "broken")
    )
    began = time.monotonic()
    whole.finish()
    print(f"uninterrupted: {given.steps} steps in {time.monotonic() - began:.0f} s", flush=True)
    draw = random.Random(given.seed)
    signals = [signal.SIGKILL] * given.kills + [signal.SIGTERM] * given.terms
    draw.shuffle(signals)
    outcomes: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for index, number in enumerate(signals):
        kind = draw.choice(MOMENTS if number == signal.SIGKILL else WITH_A_STEP)
        # The steps that are left are shared by the signals that are left.
        share = (given.steps - broken.saved()) / (len(signals) - index + 1)
        target = broken.saved() + 1 + int(draw.uniform(0, 1.6 * share))
        what = interrupt(broken, number, kind, target, draw)
        outcomes[number.name, kind, what] += 1
        print(f"{index + 1:3} {number.name} {kind:5} -> {what}; saved: step {broken.saved()}", flush=True)
    broken.finish()
    found = differences(whole, broken)
    for (name, kind, what), count in sorted(outcomes.items()):
        print(f"{count:3} x {name} at {kind:5} {what}")
    wrong = sum(count for (_, _, what), count in outcomes.items() if what.startswith("WRONG"))
    early = sum(count for (_, _, what), count in outcomes.items() if what == "ended")
    sent = sum(outcomes.values()) - early
    print(
        f"{sent} of {len(signals)} signals were sent in time; {wrong} went wrong; {time.monotonic() - began:.0f} s; {folder}"
    )
    print(f"UNEQUAL: {', '.join(found[:10])} ({len(found)})" if found else "equal bit for bit")
    return int(bool(found or wrong))


if __name__ == "__main__":
    sys.exit(main())
