"""The processes of one run: who they are, whether all of them came, whether all of them run the same.

JAX's own engine joins them (`jax.distributed`). Before it does, they are called over by a few lines over TCP on the same port:
where one is missing, JAX's coordination service ends every process with a C++ stack and does not say which (seen with jax
0.10.2 and 0.12.0).
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from flan_jax import errors

logger = logging.getLogger(__name__)

PORT = 8476  # where the address has none
_PACKAGES = ("flan_jax", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy", "grain")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
_TELL = 15.0  # seconds between lines that say who is missing
_GREETING = "flan_jax"


@dataclasses.dataclass(frozen=True)
class World:
    """Where a process stands among those of its run.

    Attributes:
      address: host:port of process 0.
      processes: how many there are.
      process: the number of this one.
      how: what said so.
      local_devices: the devices of the machine that are this process's; all where None.
    """

    address: str
    processes: int
    process: int
    how: str
    local_devices: tuple[int, ...] | None = None


def find(
    environment: Mapping[str, str],
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> World | None:
    """Finds out from flags, Kubernetes (JobSet) or SLURM; None for a process that is alone, as far as these know.

    Kubernetes: `JAX_COORDINATOR_ADDRESS`, `PROCESSES_IN_JOB` and, for several jobs (slices), `JOBS` and `JOB_INDEX`, as
    scripts/gke_jobset.py sets them; `JOB_COMPLETION_INDEX` comes from Kubernetes. SLURM: what `srun` sets.

    Raises:
      FlanError: some of the flags without the others, or numbers that do not fit.
    """
    flags = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    absent = [f"--{name}" for name, value in flags.items() if value is None]
    if len(absent) < 3:
        if absent:
            raise errors.FlanError(f"{', '.join(absent)} is missing; expected all of --{', --'.join(flags)}, or none")
        return _checked(str(coordinator_address), int(num_processes or 0), int(process_id or 0), "flags")
    if "PROCESSES_IN_JOB" in environment and "JAX_COORDINATOR_ADDRESS" in environment:
        here = _numbers(environment, PROCESSES_IN_JOB=1, JOBS=1, JOB_INDEX=0, JOB_COMPLETION_INDEX=0)
        in_job, jobs, job, index = here
        return _checked(environment["JAX_COORDINATOR_ADDRESS"], jobs * in_job, job * in_job + index, "Kubernetes")
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        count, number, job, local = _numbers(
            environment, SLURM_STEP_NUM_TASKS=1, SLURM_PROCID=0, SLURM_JOB_ID=0, SLURM_LOCALID=0
        )
        # A port of the job's own, as two jobs may share a node.
        address = f"{first_node(environment.get('SLURM_STEP_NODELIST', 'localhost'))}:{61440 + job % 4096}"
        shared = max(int(share) for share in re.findall(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))[:1])
        return _checked(address, count, number, "SLURM", (local,) if shared > 1 else None)
    return None


def first_node(nodes: str) -> str:
    """The first of SLURM's list: `first_node("gpu[003-007,12],cpu1") == "gpu003"`."""
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return f"{found[1]}{found[2] or ''}" if found else nodes


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
) -> World | None:
    """Joins the processes of the run, before JAX touches a device. A process that is alone goes on by itself.

    Args:
      coordinator_address: host:port of process 0; by default what `find`, or a TPU's own environment, says.
      num_processes: likewise.
      process_id: likewise.
      timeout: seconds in which all must come.

    Raises:
      FlanError: some did not; it names them.
    """
    from flan_jax import compat

    world = find(os.environ, coordinator_address, num_processes, process_id)
    if world is None:
        found = compat.detect_tpu(timeout)
        world = None if found is None else _checked(*found, "TPU")
    if world is None or world.processes == 1:
        return None
    call_over(world, timeout)
    import jax

    jax.distributed.initialize(
        world.address,
        world.processes,
        world.process,
        local_device_ids=world.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(timeout),
    )
    logger.info("process %d of %d (%s), process 0 at %s", world.process, world.processes, world.how, world.address)
    return world


def call_over(world: World, timeout: float) -> None:
    """Returns in every process once all are there.

    Raises:
      FlanError: in every process that is there, naming those that are not.
    """
    host, _, port = world.address.rpartition(":")
    said = _ask(world, int(port), timeout) if world.process == 0 else _answer(world, host, int(port), timeout)
    if said:
        raise errors.FlanError(said)


def compare(about: str, facts: Mapping[str, Any], timeout: float = 300.0) -> None:
    """Returns in every process if all hold the same facts. One process alone has nobody to differ from.

    Args:
      about: what the facts are of, for messages; every process passes the same, once in a run.
      facts: name -> JSON value.
      timeout: seconds in which all must say theirs.

    Raises:
      FlanError: in every process, naming each difference.
    """
    from flan_jax import compat

    client = compat.coordination_client()
    if client is None:
        return
    import jax

    me, count, limit = jax.process_index(), jax.process_count(), int(timeout * 1000)
    client.key_value_set(f"flan_jax/{about}/{me}", json.dumps(facts, sort_keys=True, default=str))
    if me == 0:
        silent, all_facts = [], []
        for process in range(count):
            try:
                text = client.blocking_key_value_get(f"flan_jax/{about}/{process}", limit)
            except Exception:  # jaxlib's own type: DEADLINE_EXCEEDED
                silent.append(process)
                continue
            all_facts.append((process, json.loads(text)))
        client.key_value_set(f"flan_jax/{about}/verdict", _verdict(about, all_facts, silent, timeout))
    verdict = client.blocking_key_value_get(f"flan_jax/{about}/verdict", 2 * limit)
    if verdict != "same":
        raise errors.FlanError(verdict)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    logger.info("%s: the same on all %d processes (%s)", about, count, digest)


