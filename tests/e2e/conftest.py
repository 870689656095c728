"""Starts runs of their own, on one device: what a user's shell does."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen]:
    """(what comes after `flan`, log file) -> the process. What one run compiles the next ones find compiled.

    A third argument is a program that stands for `flan`, a fourth what is to be set in its environment.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # one device; compiled in a third of the time
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(
        arguments: Sequence[str],
        log: pathlib.Path,
        program: Sequence[str] = (sys.executable, "-m", "flan_jax.cli"),
        settings: Mapping[str, str] | None = None,
    ) -> subprocess.Popen:
        log.parent.mkdir(exist_ok=True, parents=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                [*program, *arguments], env={**environment, **(settings or {})}, stdout=file, stderr=file
            )

    return start
