"""Checking a packed cache against its manifest: every file's hash, every row, every count."""

import os

import numpy as np

from flan_jax import errors, progress
from flan_jax.data import cache, cache_write

_CHUNK = 256  # rows decoded at a time


def problems(opened: cache.Cache) -> list[str]:
    """Returns what is wrong with a cache, a line each; reads all of it."""
    found = []
    with progress.Progress("verify", opened.rows, unit="rows") as bar:
        for shard in opened.shards:
            problem = _problem(opened, shard)
            if problem:
                found.append(f"{shard.file} {problem}")
            bar.advance(shard.rows)
    examples = np.sum([shard.examples for shard in opened.shards], axis=0).tolist()
    counted = [task["examples"] for task in opened.manifest["tasks"]]
    if examples != counted or sum(shard.rows for shard in opened.shards) != opened.rows:
        found.append(
            f"{cache.MANIFEST} does not add up: its shards hold {sum(examples)} examples, it says {sum(counted)}"
        )
    return found


def _problem(opened: cache.Cache, shard: cache.Shard) -> str:
    from array_record.python import array_record_module

    path = os.path.join(opened.directory, shard.file)
    if cache_write.sha256(path) != shard.sha256:
        return "was altered after it was written: its SHA-256 differs"
    try:
        reader = array_record_module.ArrayRecordReader(path)
        if reader.num_records() != shard.rows:
            return f"holds {reader.num_records()} rows, expected {shard.rows}"
        examples, total = np.zeros(len(opened.tasks), np.int64), 0
        for start in range(0, shard.rows, _CHUNK):
            _, tokens, tasks = opened.records.decode(reader.read(start, min(start + _CHUNK, shard.rows)))
            np.add.at(examples, np.concatenate(tasks), 1)
            total += sum(tokens)
        reader.close()
    except Exception as error:  # ArrayRecord reports damaged data with whatever type it likes.
        return f"cannot be read: {error}"
    if examples.tolist() != list(shard.examples) or total != shard.tokens:
        return f"holds {examples.sum()} examples and {total} tokens, expected {sum(shard.examples)} and {shard.tokens}"
    return ""


def verify(directory: str) -> str:
    """Returns one line on a cache that is sound.

    Raises:
      FlanError: every problem.
    """
    cache.require_local(directory)
    opened = cache.open_cache(directory)
    found = problems(opened)
    if found:
        listed = "\n".join(f"  {line}" for line in found)
        raise errors.FlanError(
            f"packed cache {directory} is damaged:\n{listed}\nremove these files, and the same `flan data cache` command writes "
            "them again"
        )
    return f"{directory}: {opened.rows:,} rows in {len(opened.shards)} shards, all as written"
