"""Writing a packed cache: shard k of K is lane k of K of the mixture's stream, so shards are made in any order by anyone.

What a shard holds depends on the plan alone, not on the number of processes, on Beam or on what was interrupted:
the same command ends in the same bytes.
"""

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from flan_jax import errors, log, progress
from flan_jax.data import cache, mixtures, processes, row_request, streams

logger = logging.getLogger(__name__)

_ROWS_A_SHARD = 8192  # about 16 MiB of rows of 1024 + 256
_LEAST_ROWS = 256  # of a shard: what waits in the packer at a shard's end, up to 256 examples, is left out
_SHARDS = 16  # wanted, so that processes share the work
_SEQIO_SHARDS = 8  # at most, where a foreign seqio task is read from the front for each shard anew
_PROBE_ROWS = 8  # of lane 0: their hash is in the plan, to notice data or templates that changed
_SAMPLE_ROWS = 256  # packed rows from which the rows of an epoch are estimated
_POLL = 0.5  # seconds between looks at what the processes have done

# What two plans must share for shards to be of one cache.
_SAME = (
    "version", "flan_jax", "mixture", "split", "seed", "shuffle", "pack", "lengths", "converter", "rows", "shard_rows",
    "tasks", "probe",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def _opened(request: row_request.Request) -> mixtures.OpenMixture:
    """Once a process: the shards that it writes share the open mixture."""
    return request.open()


def rows_of_epochs(request: row_request.Request, epochs: float) -> int:
    """Returns how many rows `epochs` passes over a mixture fill, from 256 rows of it.

    A pass lasts until the first of the tasks has been gone through. In a mixture with a limit (3,000) that is from each task
    as many examples as it has rows, or the limit where it has more.
    """
    mixture = _opened(request)
    lane = request.lane(mixture, 0, 1)
    a_row = sum(len(lane.row()) for _ in range(_SAMPLE_ROWS)) / _SAMPLE_ROWS
    examples = min(
        member.rows / rate for member, rate in zip(mixture.members, mixture.probabilities.tolist(), strict=True) if rate
    )
    return max(1, math.ceil(epochs * examples / a_row))


def plan(request: row_request.Request, rows: int, shards: int | None = None) -> dict[str, Any]:
    """Returns what a cache of so many rows is a function of, JSON-ready.

    Args:
      request: what it is made of.
      rows: how many.
      shards: how many files; by default one for 8,192 rows, and at least 16 where that leaves each 256 rows.

    Raises:
      FlanError: the mixture cannot be opened, or there are more shards than rows.
    """
    mixture = _opened(request)
    if shards is None:
        wanted = max(math.ceil(rows / _ROWS_A_SHARD), min(_SHARDS, rows // _LEAST_ROWS), 1)
        foreign = any(isinstance(member.stream, streams.SeqioStream) for member in mixture.members)
        shards = min(wanted, _SEQIO_SHARDS) if foreign else wanted
    if not 1 <= shards <= rows:
        raise errors.FlanError(f"{shards} shards of {rows} rows; expected at least one row, and a row for each shard")
    lane = request.lane(mixture, 0, shards)
    first = [lane.laid_out() for _ in range(_PROBE_ROWS)]
    spec = cache.Records.spec(first[0][0])
    probe = hashlib.sha256(b"".join(cache.Records(spec).encode(*row) for row in first)).hexdigest()
    return {
        "version": cache.VERSION,
        "flan_jax": importlib.metadata.version("flan_jax"),
        "mixture": request.mixture,
        "split": request.split,
        "seed": request.seed,
        "shuffle": request.shuffle,
        "pack": request.pack,
        "lengths": request.lengths,
        "converter": cache.describe_converter(request.converter),
        "vocabulary": cache.describe_vocabulary(request.tokenizer.vocabulary),
        "features": spec,
        "rows": rows,
        "shard_rows": [rows // shards + (shard < rows % shards) for shard in range(shards)],
        "tasks": [
            {"name": member.name, "rows": member.rows, "rate": member.rate, "cluster": member.cluster}
            for member in mixture.members
        ],
        "probe": probe,
    }


def claim(directory: str, wanted: dict[str, Any]) -> None:
    """Makes the directory this plan's, or continues what is there.

    Raises:
      FlanError: it holds a cache of another plan; the message names every difference. Or files of something else.
    """
    path = os.path.join(directory, cache.PLAN)
    if not epath.Path(path).exists():
        found = [name for name in cache.listing(directory) if not name.startswith(cache.TEMPORARY)]
        if found:
            raise errors.FlanError(
                f"{directory} holds no packed cache but {', '.join(found[:5])}; expected an empty or a new directory"
            )
        epath.Path(directory).mkdir(parents=True, exist_ok=True)
        cache.write_json(path, wanted)
        return
    there = cache.read_json(path)
    differing = cache.differences(there, wanted, _SAME)
    if there.get("version") == cache.VERSION:
        differing += cache.vocabulary_differences(there["vocabulary"], wanted["vocabulary"])
    if not differing:
        return
    # Where settings differ, so do the rows; where none does, something did that is no setting.
    settings = [line for line in differing if not line.startswith("probe:")]
    differing = settings or ["the rows are made otherwise: data, templates or code have changed since"]
    raise errors.FlanError(
        f"{directory} holds a packed cache with other settings: {'; '.join(differing)}. "
        "Give another --out, or remove that one"
    )


def finished(directory: str, wanted: dict[str, Any]) -> dict[int, cache.Shard]:
    """Returns the shards that are whole, by number."""
    total, found = len(wanted["shard_rows"]), {}
    for number in range(total):
        path = os.path.join(directory, cache.note_file(cache.shard_file(number, total)))
        if epath.Path(path).exists():
            shard = cache.Shard.from_json(cache.read_json(path))
            if not cache.whole(directory, shard):
                found[number] = shard
    return found


def write_shard(
    request: row_request.Request, directory: str, wanted: dict[str, Any], number: int, on_rows: Callable[[int], object]
) -> cache.Shard:
    """Writes one shard and the note that it is whole.

    Args:
      request: what the cache is made of.
      directory: of the cache.
      wanted: its plan.
      number: of the shard.
      on_rows: told how many rows were written since it was last called.
    """
    from array_record.python import array_record_module

    total = len(wanted["shard_rows"])
    path = os.path.join(directory, cache.shard_file(number, total))
    mixture, records = _opened(request), cache.Records(wanted["features"])
    lane = request.lane(mixture, number, total)
    examples, tokens = np.zeros(len(mixture.members), np.int64), 0
    temporary = cache.temporary_name(path)
    with contextlib.ExitStack() as undo:
        undo.callback(_remove, temporary)
        writer = array_record_module.ArrayRecordWriter(temporary, cache.WRITER_OPTIONS)
        undo.callback(writer.close)
        for _ in range(wanted["shard_rows"][number]):
            row, count, tasks = lane.laid_out()
            writer.write(records.encode(row, count, tasks))
            np.add.at(examples, tasks, 1)
            tokens += count
            on_rows(1)
        writer.close()
        undo.pop_all()
    shard = cache.Shard(
        file=os.path.basename(path),
        rows=wanted["shard_rows"][number],
        bytes=os.path.getsize(temporary),
        sha256=sha256(temporary),
        tokens=tokens,
        examples=tuple(examples.tolist()),
    )
    cache.put_in_place(temporary, path)
    cache.write_json(os.path.join(directory, cache.note_file(shard.file)), dataclasses.asdict(shard))
    return shard


def build(
    request: row_request.Request,
    directory: str,
    rows: int,
    *,
    shards: int | None = None,
    jobs: int = 1,
    runner: str | None = None,
) -> cache.Cache:
    """Writes a cache, or what is missing of one.

    Args:
      request: what it is made of.
      directory: where; a new one, an empty one, or one that the same call has begun.
      rows: how many.
      shards: how many files; see `plan`.
      jobs: processes on this machine.
      runner: the Apache Beam runner that makes the shards instead of them.

    Raises:
      FlanError: the mixture cannot be opened, the directory holds something else, or a process died.
    """
    wanted = plan(request, rows, shards)
    claim(directory, wanted)
    done = finished(directory, wanted)
    todo = [number for number in range(len(wanted["shard_rows"])) if number not in done]
    if done:
        logger.info("%s: %d of %d shards are there already", directory, len(done), len(done) + len(todo))
    start = sum(shard.rows for shard in done.values())
    with progress.Progress("cache", rows, start=start, unit="rows") as bar:
        if runner is not None and todo:
            from flan_jax.data import cache_beam

            done |= cache_beam.write_shards(request, directory, wanted, todo, runner)
            bar.advance(rows - start)
        elif jobs > 1 and len(todo) > 1:
            done |= dict(_in_processes(request, directory, wanted, todo, min(jobs, len(todo)), bar.advance))
        else:
            done |= {number: write_shard(request, directory, wanted, number, bar.advance) for number in todo}
    return _complete(directory, wanted, [done[number] for number in sorted(done)])


def _complete(directory: str, wanted: dict[str, Any], shards: Sequence[cache.Shard]) -> cache.Cache:
    """Writes the manifest, and removes what killed processes left half written."""
    examples = [sum(counts) for counts in zip(*(shard.examples for shard in shards), strict=True)]
    tasks = [{**task, "examples": count} for task, count in zip(wanted["tasks"], examples, strict=True)]
    counted = {"tasks": tasks, "examples": sum(examples), "tokens": sum(shard.tokens for shard in shards)}
    cache.write_json(
        os.path.join(directory, cache.MANIFEST),
        {**wanted, **counted, "shards": [dataclasses.asdict(shard) for shard in shards]},
    )
    for name in cache.listing(directory):
        if name.startswith(cache.TEMPORARY):
            _remove(os.path.join(directory, name))
    return cache.open_cache(directory)


def sha256(path: str) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Processes.


_rows_done: Any = None  # in a process of the pool: the counter that it shares with the others


def _in_processes(
    request: row_request.Request,
    directory: str,
    wanted: dict[str, Any],
    todo: Sequence[int],
    jobs: int,
    on_rows: Callable[[int], object],
) -> Iterator[tuple[int, cache.Shard]]:
    """Yields (number, shard) as processes finish them; each opens the mixture for itself."""
    context = processes.CONTEXT
    counter, reported = context.Value("q", 0), 0
    with concurrent.futures.ProcessPoolExecutor(jobs, context, _start_process, (counter,)) as pool:
        running = {pool.submit(_in_process, request, directory, wanted, number): number for number in todo}
        try:
            while running:
                ended, _ = concurrent.futures.wait(
                    running, timeout=_POLL, return_when=concurrent.futures.FIRST_COMPLETED
                )
                now = counter.value
                on_rows(now - reported)
                reported = now
                for future in ended:
                    yield running.pop(future), future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise errors.FlanError(
                f"a process that wrote {directory} was killed (out of memory?): finished shards are kept, the same command "
                f"goes on; a smaller --jobs than {jobs} needs less memory"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_process(counter: Any) -> None:
    global _rows_done
    _rows_done = counter
    log.set_up()
    processes.follow_parent(signal.SIGINT)


def _in_process(request: row_request.Request, directory: str, wanted: dict[str, Any], number: int) -> cache.Shard:
    pending = collections.Counter[str]()

    def on_rows(count: int) -> None:
        pending["rows"] += count
        if pending["rows"] >= 64:  # the lock is taken seldom
            flush()

    def flush() -> None:
        with _rows_done.get_lock():
            _rows_done.value += pending.pop("rows", 0)

    shard = write_shard(request, directory, wanted, number, on_rows)
    flush()
    return shard


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
