"""What bfloat16 activations do to the loss: the same run in both types, on the embedded sample.

    python benchmarks/bfloat16.py [--steps 50] [--batch 8] [--inputs 256] [--targets 64]

One small model of each family, from the same parameters, on the same batches, with the same dropout. Prints the largest and
the mean difference of a step's loss as a share of float32's, and both losses at the end.
"""

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

# The decoder-only ones with what their families have of their own.
WIDTH = {"vocab_size": 8192, "emb_dim": 64, "num_heads": 4, "head_dim": 16, "mlp_dim": 128, "dropout_rate": 0.1}
FAMILIES = ("t5_1_1", "t5x", "palm", "opt", "llama")
_DECODER_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "t5x": ("t5x_tiny", {"prefix_lm": True}),
    "palm": ("palm_8b", {}),
    "opt": ("opt_125m", {}),
    "llama": ("llama_7b", {}),
}


def model_of(family: str, dtype: str, layers: int) -> Any:
    """A `configs.Model` of the family, with so many layers in each stack."""
    from flan_jax.data import vocabulary
    from flan_jax.models import presets
    from flan_jax.training import configs, optim

    words = vocabulary.sentencepiece_vocabulary()
    optimizer = optim.Adafactor(logical_factor_rules=optim.standard_logical_factor_rules())
    settings: dict[str, Any] = {"z_loss": 1e-4, "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"}
    if family == "t5_1_1":
        depth = {"num_encoder_layers": layers, "num_decoder_layers": layers}
        config = presets.t5_config("tiny", **{**WIDTH, **depth, "dtype": dtype})
        return configs.EncoderDecoderModel(configs.Transformer(config), words, words, optimizer, **settings)
    preset, own = _DECODER_ONLY[family]
    config = presets.decoder_only_config(preset, num_layers=layers, **{**WIDTH, **own, "dtype": dtype})
    return configs.DecoderOnlyModel(configs.DecoderWrapper(config), words, optimizer, **settings)


def losses(model: Any, params: Any, batches: Sequence[Any]) -> np.ndarray:
    """The loss in nats a target token of each step over the batches, from those parameters."""
    import jax
    import jax.numpy as jnp

    from flan_jax.models import api
    from flan_jax.training import state, step

    optimizer = model.optimizer_def.with_axes(api.logical_axes(model.config))
    update = jax.jit(step.make_train_step(model, optimizer, lambda _: jnp.float32(0.01)), donate_argnums=0)
    now = state.TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params))
    found = []
    for batch in batches:
        now, sums = update(now, batch.features, jax.random.key(1))
        found.append(sums["undivided_loss"] / sums["weights"])
    return np.asarray(jax.device_get(found), np.float64)


def differences(
    family: str,
    data_dir: str,
    mixture: str = "flan_minus_nli_10templates",
    *,
    layers: int = 2,
    steps: int,
    batch_size: int,
    **lengths: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float32's losses, bfloat16's, their difference as a share of the former)."""
    import jax

    from flan_jax import train
    from flan_jax.models import api
    from flan_jax.training import configs

    exact, rounded = (model_of(family, dtype, layers) for dtype in ("float32", "bfloat16"))
    module = "flan_jax.tasks.catalogue"
    data = configs.DatasetConfig(
        mixture, lengths, "train", batch_size=batch_size, pack=True, module=module, data_dir=data_dir
    )
    batches = list(itertools.islice(train.open_loader(data, exact, 0), steps))
    params = api.init(exact.config, jax.random.key(0))
    before, after = losses(exact, params, batches), losses(rounded, params, batches)
    return before, after, np.abs(after - before) / before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--targets", type=int, default=64)
    given = parser.parse_args()
    print(f"{'family':10} {'largest':>9} {'mean':>9} {'float32':>9} {'bfloat16':>9}")
    run = {"steps": given.steps, "batch_size": given.batch, "inputs": given.inputs, "targets": given.targets}
    for family in FAMILIES:
        exact, rounded, share = differences(family, "sample", **run)
        print(f"{family:10} {share.max():9.4%} {share.mean():9.4%} {exact[-1]:9.4f} {rounded[-1]:9.4f}", flush=True)


if __name__ == "__main__":
    main()
