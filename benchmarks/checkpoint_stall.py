"""What checkpoints cost a run of 100M parameters, and how long a start takes when everything has been compiled before.

    python benchmarks/checkpoint_stall.py [--steps 200] [--period 20] [--batch 8] [--inputs 64] [--targets 16]
        [--cache DIR] [--starts 3] [--out DIR] [--json FILE]

`flan train` in processes of its own, on a packed cache, one after the other:
  cold     a first start, which compiles; its step times are not used
  warm     starts that find the compilation cache filled: seconds from the launch to the end of the first step
  without  --steps steps, nothing saved but the last
  with     the same, a checkpoint every --period steps
The first ten steps of both are left out. `stall` is what the run with checkpoints takes longer, as a share of the time
without: the pauses in which arrays are copied, and what writing in the background takes from the steps after them. Run it
on a quiet machine: it compares two runs. The cache is made of the embedded sample (which needs TensorFlow) or given.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIXTURE = "sentiment_10templates"
# T5.1.1-base with 6 + 5 layers and 8,192 pieces: 102M parameters.
MODEL = {"preset": "base", "num_encoder_layers": 6, "num_decoder_layers": 5}
SKIPPED = 10  # steps at the start of each run


class Bench:
    """The runs of one measurement."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.folder = pathlib.Path(given.out or tempfile.mkdtemp(prefix="checkpoint_stall_")).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cache = given.cache or self._made()

    def _made(self) -> str:
        from flan_jax.data import cache_write

        directory, given = str(self.folder / "cache"), self.given
        asked = cache_write.Request(
            MIXTURE, "flan_jax.tasks.catalogue", "sample", inputs=given.inputs, targets=given.targets
        )
        cache_write.build(asked, directory, 512)
        return directory

    def run(self, name: str, steps: int, period: int) -> tuple[list[dict[str, float]], float]:
        """Trains; returns the lines of metrics, and the seconds from the launch to the end of the first step."""
        given, model_dir = self.given, self.folder / name
        bindings: dict[str, Any] = {
            "MODEL_DIR": str(model_dir),
            "MIXTURE_OR_TASK_NAME": MIXTURE,
            "TASK_FEATURE_LENGTHS": {"inputs": given.inputs, "targets": given.targets},
            "BATCH_SIZE": given.batch,
            "TRAIN_STEPS": steps,
            "CHECKPOINT_PERIOD": period,
            "EVAL_PERIOD": 0,
            "PACKED_CACHE": self.cache,
            "train_script.train.stats_period": 1,
            "train_script.train.train_eval_dataset_cfg": None,
            **{f"network.T5Config.{field}": value for field, value in MODEL.items()},
        }
        command = [sys.executable, "-m", "flan_jax.cli", "train", "--gin_file=recipes/demo.gin"]
        command += [f"--gin.{field}={value!r}" for field, value in bindings.items()]
        command.append(f"--compilation_cache_dir={self.folder / 'compiled'}")
        metrics = model_dir / "train" / "metrics.jsonl"
        with (self.folder / f"{name}.log").open("wb") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
            while process.poll() is None and not (metrics.exists() and '{"step": 1, "acc' in metrics.read_text()):
                time.sleep(0.01)
            first = time.monotonic() - began
            if process.wait():
                raise SystemExit((self.folder / f"{name}.log").read_text()[-3000:])
        return [json.loads(line) for line in metrics.read_text().splitlines()], first


def seconds(lines: list[dict[str, float]], last: int) -> tuple[list[float], list[float]]:
    """The seconds of each step from the eleventh on, and those of each pause for a checkpoint before the last step."""
    steps = [line["timing/seconds"] for line in lines if "timing/seconds" in line and line["step"] > SKIPPED]
    pauses = [
        line["timing/checkpoint_seconds"]
        for line in lines
        if "timing/checkpoint_seconds" in line and line["step"] < last
    ]
    return steps, pauses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in (("steps", 200), ("period", 20), ("batch", 8), ("inputs", 64), ("targets", 16), ("starts", 3)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--cache", help=f"a packed cache of {MIXTURE} with the embedded vocabulary and these lengths")
    parser.add_argument("--out", help="where the runs go; a new temporary directory if not given")
    parser.add_argument("--json", help="also write the figures there")
    given = parser.parse_args()
    bench = Bench(given)
    _, cold = bench.run("cold", 1, 10**9)
    starts = [bench.run(f"warm_{number}", 1, 10**9)[1] for number in range(given.starts)]
    without, _ = seconds(bench.run("without", given.steps, 10**9)[0], given.steps)
    steps, pauses = seconds(bench.run("with", given.steps, given.period)[0], given.steps)
    pauses = pauses or [0.0]
    total = sum(steps) + sum(pauses)
    found = {
        "cold_start_seconds": cold,
        "warm_start_seconds": statistics.median(starts) if starts else None,
        "step_seconds_without": statistics.median(without),
        "step_seconds_with": statistics.median(steps),
        "checkpoints": len(pauses),
        "pause_seconds": statistics.median(pauses),
        "pause_share": sum(pauses) / total,
        "stall_share": total / sum(without) - 1,
    }
    info = (bench.folder / "with" / "model-info.txt").read_text().splitlines()[-1]
    print(f"{info}; {given.steps} steps of {given.batch} x ({given.inputs} + {given.targets})")
    for name, value in found.items():
        print(
            f"  {name:22} {value:.2%}"
            if name.endswith("share")
            else f"  {name:22} {value:.3f}"
            if value
            else f"  {name}"
        )
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
