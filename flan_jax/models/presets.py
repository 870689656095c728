"""Model sizes as data, and the one function that turns a size's name into a config."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flan_jax import errors
from flan_jax.models import encoder_decoder

# T5.1.1 (T5X examples/t5/t5_1_1/*.gin); LM-adapted T5 and Flan-T5 have the same sizes. The vocabulary is the 32,000
# pieces and 100 sentinels of T5, rounded up to a multiple of 128. Parameters: 76,961,152; 247,577,856; 783,150,080;
# 2,849,757,184; 11,135,332,352. `tiny` is T5X's test size.
T5_1_1: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "emb_dim": 64, "num_heads": 4, "head_dim": 16, "mlp_dim": 128},
    "small": {"layers": 8, "emb_dim": 512, "num_heads": 6, "head_dim": 64, "mlp_dim": 1024},
    "base": {"layers": 12, "emb_dim": 768, "num_heads": 12, "head_dim": 64, "mlp_dim": 2048},
    "large": {"layers": 24, "emb_dim": 1024, "num_heads": 16, "head_dim": 64, "mlp_dim": 2816},
    "xl": {"layers": 24, "emb_dim": 2048, "num_heads": 32, "head_dim": 64, "mlp_dim": 5120},
    "xxl": {"layers": 24, "emb_dim": 4096, "num_heads": 64, "head_dim": 64, "mlp_dim": 10240},
}
T5_VOCAB_SIZE = 32128


def t5_config(
    preset: str | None = None,
    *,
    vocab_size: int | None = None,
    emb_dim: int | None = None,
    num_heads: int | None = None,
    head_dim: int | None = None,
    num_encoder_layers: int | None = None,
    num_decoder_layers: int | None = None,
    mlp_dim: int | None = None,
    mlp_activations: Sequence[str] | None = None,
    dropout_rate: float | None = None,
    logits_via_embedding: bool | None = None,
    dtype: str | None = None,
    float32_attention_logits: bool | None = None,
    remat_policy: str | None = None,
    scan_layers: bool | None = None,
) -> encoder_decoder.T5Config:
    """Builds a config from a T5.1.1 size and what differs from it.

    Args:
      preset: 'tiny', 'small', 'base', 'large', 'xl' or 'xxl'; without it every size must be given.
      vocab_size: and all others: see `encoder_decoder.T5Config`; None keeps the preset's value or the field's default.

    Raises:
      FlanError: an unknown preset, or a size that neither the preset nor the call gives.
    """
    overrides = {name: value for name, value in locals().items() if name != "preset" and value is not None}
    fields: dict[str, Any] = {}
    if preset is not None:
        if preset.lower() not in T5_1_1:
            raise errors.unknown("T5 preset", preset, T5_1_1)
        sizes = dict(T5_1_1[preset.lower()])
        depth = sizes.pop("layers")
        fields = {**sizes, "num_encoder_layers": depth, "num_decoder_layers": depth, "vocab_size": T5_VOCAB_SIZE}
    fields.update(overrides)
    required = [
        field.name for field in dataclasses.fields(encoder_decoder.T5Config) if field.default is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in fields]
    if missing:
        raise errors.FlanError(
            f"a T5 config without a preset must give {', '.join(required)}; missing: {', '.join(missing)}"
        )
    return encoder_decoder.T5Config(**fields)
