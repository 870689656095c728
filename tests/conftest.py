"""What every test runs under: 8 CPU devices, no silent rank promotion, no network, nothing kept in the user's home."""

import os
import pathlib

# Before jax starts: the device count is fixed at its first use.
os.environ["JAX_PLATFORMS"] = "cpu"
# LLVM's optimisation is two thirds of what compiling a small step costs, and nothing here computes for long.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.pop("TFDS_DATA_DIR", None)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def sample_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """The embedded sample as prepared TFDS datasets, made once for all workers of a test run."""
    from flan_jax.data import sample

    root = tmp_path_factory.getbasetemp()
    return sample.prepare(str((root if worker_id == "master" else root.parent) / "sample_cache"))


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder of real data and goldens beside the checkout; tests that use it are skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED
