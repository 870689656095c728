"""Hugging Face's `config.json` to our config and back, as tables."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flan_jax import errors
from flan_jax.checkpoint import families
from flan_jax.models import api, presets

# `model_type` -> family of names. mT5 is T5.1.1 with another vocabulary.
FAMILIES = {"t5": "t5", "mt5": "t5", "opt": "opt", "llama": "llama"}

# Theirs -> ours, where the value is the same.
_FIELDS = {
    "t5": {
        "vocab_size": "vocab_size", "d_model": "emb_dim", "d_kv": "head_dim", "d_ff": "mlp_dim",
        "num_layers": "num_encoder_layers", "num_decoder_layers": "num_decoder_layers", "num_heads": "num_heads",
        "dropout_rate": "dropout_rate",
    },
    "opt": {
        "vocab_size": "vocab_size", "hidden_size": "emb_dim", "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads", "ffn_dim": "mlp_dim", "max_position_embeddings": "max_positions",
        "dropout": "dropout_rate",
    },
    "llama": {
        "vocab_size": "vocab_size", "hidden_size": "emb_dim", "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads", "intermediate_size": "mlp_dim", "max_position_embeddings": "max_positions",
        "rms_norm_eps": "norm_epsilon",
    },
}  # fmt: skip
_OPTIONAL = {"dropout_rate", "dropout", "num_decoder_layers", "max_position_embeddings"}
_SIZES = ("num_key_value_heads", "head_dim", "word_embed_proj_dim", "rope_theta")
_FRACTIONS = ("dropout_rate", "dropout", "rms_norm_eps", "rope_theta")

# What our models of a family have no choice in: a file that says otherwise is of another model.
_FIXED: dict[str, dict[str, Any]] = {
    "t5": {
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
    },
    "opt": {
        "activation_function": "relu", "enable_bias": True, "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False, "tie_word_embeddings": True,
    },
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
}  # fmt: skip

# Written beside the sizes; the ids are those of the published vocabularies.
_BESIDE: dict[str, dict[str, Any]] = {
    "t5": {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "use_cache": True,
    },
    "opt": {
        "architectures": ["OPTForCausalLM"], "model_type": "opt",
        "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2, "use_cache": True,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "bos_token_id": 1, "eos_token_id": 2, "use_cache": True,
    },
}  # fmt: skip

# T5's `feed_forward_proj`; `gelu` alone would be the exact one there, ours is the approximation by tanh, as gated.
_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-relu": ("relu", "linear"),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("swish", "linear"),
}

# Fields of ours that no checkpoint is about.
_NUMERICS = ("dropout_rate", "dtype", "float32_attention_logits", "remat_policy", "scan_layers", "prefix_lm")


def read(content: Mapping[str, Any], file: Any) -> tuple[str, api.Config]:
    """The model of a `config.json`: family of its names and config.

    Args:
      content: the file, parsed.
      file: its path, for messages.

    Raises:
      FlanError: a kind of model that is not ours, a size that is missing or no number, or a setting that our model of
        this family does not have.
    """
    kind = str(content.get("model_type"))
    if kind not in FAMILIES:
        raise errors.FlanError(f"{file}: {errors.unknown('model_type', kind, FAMILIES)}")
    family = FAMILIES[kind]
    absent = [name for name in _FIELDS[family] if content.get(name) is None and name not in _OPTIONAL]
    if absent:
        raise errors.FlanError(f"{file}: it lacks {', '.join(absent)}")
    for name, expected in _FIXED[family].items():
        if content.get(name, expected) != expected:
            raise errors.FlanError(f"{file}: {name} is {content[name]!r}; our {family} models have {expected!r}")
    for name in (*_FIELDS[family], *_SIZES):
        value = content.get(name)
        allowed = int | float if name in _FRACTIONS else int
        if value is not None and (isinstance(value, bool) or not isinstance(value, allowed)):
            raise errors.FlanError(f"{file}: {name} is {value!r}; expected a number")
    sizes = {ours: content[name] for name, ours in _FIELDS[family].items() if content.get(name) is not None}
    try:
        return family, {"t5": _read_t5, "opt": _read_opt, "llama": _read_llama}[family](content, sizes)
    except errors.FlanError as error:
        raise errors.FlanError(f"{file}: {error}") from error


def write(config: api.Config, family: str, dtype: str) -> dict[str, Any]:
    """The content of a `config.json` from which transformers builds the same model.

    Args:
      config: the model.
      family: of its names.
      dtype: of the tensors.

    Raises:
      FlanError: a model of this family cannot have what the config says.
    """
    content = {
        **_BESIDE[family],
        **_FIXED[family],
        **{theirs: getattr(config, ours) for theirs, ours in _FIELDS[family].items()},
        # Under both names: transformers 4 reads the first.
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if isinstance(config, api.T5Config):
        known = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
        activations = _canonical(config, "mlp_activations", config.mlp_activations)
        if activations not in known:
            raise errors.FlanError(
                f"Hugging Face's t5 has no mlp_activations {activations}; known: {', '.join(map(str, known))}"
            )
        content |= {
            "feed_forward_proj": known[activations],
            "tie_word_embeddings": config.logits_via_embedding,
        }
    elif family == "opt":
        content |= {
            "do_layer_norm_before": config.block == "pre_norm",
            "word_embed_proj_dim": config.embedding_dim or config.emb_dim,
        }
    else:
        content |= {
            "num_key_value_heads": config.num_kv_heads or config.num_heads,
            "head_dim": config.head_dim,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.logits_via_embedding,
        }
    back = dataclasses.asdict(read(content, "config.json")[1])
    lost = [
        f"{name} {value!r}"
        for name, value in dataclasses.asdict(config).items()
        if name not in (*_NUMERICS, "embedding_stddev") and _canonical(config, name, value) != back[name]
    ]
    if lost:
        raise errors.FlanError(f"Hugging Face's {family} models cannot have {', '.join(lost)}")
    return content


def generation(config: api.Config) -> dict[str, Any]:
    """The content of `generation_config.json`: the ids by which generating begins and ends."""
    beside = _BESIDE[families.family_of(config)]
    return {name: value for name, value in beside.items() if name.endswith("_token_id")}


def _canonical(config: api.Config, name: str, value: Any) -> Any:
    """A field's value as `read` gives it: one name of two, and None for what is the default in other words."""
    if name == "mlp_activations":
        return tuple("swish" if activation == "silu" else activation for activation in value)
    if isinstance(config, api.DecoderOnlyConfig):
        if name == "num_kv_heads" and value == config.num_heads:
            return None
        if name == "embedding_dim" and value == config.emb_dim:
            return None
    return value


