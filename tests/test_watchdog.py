"""A step that hangs has every thread's stack printed, once."""

import threading
import time

import pytest

from flan_jax import watchdog


@pytest.fixture
def dog(tmp_path):
    with (tmp_path / "stacks").open("w+") as file:
        made = watchdog.Watchdog(0.2, who="process 3", file=file)
        yield made, tmp_path / "stacks"
        made.close()


def wait_for(path, seconds=20.0):
    until = time.monotonic() + seconds
    while not path.read_text() and time.monotonic() < until:
        time.sleep(0.02)
    return path.read_text()


def a_collective_that_waits_for_another_host(event):
    event.wait()


def test_a_step_that_hangs_shows_where(dog, caplog):
    made, stacks = dog
    made.beat(41)
    event = threading.Event()
    other = threading.Thread(target=a_collective_that_waits_for_another_host, args=(event,))
    other.start()
    try:
        said = wait_for(stacks)
        assert "a_collective_that_waits_for_another_host" in said
        assert "test_a_step_that_hangs_shows_where" in said or "wait_for" in said
        time.sleep(0.5)
        assert stacks.read_text() == said  # once for a step
        made.beat(42)
        stacks.write_text("")
        assert wait_for(stacks)  # and again for another one
    finally:
        event.set()
        other.join()


def test_evaluations_and_checkpoints_are_not_steps(dog):
    made, stacks = dog
    with made.paused():
        time.sleep(0.6)
        with made.paused():
            pass
        time.sleep(0.4)
    assert stacks.read_text() == ""


def test_no_limit_no_thread():
    before = threading.active_count()
    made = watchdog.Watchdog(0)
    made.beat(1)
    assert threading.active_count() == before
    made.close()
