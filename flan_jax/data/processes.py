"""Other processes of the data path: how they are started, and that none outlives who started it."""

import multiprocessing
import os
import signal
import threading

# Spawned: the threads of TensorFlow and JAX do not survive a fork.
CONTEXT = multiprocessing.get_context("spawn")


def follow_parent(*ignored: signal.Signals) -> None:
    """In a child: ends it when its parent has ended, and ignores signals that the parent answers for both.

    Args:
      ignored: signals that reach every process of a terminal or a job; the parent stops giving work, and what is begun
        is finished.
    """
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        # A killed parent would leave its children waiting for work for ever.
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