def versions() -> dict[str, str]:
    """Python, libraries and compiler settings of this process: what changes numbers or programs."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, **{name: os.environ.get(name, "") for name in _VARIABLES}}


def differences(reference: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns `NAME is B, A on process 0` for each name whose values differ."""
    missing = "absent"

    def shown(facts: Mapping[str, Any], name: str) -> str:
        text = json.dumps(facts[name], default=str) if name in facts else missing
        return text if len(text) <= 160 else f"{text[:160]}..."

    names = [name for name in {**reference, **other} if reference.get(name, missing) != other.get(name, missing)]
    return [f"{name} is {shown(other, name)}, {shown(reference, name)} on process 0" for name in names]


def _verdict(about: str, found: list[tuple[int, dict[str, Any]]], silent: list[int], timeout: float) -> str:
    if silent:
        said = ", ".join(map(str, silent))
        return f"{about}: nothing heard from process {said} in {timeout:.0f} s: its own log says why"
    apart = [(process, differences(found[0][1], facts)) for process, facts in found[1:]]
    lines = [f"process {process}: {'; '.join(those)}" for process, those in apart if those]
    return f"the processes do not run the same {about}: {'. '.join(lines)}" if lines else "same"


def _checked(address: str, count: int, number: int, how: str, local: tuple[int, ...] | None = None) -> World:
    if not 0 <= number < count:
        raise errors.FlanError(f"process {number} of {count} ({how}); expected a number from 0 to {count - 1}")
    if not re.search(r":\d+$", address):
        address = f"{address}:{PORT}"
    return World(address, count, number, how, local)


def _numbers(environment: Mapping[str, str], **defaults: int) -> list[int]:
    found = []
    for name, default in defaults.items():
        text = environment.get(name, str(default))
        if not text.isdigit():
            raise errors.FlanError(f"{name} is {text!r} in the environment; expected a number")
        found.append(int(text))
    return found


def _ask(world: World, port: int, timeout: float) -> str:
    """Process 0: takes the others' names until all are there. Returns what is wrong, and tells it to those that came."""
    came: dict[int, tuple[str, socket.socket]] = {}
    problems: list[str] = []
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    deadline, told = time.monotonic() + timeout, time.monotonic()
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=world.processes)
    except OSError as error:
        return f"process 0 cannot listen at {world.address}: {error.strerror or error}; is an earlier run still there?"
    with server:
        while len(came) < world.processes - 1 and not problems and time.monotonic() < deadline:
            server.settimeout(min(1.0, max(deadline - time.monotonic(), 0.01)))
            try:
                peer, _ = server.accept()
            except TimeoutError:
                peer = None
            if peer is not None:
                problems += _enter(peer, world, came)
            if time.monotonic() - told > _TELL:
                told = time.monotonic()
                logger.info("waiting for process %s of %d", _listed(_absent(world, came)), world.processes)
        absent = _absent(world, came)
        if absent and not problems:
            have = ", ".join(f"{number} ({name})" for number, (name, _) in sorted(came.items()))
            problems.append(
                f"process {_listed(absent)} of {world.processes} did not join within {timeout:.0f} s; here are 0 "
                f"({socket.gethostname()}){', ' + have if have else ''}"
            )
        said = problems[0] if problems else ""
        for _, peer in came.values():
            with peer:
                peer.sendall(f"{said or 'go'}\n".encode())
    return said


def _enter(peer: socket.socket, world: World, came: dict[int, tuple[str, socket.socket]]) -> list[str]:
    """Takes one name in. Returns what is wrong with it; whoever is not of flan_jax is not listened to."""
    peer.settimeout(10.0)
    try:
        greeting, number, count, name = peer.makefile("r", encoding="utf-8").readline().split()
    except (OSError, ValueError):
        greeting, number, count, name = "", "", "", ""
    if greeting != _GREETING:
        peer.close()
        return []
    if int(count) != world.processes:
        came.setdefault(-1 - len(came), (name, peer))
        return [f"process {number} ({name}) counts {count} processes, process 0 {world.processes}"]
    earlier = came.get(int(number))
    if int(number) == 0 or earlier:
        came.setdefault(-1 - len(came), (name, peer))
        return [f"two processes are number {number}: {earlier[0] if earlier else socket.gethostname()} and {name}"]
    came[int(number)] = (name, peer)
    return []


def _absent(world: World, came: Mapping[int, Any]) -> list[int]:
    return [number for number in range(1, world.processes) if number not in came]


def _listed(numbers: list[int]) -> str:
    """`_listed([1, 2, 3, 7]) == "1-3, 7"`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _answer(world: World, host: str, port: int, timeout: float) -> str:
    """Another process: gives its name to process 0 and hears whether all are there."""
    deadline, waits = time.monotonic() + timeout, threading.Event()
    while True:
        try:
            with socket.create_connection((host.strip("[]"), port), timeout=5.0) as peer:
                # Process 0 may have begun to wait after this one did.
                peer.settimeout(timeout + 30.0)
                peer.sendall(f"{_GREETING} {world.process} {world.processes} {socket.gethostname()}\n".encode())
                said = peer.makefile("r", encoding="utf-8").readline().strip()
            if said:
                return "" if said == "go" else said
            problem = "it closes the connection"
        except OSError as error:
            problem = error.strerror or str(error)
        if time.monotonic() > deadline:
            return f"process 0 did not answer at {world.address} within {timeout:.0f} s ({problem}): is it running?"
        waits.wait(0.2)
