"""Where log lines go."""

import logging
import os
import sys
from typing import Any


class _ToStderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time: a progress bar takes its place, and prints the lines above itself."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        del value


def set_up() -> None:
    """Sends flan_jax's own log lines to stderr; libraries speak up from warnings on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    ours = logging.getLogger("flan_jax")
    if not ours.handlers:
        handler = _ToStderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.WARNING)
