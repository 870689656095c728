"""Runs a command on every host of TPU VMs, which it asks Google Cloud for as a queued resource.

    python scripts/tpu_vm.py NAME --topology v5e:16x16 --zone us-west4-a --package gs://BUCKET/flan_jax-0.1.0-py3-none-any.whl \\
        [--spot] [--dry_run] -- flan train --gin_file=recipes/flan_t5_xl.gin --gin.MODEL_DIR="'gs://BUCKET/run'"

Asks, waits until the hosts are there, installs the package on each (`pip wheel --no-deps .` makes one) into an environment with
a Python of its own, since that of the images, 3.10, is too old, and starts the command on each. Called again with the same NAME
it stops the command, which saves, and starts it again: the run goes on from its last checkpoint. Needs gcloud. `--dry_run`
prints the commands.
"""

import argparse
import re
import shlex
import subprocess
import sys
import time

from flan_jax import errors
from flan_jax.planning import cloud_names

_GIVEN_UP = ("FAILED", "SUSPENDED")
# Of TPU VMs' own Python, 3.10, flan_jax knows nothing: setup.py has `python_requires`, and a test holds both together.
_PYTHON = "3.12"
_ENVIRONMENT = "$HOME/flan_jax_env"
# https://packaging.python.org/en/latest/specifications/binary-distribution-format: name, version, build, three tags.
_WHEEL = re.compile(r"^\w[\w.]*-\d[\w.!+]*(-\d\w*)?-[\w.]+-[\w.]+-[\w.]+\.whl$")


def parse(argv: list[str]) -> argparse.Namespace:
    """Flags before `--`, the command behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the queued resource and its nodes")
    parser.add_argument(
        "--topology", required=True, help="as for flan plan: v5e:16x16, v4:4x4x4, 2*v4:4x4x4 for two slices"
    )
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", help="gcloud's own if not given")
    parser.add_argument(
        "--package", required=True, help="what is installed on each host: a wheel (also gs://), a name or a URL"
    )
    parser.add_argument("--spot", action="store_true", help="may be taken away")
    parser.add_argument("--valid_for", help="how long to wait for resources, such as 12h")
    parser.add_argument("--dry_run", action="store_true", help="print what would run")
    at = argv.index("--") if "--" in argv else len(argv)
    given = parser.parse_args(argv[:at])
    given.command = argv[at + 1 :]
    _check_wheel(given.package)
    if not given.command:
        parser.error("no command: expected -- flan train ...")
    return given


def _check_wheel(package: str) -> None:
    """Refuses a file that an installer would: it reads version and platform off a wheel's name."""
    name = package.partition("#")[0].partition("?")[0].rpartition("/")[2]
    if name.endswith(".whl") and not _WHEEL.match(name):
        raise errors.FlanError(
            f"--package {package}: {name!r} is no name of a wheel; expected NAME-VERSION-PYTHON-ABI-PLATFORM.whl "
            "as it was built, such as flan_jax-0.1.0-py3-none-any.whl"
        )
    if package.startswith("gs://") and not name.endswith((".whl", ".tar.gz")):
        raise errors.FlanError(
            f"--package {package}: expected a wheel in the bucket, such as gs://BUCKET/flan_jax-0.1.0-py3-none-any.whl"
        )


def commands(given: argparse.Namespace) -> dict[str, list[list[str]]]:
    """What is run: `create` the resource, `state` of it, `install` and `start` on all hosts of each slice, `delete`."""
    wanted = cloud_names.of(given.topology)
    place = [f"--zone={given.zone}", *([f"--project={given.project}"] if given.project else [])]
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    several = wanted.slices > 1
    nodes = [f"{given.name}-{number}" for number in range(wanted.slices)] if several else [given.name]
    ids = [f"--node-count={wanted.slices}", f"--node-prefix={given.name}"] if several else [f"--node-id={given.name}"]
    asked = [f"--accelerator-type={wanted.accelerator_type}", f"--runtime-version={wanted.runtime}"]
    options = [*(["--spot"] if given.spot else []),
               *([f"--valid-until-duration={given.valid_for}"] if given.valid_for else [])]  # fmt: skip
    package, fetch = given.package, ""
    if package.startswith("gs://"):
        package = f"/tmp/{package.rpartition('/')[2]}"
        fetch = f"gcloud storage cp {shlex.quote(given.package)} {shlex.quote(package)} && "
    # A first call's command saves and ends before its environment goes.
    stop = "pkill -TERM -x flan; while pgrep -x flan > /dev/null; do sleep 1; done"
    # uv comes from pip, a Python from uv.
    uv = "python3 -m pip install --quiet --user uv"
    make = f"python3 -m uv venv --quiet --clear --python {_PYTHON} {_ENVIRONMENT}"
    into = f"python3 -m uv pip install --quiet --python {_ENVIRONMENT}/bin/python"
    install = f"{stop}; {fetch}{uv} && {make} && {into} {shlex.quote(f'{package}[tpu]')}"
    # It goes on when ssh ends.
    run = shlex.join(given.command)
    start = f"export PATH={_ENVIRONMENT}/bin:$PATH; nohup {run} > {given.name}.log 2>&1 < /dev/null &"
    ssh = [["gcloud", "compute", "tpus", "tpu-vm", "ssh", node, *place, "--worker=all"] for node in nodes]
    return {
        "create": [[*queued, "create", given.name, *ids, *place, *asked, *options]],
        "state": [[*queued, "describe", given.name, *place, "--format=value(state.state)"]],
        "install": [[*each, f"--command={install}"] for each in ssh],
        "start": [[*each, f"--command={start}"] for each in ssh],
        "delete": [[*queued, "delete", given.name, *place, "--force", "--quiet"]],
    }


def main(argv: list[str]) -> None:
    given = parse(argv)
    steps = commands(given)
    if given.dry_run:
        for what, each in steps.items():
            print(f"# {what}" + (" (later, by hand)" if what == "delete" else ""))
            print("\n".join(shlex.join(command) for command in each))
        return
    state = subprocess.run(steps["state"][0], capture_output=True, text=True, check=False).stdout.strip()
    if not state:
        subprocess.run(steps["create"][0], check=True)
    while state != "ACTIVE":
        if state in _GIVEN_UP:
            raise errors.FlanError(
                f"{given.name} is {state}; delete it and ask again: {shlex.join(steps['delete'][0])}"
            )
        time.sleep(30)
        state = subprocess.run(steps["state"][0], capture_output=True, text=True, check=True).stdout.strip()
        print(f"{given.name}: {state}", flush=True)
    for command in [*steps["install"], *steps["start"]]:
        subprocess.run(command, check=True)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
