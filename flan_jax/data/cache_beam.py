"""Shards of a packed cache made by Apache Beam workers (extra `[beam]`), a shard an element.

Every worker writes to the cache's directory: a local one (DirectRunner), or one that all of them reach, such as gs://.
"""

import contextlib
import functools
import sys
from collections.abc import Sequence
from typing import Any

from flan_jax import errors
from flan_jax.data import cache, cache_write


def write_shards(
    request: Any, directory: str, wanted: dict[str, Any], todo: Sequence[int], runner: str
) -> dict[int, cache.Shard]:
    """Writes shards as a Beam pipeline; returns them by number.

    Args:
      request: `row_request.Request`.
      directory: of the cache.
      wanted: its plan.
      todo: numbers of the shards.
      runner: `NAME`, or `NAME --option=value ...`: the rest are the pipeline's own options.

    Raises:
      FlanError: Beam is not installed, there is no such runner, or the pipeline left shards unwritten.
    """
    try:
        import apache_beam as beam
        from apache_beam.options import pipeline_options
    except ModuleNotFoundError:
        raise errors.FlanError("--runner needs Apache Beam: pip install 'flan_jax[beam]'") from None
    name, *flags = runner.split()
    options = pipeline_options.PipelineOptions(flags)
    one = functools.partial(_write, request, directory, wanted)
    with _own_argv():
        try:
            pipeline = beam.Pipeline(name, options=options)
        except ValueError as error:
            raise errors.FlanError(f"--runner {runner!r}: {error}") from None
        # Reshuffled, or Beam would fuse both steps and one worker would make every shard.
        _ = pipeline | beam.Create(list(todo)) | beam.Reshuffle() | beam.Map(one)
        pipeline.run().wait_until_finish()
    done = cache_write.finished(directory, wanted)
    absent = sorted(set(todo) - set(done))
    if absent:
        raise errors.FlanError(
            f"the pipeline ended without shards {absent} in {directory}: do the workers see that directory?"
        )
    return {number: done[number] for number in todo}


def _write(request: Any, directory: str, wanted: dict[str, Any], number: int) -> None:
    cache_write.write_shard(request, directory, wanted, number, lambda _: None)


@contextlib.contextmanager
def _own_argv() -> Any:
    """Hides this program's flags: Beam reads options out of sys.argv where it is given none."""
    saved, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = saved
