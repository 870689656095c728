"""`--profile_steps FROM:TO`: a trace of some steps by JAX's profiler, for TensorBoard, Perfetto or XProf."""

import logging
import re
from collections.abc import Callable
from typing import Any

import jax

from flan_jax import errors

logger = logging.getLogger(__name__)


def parse(text: str) -> tuple[int, int]:
    """`parse("10:13") == (10, 13)`: steps of the run, from 1, both included.

    Raises:
      FlanError: it is nothing of that kind.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise errors.FlanError(
            f"profile_steps is {text!r}; expected FROM:TO, steps of the run from 1 on, such as 10:13"
        )
    return first, last


class Tracer:
    """Stands for a compiled step, and writes a trace while it does those that are asked for."""

    def __init__(self, step_fn: Callable[..., Any], start: int, steps: tuple[int, int], directory: str) -> None:
        """Args:
        step_fn: (state, batch, key) -> (state, sums).
        start: steps done before.
        steps: the first and the last to trace; a run that starts behind the first traces what is left.
        directory: what gets `plugins/profile/TIME/`, of each host its own files.
        """
        self._step_fn, self._done, self._steps, self._directory = step_fn, start, steps, directory
        self._tracing = False

    def __call__(self, *arguments: Any) -> Any:
        self._done += 1
        first, last = self._steps
        if first <= self._done <= last and not self._tracing:
            jax.block_until_ready(arguments[0])  # The steps before are not part of it.
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        if not self._tracing:
            return self._step_fn(*arguments)
        with jax.profiler.StepTraceAnnotation("train", step_num=self._done):
            result = self._step_fn(*arguments)
        if self._done == last:
            jax.block_until_ready(result)
            self.close()
        return result

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            first, last = self._steps
            logger.info("wrote a trace of steps %d to %d to %s", first, min(last, self._done), self._directory)
