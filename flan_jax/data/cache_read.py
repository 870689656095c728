"""Training from a packed cache: batches by step, read with Grain; TensorFlow and seqio are never imported.

Rows are numbered through the whole run: the row at place p of epoch e is row `permute(p)` of the cache, under a key made of
(seed, e). Step s takes the B numbers from s * B on, host h its part of them. So any step is found without the ones before,
the global batch is the same for any number of hosts, and the position that a checkpoint holds is one number.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import cache, features, stateless

logger = logging.getLogger(__name__)

_SALT_ROWS = 21
_THREADS = 4  # that read and unpack batches
_AHEAD = 8  # batches read before they are asked for

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one step trains on; the attributes of `loader.Batch` that the loop reads.

    Attributes:
      features: arrays [B, length] of this host's rows.
      examples: int64 [tasks]: examples of each task in this host's rows.
      tokens: tokens in this host's rows that are not padding.
      tasks: of each row, the task of each of its examples.
      state: the position after this batch, JSON-ready; the same on every host.
    """

    features: features.Features
    examples: np.ndarray
    tokens: int
    tasks: Sequence[Sequence[int]]
    state: State


class CachedLoader:
    """Batches of a packed cache for one host."""

    def __init__(
        self,
        opened: cache.Cache,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        host: int = 0,
        hosts: int = 1,
    ) -> None:
        """Args:
          opened: the cache.
          batch_size: rows of the global batch.
          seed: of the order of rows; that of the cache itself is another one.
          shuffle: whether every epoch has a new order, rather than that of the files.
          host: index of this process.
          hosts: number of processes; must divide the batch.

        Raises:
          FlanError: the rows of a batch cannot be shared out evenly.
        """
        if batch_size % hosts:
            raise errors.FlanError(
                f"batch size {batch_size} cannot be shared by {hosts} hosts; expected a multiple of {hosts}"
            )
        self._cache, self.batch_size, self._seed, self._shuffle = opened, batch_size, seed, shuffle
        self._host, self._hosts = host, hosts
        self._next = 0  # the number of the next row
        self._identity = {
            "packed_cache": opened.digest,
            "mixture": opened.manifest["mixture"],
            "seed": seed,
            "shuffle": shuffle,
        }

    @property
    def identity(self) -> State:
        """What the stream is a function of: the same on every host, wherever its copy of the cache lies."""
        return self._identity

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order of `Batch.examples`."""
        return self._cache.tasks

    @property
    def clusters(self) -> list[str | None]:
        """The cluster of each task."""
        return self._cache.clusters

    def restore(self, state: State) -> None:
        """Continues after a saved batch: at once, wherever it was. The batch may since have become larger or smaller.

        Raises:
          FlanError: the state is of another cache, order or kind of input; it names what differs.
        """
        theirs = state.get("identity", {})
        if "packed_cache" not in theirs:
            raise errors.FlanError(
                f"the saved data position was not reached with a packed cache, this run reads {self._cache.directory}; "
                "continue without PACKED_CACHE, or start from the checkpoint's parameters in a new MODEL_DIR"
            )
        for key, ours in self._identity.items():
            if theirs.get(key) != ours:
                raise errors.FlanError(
                    f"the saved data position has {key} = {theirs.get(key)!r}, this run has {ours!r}; continue with the "
                    "same value, or start from the checkpoint's parameters in a new MODEL_DIR"
                )
        self._next = int(state["rows"])

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """The position of all hosts, given each one's: they are equal."""
        return states[0]

    def numbers(self, at: int) -> np.ndarray:
        """Which rows of the cache this host reads of the batch that begins with number `at`: int64 [B / hosts]."""
        mine = self.batch_size // self._hosts
        first = at + self._host * mine
        epochs, order = np.divmod(np.arange(first, first + mine, dtype=np.int64), self._cache.rows)
        if self._shuffle:
            order = stateless.permute(order, self._cache.rows, stateless.hash64(self._seed, _SALT_ROWS, epochs))
        return order

    def __iter__(self) -> Iterator[Batch]:
        import grain

        shards = self._cache.shards
        # The row counts are known, so that no file is opened before a row of it is read.
        paths = [f"{self._cache.directory}/{shard.file}[0:{shard.rows}]" for shard in shards]
        batches = _Batches(self, self._next, grain.sources.ArrayRecordDataSource(paths))
        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
        return iter(grain.MapDataset.source(batches).to_iter_dataset(options))

    def read(self, at: int, source: Any) -> Batch:
        """Reads this host's part of the batch that begins with number `at` out of a source of records by row.

        Raises:
          FlanError: a row cannot be read.
        """
        try:
            found, tokens, tasks = self._cache.records.decode(source.__getitems__(self.numbers(at).tolist()))
        except Exception as error:  # ArrayRecord reports damaged data with whatever type it likes.
            where = self._cache.directory
            raise errors.FlanError(
                f"packed cache {where} cannot be read: {error}; `flan data cache --verify {where}` names the file"
            ) from error
        state = {"identity": self._identity, "rows": at + self.batch_size}
        examples = np.bincount(np.concatenate(tasks), minlength=len(self._cache.tasks))
        return Batch(found, examples, sum(tokens), [task.tolist() for task in tasks], state)


