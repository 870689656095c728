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

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("no deadline", deadline=None)  # timing never fails a test
hypothesis.settings.load_profile("no deadline")
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


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """MODEL_DIR of a tiny T5 with random parameters, as `flan train` leaves it: config.gin, checkpoint_3 and checkpoint_7."""
    import jax.numpy as jnp

    from flan_jax import config
    from flan_jax.checkpoint import manager
    from flan_jax.inference import saved
    from flan_jax.models import api

    folder = tmp_path_factory.mktemp("run") / "demo"
    folder.mkdir()
    sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    bindings = [f"MODEL_DIR = {str(folder)!r}", *(f"network.T5Config.{name} = {size}" for name, size in sizes.items())]
    with config.isolated():
        config.register()
        config.bind(config.parse(["recipes/demo.gin"], bindings))
        (folder / saved.CONFIG).write_text(config.config_str())
    with manager.CheckpointManager(folder, keep=None, period=1, async_save=False) as checkpoints:
        of = saved.read_run(folder / "checkpoint_3").model.config
        for step in (3, 7):
            # Logits further apart than random parameters give, so that answers differ.
            params = jax.tree.map(lambda leaf: 2.0 * leaf, api.init(of, jax.random.key(step)))
            state = {"target": params, "state": {"step": jnp.int32(step), "param_states": {}}}
            checkpoints.save(step, state, {})
    return folder
