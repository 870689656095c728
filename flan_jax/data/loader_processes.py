"""Lanes made by other processes, since Python computes in one thread at a time.

Lanes know nothing of each other, so they are dealt out, and what they give is the same for any number of processes.
"""

import dataclasses
import logging
import queue
import signal
import traceback
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.data import loader, processes, row_request

_AHEAD = 2  # batches that a process makes before they are asked for
_POLL = 1.0  # seconds between looks at whether a process that gives nothing is alive


@dataclasses.dataclass(frozen=True)
class _Worker:
    process: Any
    inbox: Any  # takes which lanes to make and where from, once
    outbox: Any  # gives the lanes' parts, or a `_Failure`


@dataclasses.dataclass(frozen=True)
class _Failure:
    message: str
    ours: bool  # whether it is a mistake of the user's, told without a traceback


class Processes:
    """Makes lanes in other processes, each of which opens the mixture for itself."""

    def __init__(self, request: row_request.Request, count: int) -> None:
        """Args:
          request: what the lanes are made of.
          count: how many processes; no more are used than there are lanes of this host.

        Raises:
          FlanError: `count` is less than 1.
        """
        if count < 1:
            raise errors.FlanError(f"{count} data processes; expected 1 or more, or 0 to make rows in this one")
        self._request, self._count = request, count
        self._workers: list[_Worker] = []
        self._kept: Mapping[int, Sequence[bool]] = {}
        self._lanes = 0
        self._saved: dict[int, loader.State] = {}

    def _open(self) -> None:
        for number in range(min(self._count, len(self._kept))):
            theirs, ours = processes.CONTEXT.Pipe(duplex=False)
            outbox = processes.CONTEXT.Queue(_AHEAD)
            process = processes.CONTEXT.Process(
                target=_work, args=(self._request, theirs, outbox), name=f"flan-data-{number}", daemon=True
            )
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours, outbox))

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.inbox.close()
            worker.outbox.close()
            worker.outbox.cancel_join_thread()
        self._workers = []

    def start(self, kept: Mapping[int, Sequence[bool]], lanes: int, saved: Mapping[int, loader.State]) -> None:
        """As `loader.Source.start`; the processes begin to open the mixture, while this one goes on to compile."""
        self._kept, self._lanes, self._saved = kept, lanes, dict(saved)
        if not self._workers:
            self._open()

    def parts(self) -> Generator[dict[int, loader.Part], None, None]:
        """As `loader.Source.parts`; the processes end with the generator.

        Raises:
          FlanError: what a process found wrong with the data, or that one was killed.
        """
        if not self._workers:
            self._open()
        numbers, found = list(self._kept), {}
        try:
            for index, worker in enumerate(self._workers):
                mine = numbers[index :: len(self._workers)]
                saved = {number: self._saved[number] for number in mine if number in self._saved}
                worker.inbox.send(({number: self._kept[number] for number in mine}, self._lanes, saved))
            while True:
                found = {number: part for worker in self._workers for number, part in _receive(worker).items()}
                yield found
        finally:
            # Once, not for every batch: a state takes 2 ms.
            self._saved |= {number: part.position.state() for number, part in found.items()}
            self.close()


def _receive(worker: _Worker) -> dict[int, loader.Part]:
    while True:
        try:
            found = worker.outbox.get(timeout=_POLL)
        except queue.Empty:
            if worker.process.is_alive():
                continue
            raise errors.FlanError(
                f"data process {worker.process.name} ended with exit code {worker.process.exitcode} (out of memory?); "
                "fewer of them need less"
            ) from None
        if not isinstance(found, _Failure):
            return found
        raise errors.FlanError(found.message) if found.ours else RuntimeError(f"in a data process:\n{found.message}")


def _work(request: row_request.Request, inbox: Any, outbox: Any) -> None:
    processes.follow_parent(signal.SIGINT, signal.SIGTERM)
    # What is left out, and the like, the parent has said.
    logging.getLogger("flan_jax").setLevel(logging.ERROR)
    try:
        lanes = request.lanes(request.open())
        lanes.start(*inbox.recv())
        for parts in lanes.parts():
            outbox.put(parts)
    except EOFError:  # never asked
        return
    except errors.FlanError as error:
        outbox.put(_Failure(str(error), ours=True))
    except Exception:
        outbox.put(_Failure(traceback.format_exc(), ours=False))
