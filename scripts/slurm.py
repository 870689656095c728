"""Runs a command on nodes of a SLURM cluster, one process a node.

    python scripts/slurm.py NAME --nodes 4 --gpus 8 --time 12:00:00 [--chain 3] [--dry_run] -- flan train --gin_file=...

Writes a batch script and hands it to `sbatch`; `--dry_run` prints both. Two minutes before the time is up, or where the job is
preempted, every process hears SIGTERM and the step is saved. `--chain 3` submits three jobs of one name, of which one runs at a
time and each goes on where the one before stopped; what is left when the run is finished ends at once.
"""

import argparse
import shlex
import subprocess
import sys

from flan_jax import errors

_NOTICE = 120  # seconds of SIGTERM before the end


def parse(argv: list[str]) -> argparse.Namespace:
    """Flags before `--`, the command behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of a node; 0 for CPUs alone")
    parser.add_argument("--time", default="24:00:00", help="limit of a job")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="further, such as --sbatch=--mem=0"
    )
    parser.add_argument("--setup", default="", help="shell lines before the command: modules, a virtual environment")
    parser.add_argument("--chain", type=int, default=1, help="how many jobs, one after the other")
    parser.add_argument("--dry_run", action="store_true", help="print what would be submitted")
    at = argv.index("--") if "--" in argv else len(argv)
    given = parser.parse_args(argv[:at])
    given.command = argv[at + 1 :]
    if not given.command:
        parser.error("no command: expected -- flan train ...")
    return given


def script(given: argparse.Namespace) -> str:
    """The batch script; `flan_jax/distributed.py` reads what srun sets."""
    options = {
        "job-name": given.name,
        "nodes": given.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": given.gpus or None,
        "time": given.time,
        "partition": given.partition,
        "account": given.account,
        "output": f"{given.name}-%j.log",
        "open-mode": "append",
        "signal": f"TERM@{_NOTICE}",
        "dependency": "singleton",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    lines += ["#SBATCH --exclusive", "#SBATCH --requeue", *(f"#SBATCH {option}" for option in given.sbatch)]
    run = ["srun", "--kill-on-bad-exit=1", "--label", *given.command]
    setup = [given.setup] if given.setup else []
    return "\n".join(["#!/bin/bash", *lines, "set -euo pipefail", *setup, shlex.join(run)]) + "\n"


def main(argv: list[str]) -> None:
    given = parse(argv)
    text = script(given)
    if given.dry_run:
        print(text, end="")
        print("\n".join(["# sbatch"] * given.chain))
        return
    for _ in range(given.chain):
        subprocess.run(["sbatch"], input=text, text=True, check=True)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
