"""Who is in a run, who did not come, and whether all run the same."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from flan_jax import distributed, errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}
JOBSET = {"JAX_COORDINATOR_ADDRESS": "run-workers-0-0.run", "PROCESSES_IN_JOB": "4", "JOB_COMPLETION_INDEX": "3"}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


# --- Who ---


def test_flags_come_before_what_the_environment_says():
    world = distributed.find({**SLURM, **JOBSET}, "10.0.0.1:1234", 3, 2)
    assert world == distributed.World("10.0.0.1:1234", 3, 2, "flags")


@pytest.mark.parametrize(
    ("given", "missing"),
    [(("a:1", None, 0), "--num_processes"), ((None, 2, None), "--coordinator_address, --process_id")],
)
def test_some_flags_need_the_others(given, missing):
    with pytest.raises(errors.FlanError, match=f"^{missing} is missing"):
        distributed.find({}, *given)


def test_slurm():
    world = distributed.find(SLURM)
    assert world == distributed.World(f"gpu003:{61440 + 70001 % 4096}", 16, 9, "SLURM", (1,))
    alone_on_each_node = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x16)"}
    assert distributed.find(alone_on_each_node).local_devices is None
    # A shell inside an allocation, and the batch script itself, are no step of several tasks.
    assert distributed.find({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[003-007,12],cpu1", "gpu003"), ("node7", "node7"), ("a1,b2", "a1"), ("r1n[01,05-9]", "r1n01")],
)
def test_the_first_of_slurms_nodes(nodes, first):
    assert distributed.first_node(nodes) == first


def test_kubernetes_counts_over_jobs():
    port = distributed.PORT
    assert distributed.find(JOBSET) == distributed.World(f"run-workers-0-0.run:{port}", 4, 3, "Kubernetes")
    second_slice = {**JOBSET, "JOBS": "2", "JOB_INDEX": "1"}
    assert (distributed.find(second_slice).processes, distributed.find(second_slice).process) == (8, 7)


def test_a_process_alone_and_numbers_that_do_not_fit():
    assert distributed.find({}) is None
    with pytest.raises(errors.FlanError, match=r"process 4 of 4 \(Kubernetes\); expected a number from 0 to 3"):
        distributed.find({**JOBSET, "JOB_COMPLETION_INDEX": "4"})
    with pytest.raises(errors.FlanError, match="SLURM_PROCID is 'x' in the environment; expected a number"):
        distributed.find({**SLURM, "SLURM_PROCID": "x"})


# --- Calling over ---


def call_over(numbers, count, timeout, counts=None):
    """What each of these processes, here threads, hears."""
    address, heard = f"127.0.0.1:{free_port()}", {}

    def one(place, number):
        world = distributed.World(address, (counts or {}).get(place, count), number, "test")
        try:
            distributed.call_over(world, timeout)
            heard[place] = "all here"
        except errors.FlanError as error:
            heard[place] = str(error)

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(numbers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [heard[place] for place in range(len(numbers))]


def test_all_go_on_when_all_are_there():
    assert call_over([3, 1, 0, 2], 4, 30.0) == ["all here"] * 4


def test_those_that_came_hear_who_did_not():
    for said in call_over([4, 0, 2], 8, 1.0):
        name = socket.gethostname()
        assert said == (f"process 1, 3, 5-7 of 8 did not join within 1 s; here are 0 ({name}), 2 ({name}), 4 ({name})")


def test_without_process_0_the_others_say_where_they_looked():
    (said,) = call_over([1], 2, 0.5)
    assert said.startswith("process 0 did not answer at 127.0.0.1:")
    assert said.endswith("is it running?")


def test_two_of_one_number_and_two_ideas_of_how_many():
    assert all(said.startswith("two processes are number 1: ") for said in call_over([0, 1, 1], 3, 20.0))
    assert all("counts 5 processes, process 0 2" in said for said in call_over([0, 1], 2, 20.0, {1: 5}))


def test_who_is_no_process_of_a_run_is_not_listened_to():
    port, done = free_port(), []
    world = distributed.World(f"127.0.0.1:{port}", 2, 0, "test")
    first = threading.Thread(target=lambda: done.append(distributed.call_over(world, 30.0)))
    first.start()
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"flan_jax 1\n", b"\n"):
        peer = None
        while peer is None:
            with contextlib.suppress(ConnectionRefusedError):
                peer = socket.create_connection(("127.0.0.1", port), timeout=10)
        with peer:
            peer.sendall(greeting)
            assert peer.makefile("rb").read() == b""
    distributed.call_over(distributed.World(world.address, 2, 1, "test"), 30.0)
    first.join()
    assert done == [None]


# --- The same run ---


def test_differences_name_both_values():
    ours = {"BATCH_SIZE": "8", "jax": "0.10.2", "a": 1}
    assert distributed.differences(ours, ours) == []
    assert distributed.differences(ours, {"BATCH_SIZE": "16", "jax": "0.10.2", "b": 1}) == [
        'BATCH_SIZE is "16", "8" on process 0',
        "a is absent, 1 on process 0",
        "b is 1, absent on process 0",
    ]


def test_alone_there_is_nobody_to_differ_from():
    distributed.compare("anything", {"a": 1})


PROGRAM = """
import sys
from flan_jax import distributed, errors, log
log.set_up()
address, number = sys.argv[1], int(sys.argv[2])
with errors.reported():
    distributed.join(address, 2, number, timeout=120)
    distributed.compare("versions", distributed.versions(), timeout=60)
    import jax, jax.numpy as jnp
    assert (jax.process_count(), jax.process_index()) == (2, number)
    distributed.compare("configuration", {"BATCH_SIZE": 8 * (1 + number), "seed": 0}, timeout=60)
"""


def test_two_processes_compare_what_they_run():
    address, environment = f"127.0.0.1:{free_port()}", {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(number)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number in (1, 0)
    ]
    for process in both:
        said = process.communicate(timeout=180)[1]
        assert process.returncode == 1, said
        assert "versions: the same on all 2 processes" in said
        assert said.splitlines()[-1] == (
            "flan: the processes do not run the same configuration: process 1: BATCH_SIZE is 16, 8 on process 0"
        ), said
