"""The training stream: lanes of packed rows, the same global batches for any number of hosts, resumed by seeking.

The global batch is cut into lanes, each an endless stream of its own: lane l draws tasks by a hash of (seed, l, n), takes
positions l, l + L, l + 2L ... of each task's stream, and packs what it drew. A host computes only its own lanes, so a
batch does not depend on how many hosts there are. A lane's whole state is a few integers (draws made, draws per task, the
draws waiting in its packer), saved beside the parameters; nothing is replayed.
"""

import dataclasses
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import features, mixtures, packing, seqio_tasks, stateless

MAX_LANES = 8  # each holds a look-ahead, so more of them cost memory and time to the first batch
WINDOW = 256  # examples of look-ahead a lane
_DRAW = 64  # examples drawn, rendered and tokenised at a time
_SALT_TASK = 11

State = dict[str, Any]


def num_lanes(batch_size: int) -> int:
    """The largest power of two that divides the batch, 8 at most: a function of the batch alone."""
    lanes = 1
    while lanes < MAX_LANES and batch_size % (2 * lanes) == 0:
        lanes *= 2
    return lanes


def feature_lengths(lengths: dict[str, int], pack: bool) -> dict[str, int]:
    """The features of a batch and the length of each: what a step is compiled for before the first batch is there."""
    row = features.encoder_decoder_row([], lengths, pack)
    return {name: len(value) for name, value in row.items()}