class _Batches:
    """The batches of a loader from a number on, as a source of Grain's."""

    def __init__(self, of: CachedLoader, start: int, source: Any) -> None:
        self._loader, self._start, self._source = of, start, source

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Batch:
        return self._loader.read(self._start + int(index) * self._loader.batch_size, self._source)


def open_loader(
    directory: str,
    *,
    mixture: str,
    split: str,
    lengths: Mapping[str, int],
    pack: bool,
    converter: features.Converter,
    vocabulary: Any,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    host: int = 0,
    hosts: int = 1,
) -> CachedLoader:
    """Opens a cache for a run, after comparing what it holds with what the run asks for.

    Args:
      directory: of the cache.
      mixture: what the run trains on.
      split: of which split.
      lengths: `inputs` and `targets`, in tokens; what is not given is not compared.
      pack: whether rows hold several examples.
      converter: of the model.
      vocabulary: of the model.
      batch_size: as in `CachedLoader`, with what follows.
      seed: likewise.
      shuffle: likewise.
      host: likewise.
      hosts: likewise.

    Raises:
      FlanError: there is no complete cache, or it is of something else; the message names every difference.
    """
    cache.require_local(directory)
    opened = cache.open_cache(directory)
    mismatches = mismatch(opened.manifest, mixture=mixture, split=split, lengths=lengths, pack=pack)
    there = opened.manifest
    mismatches += cache.differences(there, {"converter": cache.describe_converter(converter)}, ["converter"])
    mismatches += cache.vocabulary_differences(there["vocabulary"], cache.describe_vocabulary(vocabulary))
    if mismatches:
        raise errors.FlanError(f"packed cache {directory} does not fit this run: {'; '.join(mismatches)}")
    logger.info(
        "packed cache %s: %s rows, %s examples, %s tokens",
        directory,
        *(f"{there[n]:,}" for n in ("rows", "examples", "tokens")),
    )
    return CachedLoader(opened, batch_size=batch_size, seed=seed, shuffle=shuffle, host=host, hosts=hosts)


def mismatch(
    manifest: Mapping[str, Any], *, mixture: str, split: str, lengths: Mapping[str, int], pack: bool
) -> list[str]:
    """Returns a line for each of these on which a cache differs from what a run asks for."""
    there = {**manifest, "lengths": {name: manifest["lengths"].get(name) for name in lengths}}
    ours = {"mixture": mixture, "split": split, "lengths": dict(lengths), "pack": pack}
    return cache.differences(there, ours, list(ours))
