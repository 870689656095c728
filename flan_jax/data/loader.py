"""The training stream: lanes of packed rows, the same global batches for any number of hosts, resumed by seeking.

The global batch is cut into lanes, each an endless stream of its own: lane l draws tasks by a hash of (seed, l, n),
takes positions l, l + L, l + 2L ... of each task's stream, and packs what it drew. A host computes only the lanes that
its rows come from (with more hosts than lanes, several hosts the same one), so a batch does not depend on how many
hosts there are. A lane's whole state is a few integers (draws made, draws per task, the
draws waiting in its packer), saved beside the parameters; nothing is replayed.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from flan_jax import errors
from flan_jax.data import features, mixtures, packing, seqio_tasks, stateless, streams

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


def feature_lengths(
    lengths: dict[str, int], pack: bool, converter: features.Converter = features.ENCODER_DECODER
) -> dict[str, int]:
    """The features of a batch and the length of each: what a step is compiled for before the first batch is there."""
    row = converter.row([], lengths, pack)
    return {name: len(value) for name, value in row.items()}


class Lane:
    """One endless stream of rows."""

    def __init__(
        self,
        mixture: mixtures.OpenMixture,
        lane: int,
        lanes: int,
        lengths: dict[str, int],
        seed: int,
        pack: bool,
        converter: features.Converter = features.ENCODER_DECODER,
    ) -> None:
        self._streams = [member.stream for member in mixture.members]
        self._cumulative = np.cumsum(mixture.probabilities)
        self._lane, self._lanes, self._lengths, self._seed, self._pack = lane, lanes, lengths, seed, pack
        self._converter = converter
        self._draws = 0
        self._counts = np.zeros(len(self._streams), np.int64)
        self._packer = self._new_packer()

    def _new_packer(self) -> packing.BestFitPacker:
        return packing.BestFitPacker(self._converter.capacity(self._lengths), WINDOW if self._pack else _DRAW)

    def laid_out(self) -> "Row":
        """Makes the next row as the model reads it."""
        taken = self.row()
        found = self._converter.row([example for _, example in taken], self._lengths, self._pack)
        return Row(found, sum(sum(self._converter.sizes(one)) for _, one in taken), [task for task, _ in taken])

    def row(self) -> list[tuple[int, seqio_tasks.Tokenised]]:
        """Returns the next row: (task index, example) for each example in it."""
        if self._pack:
            while self._packer.room >= _DRAW:
                self._draw(_DRAW)
        elif not len(self._packer):
            self._draw(_DRAW)
        taken = self._packer.row() if self._pack else self._packer.oldest()
        return [(key[0], example) for key, example in taken]  # type: ignore[misc]  # as `_add` put them in

    def drawn(self, numbers: np.ndarray) -> np.ndarray:
        """The task of each of these draws of the lane."""
        points = stateless.uniform(self._seed, _SALT_TASK, self._lane, numbers)
        return np.minimum(np.searchsorted(self._cumulative, points, side="right"), len(self._streams) - 1)

    def _draw(self, count: int) -> None:
        tasks = self.drawn(np.arange(self._draws, self._draws + count))
        self._draws += count
        places = np.empty(count, np.int64)
        for task in np.unique(tasks):
            mine = tasks == task
            places[mine] = self._counts[task] + np.arange(mine.sum())
            self._counts[task] += mine.sum()
        self._add(tasks, places)

    def _add(self, tasks: np.ndarray, places: np.ndarray) -> None:
        """Reads the `places`-th draws of this lane from each task; lets them wait in the packer, in the given order."""
        found: list[Any] = [None] * len(tasks)
        wheres = [np.flatnonzero(tasks == task) for task in np.unique(tasks)]
        requests = [(self._streams[tasks[where[0]]], places[where] * self._lanes + self._lane) for where in wheres]
        for where, examples in zip(wheres, streams.read_together(requests), strict=True):
            for index, example in zip(where.tolist(), examples, strict=True):
                found[index] = ((int(tasks[index]), int(places[index])), example)
        self._packer.add(found, [self._converter.sizes(example) for _, example in found])

    def position(self) -> "Position":
        """Where the lane is: a snapshot that further rows leave alone."""
        return Position(self._draws, self._counts.tolist(), [key for key, _ in self._packer.waiting])  # type: ignore[misc]

    def seek_positions(self, state: State | None = None) -> list[int]:
        """The first position of each task's stream that this lane reads after a saved state, or from the start."""
        first = state["counts"] if state else [0] * len(self._streams)
        for task, place in state["waiting"] if state else []:
            first = [*first[:task], min(first[task], place), *first[task + 1 :]]
        return [place * self._lanes + self._lane for place in first]

    def restore(self, state: State) -> None:
        """Goes to a saved position: the waiting examples are read again, nothing else is."""
        self._draws = state["draws"]
        self._counts = np.asarray(state["counts"], np.int64)
        self._packer = self._new_packer()
        waiting = np.asarray(state["waiting"], np.int64).reshape(-1, 2)
        if len(waiting):
            self._add(waiting[:, 0], waiting[:, 1])


