"""Four processes read a mixture, and two go on from where they were: the batches of one process that was never stopped."""

import itertools
import socket
import sys

import numpy as np
import pytest

from tests.e2e import batches_of_hosts, demo_runs

pytestmark = pytest.mark.slow
ONE_DEVICE = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"}


def read_by(processes, position, folder, sample_dir, launch):
    """What so many processes read from a position on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    out = folder / f"{processes}.npz"
    program = [sys.executable, "-m", "tests.e2e.batches_of_hosts", sample_dir, str(out), address, str(position)]
    logs = [folder / f"{processes}_{index}.log" for index in range(processes)]
    started = [launch([str(n), str(processes)], log, program, ONE_DEVICE) for n, log in enumerate(logs)]
    try:
        ended = [process.wait(demo_runs.PATIENCE) for process in started]
    finally:
        for process in started:  # one whose peer is gone would wait for it
            process.kill()
            process.wait()
    assert ended == [0] * processes, "\n".join(log.read_text() for log in logs)
    with np.load(out) as found:
        return dict(found)


def test_two_processes_go_on_where_four_were(tmp_path, sample_dir, launch):
    four = read_by(4, "start", tmp_path, sample_dir, launch)
    (tmp_path / "position.json").write_text(str(four.pop("position")))
    two = read_by(2, tmp_path / "position.json", tmp_path, sample_dir, launch)
    whole = list(itertools.islice(batches_of_hosts.opened(sample_dir), 2 * batches_of_hosts.BATCHES))
    for found, expected in ((four, whole[:3]), (two, whole[3:])):
        for number, batch in enumerate(expected):
            for name, values in batch.features.items():
                np.testing.assert_array_equal(found[f"{number}/{name}"], values)
    assert str(two["position"]) == batches_of_hosts.text(whole[-1].state)