class Lane:
    """One endless stream of rows."""

    def __init__(self, mixture: mixtures.OpenMixture, lane: int, lanes: int, lengths: dict[str, int], seed: int, pack: bool) -> None:
        self._streams = [member.stream for member in mixture.members]
        self._cumulative = np.cumsum(mixture.probabilities)
        self._lane, self._lanes, self._lengths, self._seed, self._pack = lane, lanes, lengths, seed, pack
        self._draws = 0
        self._counts = np.zeros(len(self._streams), np.int64)
        self._packer = self._new_packer()

    def _new_packer(self) -> packing.BestFitPacker:
        return packing.BestFitPacker([self._lengths["inputs"], self._lengths["targets"]], WINDOW if self._pack else _DRAW)

    def row(self) -> list[tuple[int, seqio_tasks.Tokenised]]:
        """Returns the next row: (task index, example) for each example in it."""
        if self._pack:
            while self._packer.room >= _DRAW:
                self._draw(_DRAW)
        elif not len(self._packer):
            self._draw(_DRAW)
        taken = self._packer.row() if self._pack else self._packer.oldest()
        return [(key[0], example) for key, example in taken]  # type: ignore[misc]  # as `_add` put them in

    def _draw(self, count: int) -> None:
        numbers = np.arange(self._draws, self._draws + count)
        points = stateless.uniform(self._seed, _SALT_TASK, self._lane, numbers)
        tasks = np.minimum(np.searchsorted(self._cumulative, points, side="right"), len(self._streams) - 1)
        self._draws += count
        places = np.empty(count, np.int64)
        for task in np.unique(tasks):
            mine = tasks == task
            places[mine] = self._counts[task] + np.arange(mine.sum())
            self._counts[task] += mine.sum()
        self._add(tasks, places)

    def _add(self, tasks: np.ndarray, places: np.ndarray) -> None:
        """Reads the `places`-th draws of this lane from each task and lets them wait in the packer, in the given order."""
        found: list[Any] = [None] * len(tasks)
        for task in np.unique(tasks):
            where = np.flatnonzero(tasks == task)
            for index, example in zip(where, self._streams[task].read(places[where] * self._lanes + self._lane), strict=True):
                found[index] = ((int(task), int(places[index])), example)
        self._packer.add(found, [(len(example.inputs), len(example.targets)) for _, example in found])

    def state(self) -> State:
        """The lane's position: JSON-ready."""
        waiting = [list(key) for key, _ in self._packer.waiting]  # type: ignore[misc]
        return {"draws": self._draws, "counts": self._counts.tolist(), "waiting": waiting}

    def restore(self, state: State) -> None:
        """Goes to a saved position: the waiting examples are read again, nothing else is."""
        self._draws = state["draws"]
        self._counts = np.asarray(state["counts"], np.int64)
        self._packer = self._new_packer()
        waiting = np.asarray(state["waiting"], np.int64).reshape(-1, 2)
        if len(waiting):
            self._add(waiting[:, 0], waiting[:, 1])


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
      features: int32 arrays [B, length] of this host's rows.
      state: the stream's position after this batch.
      examples: int64 [tasks]: examples of each task in this host's rows.
      tokens: input and target tokens in this host's rows that are not padding.
    """

    features: features.Features
    state: State
    examples: np.ndarray
    tokens: int


class TrainLoader:
    """Batches of a mixture for one host."""

    def __init__(
        self,
        mixture: mixtures.OpenMixture,
        *,
        lengths: dict[str, int],
        batch_size: int,
        seed: int,
        pack: bool,
        host: int = 0,
        hosts: int = 1,
    ) -> None:
        """Args:
          mixture: the open tasks and their rates.
          lengths: `inputs` and `targets`, in tokens.
          batch_size: rows of the global batch.
          seed: of every choice.
          pack: whether rows hold several examples.
          host: index of this process.
          hosts: number of processes; must divide the number of lanes.

        Raises:
          FlanError: the lanes of this batch size cannot be shared out evenly.
        """
        lanes = num_lanes(batch_size)
        if lanes % hosts:
            raise errors.FlanError(f"batch size {batch_size} gives {lanes} lanes, which {hosts} hosts cannot share; expected a batch size divisible by {hosts}")
        self.mixture = mixture
        self._lengths, self._pack, self._rows_per_lane = lengths, pack, batch_size // lanes
        mine = range(host * lanes // hosts, (host + 1) * lanes // hosts)
        self._lanes = {lane: Lane(mixture, lane, lanes, lengths, seed, pack) for lane in mine}
        self._identity = {"mixture": mixture.name, "tasks": [m.name for m in mixture.members], "seed": seed,
                          "lengths": dict(lengths), "batch_size": batch_size, "pack": pack}

    def restore(self, state: State) -> None:
        """Continues after a saved batch.

        Raises:
          FlanError: the state is of another mixture, seed, batch size or lengths; it names what differs.
        """
        for key, ours in self._identity.items():
            if state.get("identity", {}).get(key) != ours:
                raise errors.FlanError(
                    f"the saved data position has {key} = {state.get('identity', {}).get(key)!r}, this run has {ours!r}; "
                    "continue with the same value, or start from the checkpoint's parameters in a new MODEL_DIR"
                )
        for lane in self._lanes:
            self._lanes[lane].restore(state["lanes"][str(lane)])

    def state(self) -> State:
        return {"identity": self._identity, "lanes": {str(lane): stream.state() for lane, stream in self._lanes.items()}}

    def __iter__(self) -> Iterator[Batch]:
        while True:
            rows, examples, tokens = [], np.zeros(len(self.mixture.members), np.int64), 0
            for lane in self._lanes.values():
                for _ in range(self._rows_per_lane):
                    row = lane.row()
                    rows.append(features.encoder_decoder_row([example for _, example in row], self._lengths, self._pack))
                    np.add.at(examples, [task for task, _ in row], 1)
                    tokens += sum(len(example.inputs) + len(example.targets) for _, example in row)
            yield Batch(features.stack(rows), self.state(), examples, tokens)


def prefetch(batches: Iterator[Any], depth: int = 2) -> Iterator[Any]:
    """Runs an iterator in a thread, `depth` elements ahead; an error inside it is raised where it is read."""
    done = object()
    slots: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                slots.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(done)
        except BaseException as error:  # re-raised in the reader's thread
            put(error)

    threading.Thread(target=work, daemon=True, name="flan-loader").start()
    try:
        while True:
            item = slots.get()
            if item is done:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
