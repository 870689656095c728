"""Running a sweep: order, reuse, failures, being killed, being stopped."""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from flan_jax import errors
from flan_jax.ablation import run, scores, table
from tests.ablation import ablation_driver, ablation_grids

PATIENCE = 60.0
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def began(root: pathlib.Path) -> dict[str, int]:
    """How often each step was started."""
    return {path.parent.name: len(path.read_text()) for path in root.glob("*/began")}


def finished(root: pathlib.Path) -> set[str]:
    return {path.parent.name for path in root.glob("*/results.json")}


def the_table(root: pathlib.Path) -> str:
    return table.to_csv(table.rows(scores.points(ablation_grids.sweep(), root), []))


def start(root: pathlib.Path, jobs: int, seconds: float) -> subprocess.Popen:
    arguments = [sys.executable, "-m", ablation_driver.__name__, str(root), str(jobs), str(seconds)]
    return subprocess.Popen(arguments, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)


def until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the sweep ended early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def whole(tmp_path):
    """A sweep that nothing happened to."""
    root = tmp_path / "whole"
    assert run.sweep(ablation_grids.sweep().steps, root, jobs=4, make=ablation_driver.command(0)) == []
    return root


def test_every_step_is_run_once_after_what_it_needs(whole):
    steps = ablation_grids.sweep().steps
    assert began(whole) == dict.fromkeys(steps, 1)
    written = {key: (whole / key / "results.json").stat().st_mtime_ns for key in steps}
    assert all(written[need] < written[key] for key, step in steps.items() for need in step.needs)
    assert run.sweep(steps, whole, make=ablation_driver.command(0)) == []
    assert began(whole) == dict.fromkeys(steps, 1)
    assert all(run.seconds(step, whole) > 0 for step in steps.values())


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_killed_sweep_repeats_no_finished_step_and_gives_the_same_table(jobs, whole, tmp_path):
    root = tmp_path / "killed"
    process = start(root, jobs, 0.3)
    until(lambda: len(finished(root)) >= 2 and len(began(root)) > len(finished(root)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before, started = finished(root), began(root)
    assert 2 <= len(before) < len(ablation_grids.sweep().steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run.sweep(ablation_grids.sweep().steps, root, jobs=jobs, make=ablation_driver.command(0)) == []
    after = began(root)
    assert {key: after[key] for key in before} == dict.fromkeys(before, 1)
    assert {key for key, times in after.items() if times > 1} == set(started) - before
    assert the_table(root) == the_table(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_children_and_says_so(number, tmp_path):
    process = start(tmp_path, 2, 120)
    until(lambda: len(began(tmp_path)) == 2, process)
    os.killpg(process.pid, number)  # as a terminal does
    assert process.wait(PATIENCE) == 128 + number
    assert {path.parent.name for path in tmp_path.glob("*/stopped")} == set(began(tmp_path))
    assert finished(tmp_path) == set()


def test_two_sweeps_of_one_place_run_no_step_twice(whole, tmp_path):
    root = tmp_path / "shared"
    sweeps = [start(root, 2, 0.1) for _ in range(2)]
    assert [process.wait(PATIENCE) for process in sweeps] == [0, 0]
    assert began(root) == dict.fromkeys(ablation_grids.sweep().steps, 1)
    assert the_table(root) == the_table(whole)


def test_what_fails_is_named_and_the_rest_is_run(tmp_path):
    steps = ablation_grids.sweep().steps

    def make(step, root):
        if step.key == "shared1":
            return [sys.executable, "-S", "-c", "import sys; print('no room'); sys.exit(3)"]
        return ablation_driver.command(0)(step, root)

    failures = run.sweep(steps, tmp_path, jobs=2, make=make)
    assert failures[0].startswith("shared1 failed (exit code 3): no room; see ")
    assert [one.partition(":")[0] for one in failures[1:]] == ["one, seed 1", "all, seed 1"]
    assert finished(tmp_path) == {key for key in steps if "1" not in key}
    counts = collections.Counter(
        point.arm for point in scores.points(ablation_grids.sweep(), tmp_path) for _ in point.values
    )
    assert counts == {"one": 4, "all": 4}
    assert run.sweep(steps, tmp_path, make=ablation_driver.command(0)) == []


def test_an_end_without_results_is_a_failure(tmp_path):
    steps = {"a": ablation_grids.step("a")}
    failures = run.sweep(steps, tmp_path, make=lambda step, root: [sys.executable, "-S", "-c", ""])
    assert "it ended before its last step" in failures[0]
    (tmp_path / "a" / "results.json").write_text('{"suite": "x", "checkp')  # cut off by a kill
    assert not run.finished(steps["a"], tmp_path)


def test_jobs_share_the_processors(tmp_path):
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(mine) < 2:
        pytest.skip("one processor cannot be shared")
    steps = {key: ablation_grids.step(key) for key in "ab"}
    code = "import os, sys, time; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']); time.sleep(1)"
    run.sweep(steps, tmp_path, jobs=2, make=lambda step, root: [sys.executable, "-S", "-c", code])
    told = [(tmp_path / key / "log.txt").read_text().strip() for key in "ab"]
    assert sorted(told) == sorted(f"{mine[at::2]} {len(mine[at::2])}" for at in range(2))
    with pytest.raises(errors.FlanError, match="--jobs is 0"):
        run.sweep(steps, tmp_path, jobs=0)