class Row(NamedTuple):
    """A row as the model reads it: int32 arrays [length], tokens that are not padding, and the task of each of its examples."""

    features: features.Features
    tokens: int
    tasks: list[int]


class Part(NamedTuple):
    """A lane's rows of one batch: `features` [rows, length], `tokens` of all, `tasks` of each row, and where the lane then is."""

    features: features.Features
    tokens: int
    tasks: list[list[int]]
    position: "Position"


@dataclasses.dataclass(frozen=True)
class Position:
    """A lane's position: draws made, draws made of each task, and (task, place) of each example that waits."""

    draws: int
    counts: list[int]
    waiting: list[tuple[int, int]]

    def state(self) -> State:
        """The same, JSON-ready."""
        return {"draws": self.draws, "counts": self.counts, "waiting": [list(key) for key in self.waiting]}


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
      features: int32 arrays [B, length] of this host's rows.
      identity: what the stream is a function of.
      positions: where each lane of this host is after this batch.
      examples: int64 [tasks]: examples of each task in this host's rows.
      tokens: tokens in this host's rows that are not padding.
      tasks: of each row, the task of each of its examples.
    """

    features: features.Features
    identity: State
    positions: dict[int, Position]
    examples: np.ndarray
    tokens: int
    tasks: Sequence[Sequence[int]]

    @property
    def state(self) -> State:
        """The stream's position after this batch, JSON-ready: made on demand, since few steps save it (2 ms)."""
        lanes = {str(lane): position.state() for lane, position in self.positions.items()}
        return {"identity": self.identity, "lanes": lanes}


class Source(Protocol):
    """What makes a host's lanes: this process (`Lanes`), or several others (`loader_processes.Processes`)."""

    def start(self, kept: Mapping[int, Sequence[bool]], lanes: int, saved: Mapping[int, State]) -> None:
        """Says which lanes to make and where from.

        Args:
          kept: lane -> of each of its rows of a batch, whether it is this host's.
          lanes: how many there are in all.
          saved: lane -> the position to continue from; those that are not in it begin at their start.
        """
        ...

    def parts(self) -> Generator[dict[int, Part], None, None]:
        """Yields each lane's part of a batch, batch after batch; continues where it was if it is called again."""
        ...


