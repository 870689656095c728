"""SIGTERM: what it ends, and when."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from flan_jax import preemption


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def ours_is_taken_out_again():
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("deferred", [False, True])
def test_before_the_loop_it_ends_the_process_and_in_the_loop_it_does_not(deferred):
    """A command is told to stop while it still imports: seconds, of which nothing is to be saved."""
    code = (
        "import sys; from flan_jax import preemption\n"
        "with preemption.handled(), preemption.handled():  # the command line's, and the run's own\n"
        f"    preemption.defer() if {deferred} else None\n"
        "    import os, signal; os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print([name for name in ('jax', 'numpy', 'tensorflow') if name in sys.modules], preemption.requested(1))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    said = "flan: stopped by SIGTERM before the first step: there is nothing to save\n"
    assert (ran.stdout, ran.stderr) == (("[] True\n", "") if deferred else ("", said))


def test_in_the_loop_it_is_noted():
    with preemption.handled():
        preemption.defer()
        preemption.check()
        assert not preemption.requested(1)
        terminate()
        assert preemption.requested(2)
        terminate()  # a second one changes nothing
        assert preemption.requested(3)
    with preemption.handled():
        assert not preemption.requested(1), "a later run knows nothing of it"


def test_an_evaluation_is_given_up_between_two_batches():
    reached = []

    def evaluate() -> None:
        for batch in range(3):
            preemption.check()
            reached.append(batch)
            if batch == 1:
                terminate()

    with preemption.handled():
        preemption.defer()
        with pytest.raises(preemption.Stopped):
            evaluate()
        assert preemption.requested(1)
    assert reached == [0, 1]


def test_an_error_is_not_hidden():
    @preemption.handled()
    def run() -> None:
        preemption.defer()
        terminate()
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run()


def test_a_thread_hears_of_no_signals():
    reached = []

    def run() -> None:
        with preemption.handled():
            preemption.check()
            reached.append(preemption.requested(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reached == [False]
