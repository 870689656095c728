"""Two processes of four devices and one of eight compute the same five steps, for both families (data 2, fsdp 2, model 2)."""

import socket
import sys

import numpy as np
import pytest

from flan_jax import sharding
from tests.e2e import demo_runs, five_steps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, launch, sample_dir):
    """(losses, parameters) of a family, as process 0 of two saw them."""
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    program = [sys.executable, "-m", "tests.e2e.five_steps", sample_dir, str(folder / "found.npz"), address]
    devices = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"}
    logs = [folder / f"process_{index}.log" for index in (0, 1)]
    started = [launch([str(index)], log, program, devices) for index, log in enumerate(logs)]
    try:
        ended = [process.wait(demo_runs.PATIENCE) for process in started]
    finally:
        for process in started:  # one whose peer is gone would wait for it
            process.kill()
            process.wait()
    assert ended == [0, 0], "\n".join(log.read_text() for log in logs)
    with np.load(folder / "found.npz") as arrays:
        found = dict(arrays)

    def of(family):
        mine = {name.removeprefix(f"{family}/"): value for name, value in found.items() if name.startswith(family)}
        return mine.pop("losses"), mine

    return of


@pytest.mark.parametrize("family", ["encoder_decoder", "decoder_only"])
def test_two_processes_compute_the_steps_of_one(two_processes, sample_dir, family):
    losses, params = five_steps.run(family, sample_dir, sharding.make_mesh(**five_steps.SIZES))
    assert losses[-1] < losses[0]
    other_losses, other_params = two_processes(family)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    assert other_params.keys() == params.keys()
    for name, value in params.items():
        # Of a tensor's largest: what is near 0 is a sum that cancels. Seen: 1.5e-7.
        np.testing.assert_allclose(other_params[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
