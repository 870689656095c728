"""The commands of a sweep, for machines that are not this one: plain, for pods, or as SLURM arrays.

What is finished where the commands are printed is left out. Their folders are those of a sweep in the same place, so `flan
ablate` with the same `--out` gathers what they wrote.
"""

import pathlib
import shlex
from collections.abc import Iterator, Sequence

from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import run as run_lib
from flan_jax.ablation import steps as steps_lib

FORMS = ("commands", "pod", "slurm")


def lines(ablation: grid_lib.Ablation, sweep: steps_lib.Sweep, root: pathlib.Path, form: str) -> Iterator[str]:
    """Lines of a shell script.

    Args:
      ablation: what the sweep is of.
      sweep: its steps.
      root: folder of their folders, as the machines see it.
      form: of `FORMS`.
    """
    waves = list(_waves(sweep, root))
    if not waves:
        yield "# everything is finished"
    keys = {cell: (*sweep.trained[cell], *asked.values()) for cell, asked in sweep.asked.items()}
    topologies = {key: sweep.grid.topology_of(cell) for cell, mine in keys.items() for key in mine}
    for number, wave in enumerate(waves, start=1):
        yield f"# {number} of {len(waves)}: {', '.join(dict.fromkeys(step.name for step in wave))}"
        if form == "slurm":
            yield from _array(
                f"{ablation.name}-{number}", wave, root, after=f"{ablation.name}-{number - 1}" if number > 1 else ""
            )
        for step in wave if form != "slurm" else ():
            command = shlex.join(["flan", *step.argv(root)])
            topology = topologies.get(step.key)
            if form == "pod" and topology:
                launcher = f"python scripts/tpu_vm.py {steps_lib.slug(ablation.name)}-{step.key} --topology {topology}"
                command = f'{launcher} --zone "$ZONE" --package "$PACKAGE" -- {command}'
            yield f"{command}  # {step.label}"


def _waves(sweep: steps_lib.Sweep, root: pathlib.Path) -> Iterator[Sequence[steps_lib.Step]]:
    """Steps that can run side by side, after those before."""
    left = {key: step for key, step in sweep.steps.items() if not run_lib.finished(step, root)}
    while left:
        wave = [step for step in left.values() if not any(need in left for need in step.needs)]
        yield wave
        for step in wave:
            del left[step.key]


def _array(name: str, wave: Sequence[steps_lib.Step], root: pathlib.Path, after: str) -> Iterator[str]:
    """A job array whose tasks take a line each of a list; it waits for the array before it."""
    job = name.replace("-", "_")
    waits = f' --dependency="afterok:${after.replace("-", "_")}"' if after else ""
    yield f"{job}=$(sbatch --parsable --array=1-{len(wave)} --signal=TERM@120 --requeue{waits} \\"
    yield f"  --job-name={name} --output={name}-%a.log <<'SCRIPT'"
    yield "#!/bin/bash"
    yield "set -euo pipefail"
    yield 'srun bash -c "$(sed -n "${SLURM_ARRAY_TASK_ID}p" <<\'COMMANDS\''
    yield from (shlex.join(["flan", *step.argv(root)]) for step in wave)
    yield "COMMANDS"
    yield ')"'
    yield "SCRIPT"
    yield ")"