def _read_t5(content: Mapping[str, Any], sizes: dict[str, Any]) -> api.Config:
    projection = str(content.get("feed_forward_proj", "relu"))
    if projection not in _ACTIVATIONS:
        raise errors.unknown("feed_forward_proj", projection, _ACTIVATIONS)
    # transformers 5 says whether logits are scaled, and calls every T5 tied; 4 scales where it ties. The default is True.
    scaled = content.get("scale_decoder_outputs", content.get("tie_word_embeddings") is not False)
    sizes.setdefault("num_decoder_layers", sizes["num_encoder_layers"])
    return presets.t5_config(**sizes, mlp_activations=_ACTIVATIONS[projection], logits_via_embedding=bool(scaled))


def _read_opt(content: Mapping[str, Any], sizes: dict[str, Any]) -> api.Config:
    width = content.get("word_embed_proj_dim")
    return presets.decoder_only_config(
        "opt_125m",
        **sizes,
        head_dim=_head_dim(sizes),
        embedding_dim=None if width == sizes["emb_dim"] else width,
        block="pre_norm" if content.get("do_layer_norm_before", True) else "post_norm",
    )


def _read_llama(content: Mapping[str, Any], sizes: dict[str, Any]) -> api.Config:
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(content.get(name) or {}, Mapping):
            raise errors.FlanError(f"{name} is {content[name]!r}; expected a JSON object")
        rope |= content.get(name) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise errors.FlanError(f"rope_type is {kind!r}; our llama models have 'default'")
    tied = bool(content.get("tie_word_embeddings", False))
    kv_heads = content.get("num_key_value_heads")
    return presets.decoder_only_config(
        "llama_7b",
        **sizes,
        head_dim=content.get("head_dim") or _head_dim(sizes),
        num_kv_heads=None if kv_heads == sizes["num_heads"] else kv_heads,
        rope_theta=float(rope.get("rope_theta", content.get("rope_theta", 10000.0))),
        logits_via_embedding=tied,
        # Tied logits are not scaled there.
        scale_logits=not tied,
    )


def _head_dim(sizes: Mapping[str, Any]) -> int:
    if sizes["emb_dim"] % sizes["num_heads"]:
        raise errors.FlanError(f"width {sizes['emb_dim']} is not a multiple of {sizes['num_heads']} heads")
    return sizes["emb_dim"] // sizes["num_heads"]
