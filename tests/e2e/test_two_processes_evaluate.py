"""Two processes of one device each give the answers, scores and files of one process with both devices."""

import json
import socket
import sys

import pytest

from tests.e2e import demo_runs, evaluations

pytestmark = pytest.mark.slow
BOTH = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"}
PROGRAM = [sys.executable, "-m", "tests.e2e.evaluations"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, launch, run_dir, sample_dir):
    """What two processes left, what the second of them left in a folder of its own, and what one left."""
    top = tmp_path_factory.mktemp("evaluated")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    # No disk is shared: the second process has to do with what the first one tells it.
    asked = [[str(run_dir), sample_dir, str(top / name)] for name in ("first", "second", "one")]
    given = [[*asked[0], address, "0"], [*asked[1], address, "1"], asked[2]]
    logs = [top / f"{number}.log" for number in range(3)]
    one = launch(given[2], logs[2], PROGRAM, BOTH)
    assert one.wait(2 * demo_runs.PATIENCE) == 0, logs[2].read_text()
    two = [launch(given[number], logs[number], PROGRAM) for number in (0, 1)]
    try:
        ended = [process.wait(2 * demo_runs.PATIENCE) for process in two]
    finally:
        for process in two:  # one whose peer is gone would wait for it
            process.kill()
            process.wait()
    assert ended == [0, 0], "\n".join(log.read_text() for log in logs[:2])
    return top / "first", top / "second", top / "one"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def close(value):
    """The same with numbers that rounding may change."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-4, abs=1e-4)
    if isinstance(value, dict):
        return {key: close(of) for key, of in value.items()}
    return [close(of) for of in value] if isinstance(value, list) else value


@pytest.mark.parametrize("suite", evaluations.SUITES)
def test_the_results_are_those_of_one_process(folders, suite):
    two, one = (json.loads((folder / suite / "results.json").read_text()) for folder in (folders[0], folders[2]))
    assert two == close(one)
    assert two["scores"]


def test_every_prediction_is_that_of_one_process(folders):
    two, _, one = folders
    names = [name for name in files(one) if name.endswith(".jsonl")]
    assert {f"{name}.jsonl" for name in evaluations.INFERRED} < set(names)
    for name in names:
        ours, theirs = (
            [json.loads(line) for line in (folder / name).read_text().splitlines()] for folder in (two, one)
        )
        assert len(ours) == len(theirs) > 0
        for our, their in zip(ours, theirs, strict=True):
            assert our == close(their), name


def test_the_first_process_alone_writes(folders):
    first, second, one = folders
    assert files(first) == files(one)
    assert files(second) == []
