"""Five training steps of a small model of each family, on whatever devices there are.

`python -m tests.e2e.five_steps DATA_DIR OUT ADDRESS INDEX` is process INDEX of two; process 0 writes OUT.
"""

import functools
import itertools
import sys
from typing import Any

import jax
import numpy as np

from flan_jax import sharding, train
from flan_jax.data import vocabulary
from flan_jax.models import api, presets
from flan_jax.training import configs, optim, state

STEPS = 5
SIZES = {"data": 2, "fsdp": 2, "model": 2}
SMALL = {"vocab_size": 8192, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64, "dropout_rate": 0.1}


def model_of(family: str) -> configs.Model:
    words, rules = vocabulary.sentencepiece_vocabulary(), optim.standard_logical_factor_rules()
    optimizer = optim.Adafactor(min_dim_size_to_factor=16, logical_factor_rules=rules)
    options: dict[str, Any] = {"z_loss": 1e-4, "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"}
    if family == "encoder_decoder":
        config = presets.t5_config("tiny", **SMALL, num_encoder_layers=1, num_decoder_layers=1)
        return configs.EncoderDecoderModel(configs.Transformer(config), words, words, optimizer, **options)
    config = presets.decoder_only_config("palm_8b", **SMALL, num_layers=2, scan_layers=True)
    return configs.DecoderOnlyModel(
        configs.DecoderWrapper(config), words, optimizer, inputs_bidirectional_attention=True, **options
    )


def run(family: str, data_dir: str, mesh: Any) -> tuple[list[float], dict[str, np.ndarray]]:
    """The loss of each step, and the parameters after the last, whole."""
    model = model_of(family)
    cfg = configs.DatasetConfig(
        "rte_10templates",
        {"inputs": 64, "targets": 16},
        "train",
        batch_size=8,
        pack=True,
        module="flan_jax.tasks.nli",
        data_dir=data_dir,
    )
    optimizer = model.optimizer_def.with_axes(api.logical_axes(model.config))
    shapes, places = state.abstract(model.config, optimizer), state.shardings(model.config, optimizer, mesh)
    create = jax.jit(functools.partial(state.create, model.config, optimizer), out_shardings=places)
    now, losses = create(jax.random.key(0)), []
    key = jax.jit(lambda: jax.random.key(1), out_shardings=sharding.replicated(mesh))()
    with sharding.use(mesh):
        trainer = configs.Trainer(lambda step: 0.01)
        compiled, _ = train.compile_step(model, optimizer, trainer, places, shapes, mesh, key, cfg)
        for batch in itertools.islice(train.open_loader(cfg, model, seed=0), STEPS):
            rows = train.to_global(sharding.batch_sharding(mesh), batch.features)
            now, sums = compiled(now, rows, key)
            losses.append(float(jax.device_get(sums["loss"])))
        whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))(now.params)
    flat = jax.tree_util.tree_flatten_with_path(jax.device_get(whole))[0]
    return losses, {jax.tree_util.keystr(path): value for path, value in flat}


def main(data_dir: str, out: str, address: str, index: str) -> None:
    jax.distributed.initialize(address, 2, int(index))
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 8, 4)
    found = {}
    for family in ("encoder_decoder", "decoder_only"):
        losses, params = run(family, data_dir, sharding.make_mesh(**SIZES))
        found |= {f"{family}/losses": losses, **{f"{family}/{name}": value for name, value in params.items()}}
    if index == "0":
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