class Lanes:
    """Makes lanes in this process."""

    def __init__(
        self,
        mixture: mixtures.OpenMixture,
        lengths: dict[str, int],
        seed: int,
        pack: bool,
        converter: features.Converter = features.ENCODER_DECODER,
    ) -> None:
        self._mixture, self._lengths, self._seed, self._pack, self._converter = mixture, lengths, seed, pack, converter
        self._kept: Mapping[int, Sequence[bool]] = {}
        self.open: dict[int, Lane] = {}

    def start(self, kept: Mapping[int, Sequence[bool]], lanes: int, saved: Mapping[int, State]) -> None:
        self._kept = kept
        self.open = {
            number: Lane(self._mixture, number, lanes, self._lengths, self._seed, self._pack, self._converter)
            for number in kept
        }
        firsts = {number: lane.seek_positions(saved.get(number)) for number, lane in self.open.items()}
        for task, member in enumerate(self._mixture.members):
            member.stream.seek({number: first[task] for number, first in firsts.items()}, lanes)
        for number, lane in self.open.items():
            if number in saved:
                lane.restore(saved[number])

    def parts(self) -> Generator[dict[int, Part], None, None]:
        while True:
            yield {number: self._part(lane, self._kept[number]) for number, lane in self.open.items()}

    def _part(self, lane: Lane, kept: Sequence[bool]) -> Part:
        made = [lane.laid_out() if keep else lane.row() for keep in kept]
        rows = [row for row in made if isinstance(row, Row)]  # the others are another host's
        tokens, tasks = sum(row.tokens for row in rows), [row.tasks for row in rows]
        return Part(features.stack([row.features for row in rows]), tokens, tasks, lane.position())


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
        converter: features.Converter = features.ENCODER_DECODER,
        host: int = 0,
        hosts: int = 1,
        source: Source | None = None,
    ) -> None:
        """Args:
          mixture: the open tasks and their rates.
          lengths: `inputs` and `targets`, in tokens.
          batch_size: rows of the global batch.
          seed: of every choice.
          pack: whether rows hold several examples.
          converter: lays rows out as the model's family reads them.
          host: index of this process.
          hosts: number of processes; must divide the batch.
          source: what makes the lanes, of the same mixture and settings; this process where None.

        Raises:
          FlanError: the rows of a batch cannot be shared out evenly.
        """
        if batch_size % hosts:
            raise errors.FlanError(
                f"batch size {batch_size} cannot be shared by {hosts} hosts; expected a multiple of {hosts}"
            )
        self.mixture = mixture
        self._lanes = num_lanes(batch_size)
        rows = range(host * batch_size // hosts, (host + 1) * batch_size // hosts)  # of the global batch
        size = batch_size // self._lanes
        mine = range(rows.start // size, -(-rows.stop // size))
        self._kept = {lane: [row in rows for row in range(lane * size, (lane + 1) * size)] for lane in mine}
        self._source = Lanes(mixture, lengths, seed, pack, converter) if source is None else source
        self._identity = {
            "mixture": mixture.name,
            "tasks": [member.name for member in mixture.members],
            "rows": [member.rows for member in mixture.members],
            "rates": [member.rate for member in mixture.members],
            "seed": seed,
            "lengths": dict(lengths),
            "batch_size": batch_size,
            "pack": pack,
            "features": converter.name,
            "shuffle": mixture.shuffle,
        }
        self._source.start(self._kept, self._lanes, {})

    @property
    def identity(self) -> State:
        """What the stream is a function of: the same on every host, however it got its data."""
        return self._identity

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order of `Batch.examples`."""
        return [member.name for member in self.mixture.members]

    @property
    def clusters(self) -> list[str | None]:
        """The cluster of each task."""
        return [member.cluster for member in self.mixture.members]

    def restore(self, state: State) -> None:
        """Continues after a saved batch.

        Raises:
          FlanError: the state is of another mixture, data, seed, batch size or lengths; it names what differs. Or it
            lacks a lane of this host.
        """
        if "packed_cache" in state.get("identity", {}):
            raise errors.FlanError(
                "the saved data position was reached with a packed cache; continue with the same PACKED_CACHE, "
                "or start from the checkpoint's parameters in a new MODEL_DIR"
            )
        for key, ours in self._identity.items():
            if state.get("identity", {}).get(key) != ours:
                raise errors.FlanError(
                    f"the saved data position has {key} = {state.get('identity', {}).get(key)!r}, "
                    f"this run has {ours!r}; continue with the same value, "
                    "or start from the checkpoint's parameters in a new MODEL_DIR"
                )
        saved = {int(lane): position for lane, position in state["lanes"].items()}
        absent = sorted(set(self._kept) - set(saved))
        if absent:
            raise errors.FlanError(
                f"the saved data position has lanes {sorted(saved)}, this host also needs {absent}: "
                "it was saved by one of several hosts without the others' lanes (`merge_states`)"
            )
        self._source.start(self._kept, self._lanes, {lane: saved[lane] for lane in self._kept})

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """The position of all hosts, given each one's: what a checkpoint holds."""
        return merge_states(states)

    def __iter__(self) -> Iterator[Batch]:
        with contextlib.closing(self._source.parts()) as every:
            for parts in every:
                ordered = [parts[lane] for lane in self._kept]
                tasks = [row for part in ordered for row in part.tasks]
                examples = np.bincount([task for row in tasks for task in row], minlength=len(self.mixture.members))
                joined = {
                    name: np.concatenate([part.features[name] for part in ordered]) for name in ordered[0].features
                }
                positions = {lane: part.position for lane, part in parts.items()}
                yield Batch(joined, self._identity, positions, examples, sum(part.tokens for part in ordered), tasks)


def merge_states(states: Sequence[State]) -> State:
    """Joins what the hosts of a run know of its position into the one state that any number of hosts can restore."""
    lanes = {lane: position for state in states for lane, position in state["lanes"].items()}
    return {"identity": states[0]["identity"], "lanes": dict(sorted(lanes.items(), key=lambda item: int(item[0])))}


def prefetch(batches: Iterator[Any], depth: int = 2) -> Generator[Any, None, None]:
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
