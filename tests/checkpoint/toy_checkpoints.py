"""Small checkpoints with random numbers in every format, written by what writes them: Orbax, flax, or our sinks."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from flan_jax.checkpoint import families, hugging_face, manager, t5x_write, tensors
from flan_jax.models import api, presets
from flan_jax.training import optim, state

SIZES: dict[str, Any] = {"vocab_size": 67, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 48}
T5 = presets.t5_config(**SIZES, num_encoder_layers=3, num_decoder_layers=2, dropout_rate=0.1)
T5_RELU = presets.t5_config(
    **SIZES, num_encoder_layers=2, num_decoder_layers=2, mlp_activations=("relu",), logits_via_embedding=True
)
OPT = presets.decoder_only_config("opt_1.3b", num_layers=2, max_positions=40, **SIZES)
OPT_350M = presets.decoder_only_config("opt_350m", num_layers=2, max_positions=40, **{**SIZES, "embedding_dim": 16})
LLAMA = presets.decoder_only_config("llama_7b", num_layers=3, **SIZES)
LLAMA_GROUPED = presets.decoder_only_config("llama_65b", num_layers=2, num_kv_heads=2, max_positions=40, **SIZES)
DECODER_ONLY = presets.decoder_only_config(num_layers=2, **SIZES)  # T5X's example


def params(config: api.Config, seed: int = 0) -> dict[tuple[str, ...], np.ndarray]:
    """Random parameters by path, layers one by one; norms around 1."""
    random = np.random.default_rng(seed)
    return {
        at: np.asarray(random.normal(size=shape) * 0.2 + ("norm" in at[-2] and at[-1] == "scale"), np.float32)
        for at, shape in tensors.parameters(config).items()
    }


def adafactor(config: api.Config) -> optim.Adafactor:
    rules = optim.STANDARD_FACTOR_RULES
    return optim.Adafactor(logical_factor_rules=rules).with_axes(api.logical_axes(config))


def abstract(config: api.Config) -> Any:
    """The tree that a run with Adafactor restores."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), _traced(config))


@functools.cache
def _traced(config: api.Config) -> Any:
    return state.abstract(config, adafactor(config)).checkpoint_tree()


def run_state(config: api.Config, step: int = 7, seed: int = 0) -> Any:
    """What a run saves: parameters, and slots and a step as if it had trained."""
    target = tensors.nested(params(config, seed))
    if config.scan_layers:
        target = api.stack_layers(target)
    random = np.random.default_rng(seed + 1)
    shapes = abstract(config)["state"]["param_states"]
    slots = jax.tree.map(lambda leaf: np.asarray(random.random(leaf.shape), leaf.dtype), shapes)
    tree = {"target": target, "state": {"step": np.int32(step), "param_states": slots}}
    return jax.tree.map(jnp.asarray, tree)


def save_run(directory: Path, config: api.Config, step: int = 7) -> Path:
    """A checkpoint as `flan train` leaves it, written by Orbax."""
    with manager.CheckpointManager(directory, keep=None, period=1, async_save=False) as checkpoints:
        checkpoints.save(step, run_state(config, step), {"row": 1})
    return directory / f"checkpoint_{step}"


def save_hugging_face(folder: Path, config: api.Config, shard_bytes: int = 10**9) -> Path:
    folder.mkdir(parents=True)
    family, values = families.family_of(config), params(config)
    pairs = families.pairs(config, family)
    specs = {pair.theirs: tensors.Stored(pair.their_shape, np.dtype(np.float32)) for pair in pairs}
    sink = hugging_face.Sink(epath.Path(folder), config, family, specs, shard_bytes)
    for pair in pairs:
        sink.write(pair.theirs, pair.swap(values[pair.ours]))
    sink.close()
    return folder


def save_legacy(folder: Path, config: api.Config, step: int = 7) -> Path:
    """T5X's legacy layout of what `save_run` saves."""
    folder.mkdir(parents=True)
    leaves = tensors.flat(run_state(config, step))
    specs = {".".join(at): tensors.Stored(leaf.shape, np.dtype(leaf.dtype)) for at, leaf in leaves.items()}
    sink = t5x_write.LegacySink(epath.Path(folder), specs, set())
    for at, leaf in leaves.items():
        sink.write(".".join(at), np.asarray(leaf))
    sink.close()
    return folder


def read_all(source: Any) -> dict[str, np.ndarray]:
    """Every tensor of an open checkpoint."""
    return {name: source.read(name) for name in source.tensors}


def assert_same_bits(given: dict[Any, np.ndarray], expected: dict[Any, np.ndarray]) -> None:
    assert set(given) == set(expected)
    for name, value in expected.items():
        value = np.asarray(value)
        assert (given[name].shape, given[name].dtype) == (value.shape, value.dtype), name
        assert given[name].tobytes() == value.tobytes(), name
