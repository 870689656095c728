"""Model sizes as data, and for each family the one function that turns a size's name into a config."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.models import decoder_only, encoder_decoder

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

# What the sizes of a family have in common: fields of `decoder_only.DecoderOnlyConfig`.
_T5X = {"vocab_size": T5_VOCAB_SIZE}

# LaMDA (Thoppilan et al. 2022, section 3): gated GELU, relative attention as in T5, 32k pieces. Norm, biases and tying are
# not published; T5X's are used.
_LAMDA = {"vocab_size": 32000}

# PaLM (Chowdhery et al. 2022, section 2): biases nowhere, not even in the layer norm.
_PALM = {
    "vocab_size": 256000,
    "num_kv_heads": 1,
    "mlp_activations": ("swish", "linear"),
    "block": "parallel",
    "norm": "layer",
    "positions": "rotary",
    "scale_attention": True,
}

# OPT (Zhang et al. 2022, section 2; metaseq; the position table's offset and 350M's differences as in the released
# checkpoints).
_OPT = {
    "vocab_size": 50272,
    "mlp_activations": ("relu",),
    "norm": "layer",
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "positions": "learned",
    "max_positions": 2048,
    "position_offset": 2,
    "embedding_stddev": 0.006,
    "scale_logits": False,
    "scale_attention": True,
}
_OPT_350M = {"block": "post_norm", "embedding_dim": 512}

# LLaMA (Touvron et al. 2023, section 2); the released 65B has another epsilon.
_LLAMA = {
    "vocab_size": 32000,
    "mlp_activations": ("swish", "linear"),
    "positions": "rotary",
    "embedding_stddev": 0.02,
    "logits_via_embedding": False,
    "scale_attention": True,
    "dropout_rate": 0.0,
}


def _sizes(layers: int, emb_dim: int, heads: int, head_dim: int, mlp_dim: int) -> dict[str, int]:
    return {"num_layers": layers, "emb_dim": emb_dim, "num_heads": heads, "head_dim": head_dim, "mlp_dim": mlp_dim}


# T5X examples/decoder_only has the decoder of T5.1.1 without the attention to an encoder. Parameters, without the
# embedding for LaMDA: 137.4B; PaLM 8.63B, 62.50B, 540.36B; OPT 125M 0.125B, 350M 0.331B, 1.3B 1.316B, 2.7B 2.652B, 6.7B
# 6.658B, 13B 12.853B, 30B 29.974B, 66B 65.719B, 175B 174.604B; LLaMA 6.74B, 13.02B, 32.53B, 65.29B.
DECODER_ONLY: dict[str, dict[str, Any]] = {
    **{
        f"t5x_{name}": {
            **_T5X,
            **_sizes(size["layers"], size["emb_dim"], size["num_heads"], size["head_dim"], size["mlp_dim"]),
        }
        for name, size in T5_1_1.items()
    },
    "lamda_137b": {**_LAMDA, **_sizes(64, 8192, 128, 128, 65536)},
    "palm_8b": {**_PALM, **_sizes(32, 4096, 16, 256, 16384)},
    "palm_62b": {**_PALM, **_sizes(64, 8192, 32, 256, 32768)},
    "palm_540b": {**_PALM, **_sizes(118, 18432, 48, 256, 73728)},
    "opt_125m": {**_OPT, **_sizes(12, 768, 12, 64, 3072)},
    "opt_350m": {**_OPT, **_OPT_350M, **_sizes(24, 1024, 16, 64, 4096)},
    "opt_1.3b": {**_OPT, **_sizes(24, 2048, 32, 64, 8192)},
    "opt_2.7b": {**_OPT, **_sizes(32, 2560, 32, 80, 10240)},
    "opt_6.7b": {**_OPT, **_sizes(32, 4096, 32, 128, 16384)},
    "opt_13b": {**_OPT, **_sizes(40, 5120, 40, 128, 20480)},
    "opt_30b": {**_OPT, **_sizes(48, 7168, 56, 128, 28672)},
    "opt_66b": {**_OPT, **_sizes(64, 9216, 72, 128, 36864)},
    "opt_175b": {**_OPT, **_sizes(96, 12288, 96, 128, 49152)},
    "llama_7b": {**_LLAMA, **_sizes(32, 4096, 32, 128, 11008)},
    "llama_13b": {**_LLAMA, **_sizes(40, 5120, 40, 128, 13824)},
    "llama_30b": {**_LLAMA, **_sizes(60, 6656, 52, 128, 17920)},
    "llama_65b": {**_LLAMA, "norm_epsilon": 1e-5, **_sizes(80, 8192, 64, 128, 22016)},
}


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
    attention: str | None = None,
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
        sizes = dict(_preset("T5 preset", preset, T5_1_1))
        depth = sizes.pop("layers")
        fields = {**sizes, "num_encoder_layers": depth, "num_decoder_layers": depth, "vocab_size": T5_VOCAB_SIZE}
    return _config(encoder_decoder.T5Config, "T5", {**fields, **overrides})


def decoder_only_config(
    preset: str | None = None,
    *,
    vocab_size: int | None = None,
    emb_dim: int | None = None,
    num_heads: int | None = None,
    head_dim: int | None = None,
    num_layers: int | None = None,
    mlp_dim: int | None = None,
    num_kv_heads: int | None = None,
    mlp_activations: Sequence[str] | None = None,
    block: str | None = None,
    norm: str | None = None,
    norm_epsilon: float | None = None,
    use_bias: bool | None = None,
    positions: str | None = None,
    rope_theta: float | None = None,
    max_positions: int | None = None,
    position_offset: int | None = None,
    embedding_dim: int | None = None,
    embedding_stddev: float | None = None,
    logits_via_embedding: bool | None = None,
    scale_logits: bool | None = None,
    scale_attention: bool | None = None,
    prefix_lm: bool | None = None,
    dropout_rate: float | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    float32_attention_logits: bool | None = None,
    remat_policy: str | None = None,
    scan_layers: bool | None = None,
) -> decoder_only.DecoderOnlyConfig:
    """Builds a config from a decoder-only size and what differs from it.

    Args:
      preset: a name of `DECODER_ONLY`, such as 'lamda_137b', 'palm_8b', 'opt_350m', 'llama_7b' or 't5x_base'; without it
        every size must be given.
      vocab_size: and all others: see `decoder_only.DecoderOnlyConfig`; None keeps the preset's value or the field's
        default.

    Raises:
      FlanError: an unknown preset, or a size that neither the preset nor the call gives.
    """
    overrides = {name: value for name, value in locals().items() if name != "preset" and value is not None}
    fields = {} if preset is None else _preset("decoder-only preset", preset, DECODER_ONLY)
    return _config(decoder_only.DecoderOnlyConfig, "decoder-only", {**fields, **overrides})


def _preset(kind: str, name: str, known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    if name.lower() not in known:
        raise errors.unknown(kind, name, known)
    return known[name.lower()]


def _config(config_class: Any, kind: str, fields: dict[str, Any]) -> Any:
    required = [field.name for field in dataclasses.fields(config_class) if field.default is dataclasses.MISSING]
    missing = [name for name in required if name not in fields]
    if missing:
        raise errors.FlanError(
            f"a {kind} config without a preset must give {', '.join(required)}; missing: {', '.join(missing)}"
        )
    return config_class(**fields)
