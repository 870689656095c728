"""Names of a model's tensors at Hugging Face beside ours: one table per family, and what reads and writes by it.

A table's row says which of our parameters is which tensor there, and whether it is transposed: torch multiplies by
[out, in] matrices, we by [in, out]. `{layer}` stands for the number of a layer. A model uses the rows whose parameter it
has, so that one table serves all sizes and variants of a family.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.models import api

Tensors = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor, or one per layer.

    Attributes:
      ours: path of the parameter in our tree, joined by `/`.
      theirs: name of the tensor.
      transposed: whether its two axes are swapped.
    """

    ours: str
    theirs: str
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """The tensors of a family.

    Attributes:
      rows: the table.
      copies: tensors that a file may hold besides, without need: each with the tensor that it repeats, which it stands in
        for where only the copy was saved; None for constants and for what no model reads.
      prefix: what is missing from the names in files of a model that was saved without its head: (prefix, how a name begins
        behind it).
    """

    rows: tuple[Row, ...]
    copies: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    prefix: tuple[str, str] | None = None


def _linear(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}/kernel", f"{theirs}.weight", transposed=True), Row(f"{ours}/bias", f"{theirs}.bias")


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")


def _t5_attention(ours: str, theirs: str) -> Iterator[Row]:
    for our_part, part in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
        yield Row(f"{ours}/{our_part}/kernel", f"{theirs}.{part}.weight", transposed=True)


def _t5_stack(stack: str) -> Iterator[Row]:
    """What the encoder and the decoder have in common."""
    yield Row(f"{stack}/{stack}_norm/scale", f"{stack}.final_layer_norm.weight")
    # Their first layer keeps the table that all layers use.
    first = f"{stack}.block.0.layer.0.SelfAttention"
    yield Row(f"{stack}/relpos_bias/rel_embedding", f"{first}.relative_attention_bias.weight", transposed=True)


def _t5_mlp(stack: str, place: int) -> Iterator[Row]:
    ours, theirs = f"{stack}/layers_{{layer}}", f"{stack}.block.{{layer}}.layer.{place}"
    for part in ("wi", "wi_0", "wi_1", "wo"):
        yield Row(f"{ours}/mlp/{part}/kernel", f"{theirs}.DenseReluDense.{part}.weight", transposed=True)
    yield Row(f"{ours}/pre_mlp_layer_norm/scale", f"{theirs}.layer_norm.weight")


_ENCODER_LAYER, _ENCODER_BLOCK = "encoder/layers_{layer}", "encoder.block.{layer}.layer"
_DECODER_BLOCK = "decoder.block.{layer}.layer"
_OPT_LAYER, _LLAMA_LAYER = "model.decoder.layers.{layer}", "model.layers.{layer}"
_LAYER = "decoder/layers_{layer}"

HUGGING_FACE: dict[str, Family] = {
    "t5": Family(
        rows=(
            Row("token_embedder/embedding", "shared.weight"),
            *_t5_stack("encoder"),
            *_t5_attention(f"{_ENCODER_LAYER}/attention", f"{_ENCODER_BLOCK}.0.SelfAttention"),
            Row(f"{_ENCODER_LAYER}/pre_attention_layer_norm/scale", f"{_ENCODER_BLOCK}.0.layer_norm.weight"),
            *_t5_mlp("encoder", 1),
            *_t5_stack("decoder"),
            *_t5_attention(f"{_LAYER}/self_attention", f"{_DECODER_BLOCK}.0.SelfAttention"),
            Row(f"{_LAYER}/pre_self_attention_layer_norm/scale", f"{_DECODER_BLOCK}.0.layer_norm.weight"),
            *_t5_attention(f"{_LAYER}/encoder_decoder_attention", f"{_DECODER_BLOCK}.1.EncDecAttention"),
            Row(f"{_LAYER}/pre_cross_attention_layer_norm/scale", f"{_DECODER_BLOCK}.1.layer_norm.weight"),
            *_t5_mlp("decoder", 2),
            Row("decoder/logits_dense/kernel", "lm_head.weight", transposed=True),
        ),
        copies={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
            # In files of the first T5; attention to the encoder has no bias by position.
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
        },
    ),
    "opt": Family(
        rows=(
            Row("decoder/token_embedder/embedding", "model.decoder.embed_tokens.weight"),
            Row("decoder/position_embedder/embedding", "model.decoder.embed_positions.weight"),
            *_linear("decoder/project_in", "model.decoder.project_in"),
            *_linear("decoder/project_out", "model.decoder.project_out"),
            *_linear(f"{_LAYER}/self_attention/query", f"{_OPT_LAYER}.self_attn.q_proj"),
            *_linear(f"{_LAYER}/self_attention/key", f"{_OPT_LAYER}.self_attn.k_proj"),
            *_linear(f"{_LAYER}/self_attention/value", f"{_OPT_LAYER}.self_attn.v_proj"),
            *_linear(f"{_LAYER}/self_attention/out", f"{_OPT_LAYER}.self_attn.out_proj"),
            *_linear(f"{_LAYER}/mlp/wi", f"{_OPT_LAYER}.fc1"),
            *_linear(f"{_LAYER}/mlp/wo", f"{_OPT_LAYER}.fc2"),
            # The same names whether a norm stands before its block or, in 350M, behind it.
            *_norm(f"{_LAYER}/pre_self_attention_layer_norm", f"{_OPT_LAYER}.self_attn_layer_norm"),
            *_norm(f"{_LAYER}/post_self_attention_layer_norm", f"{_OPT_LAYER}.self_attn_layer_norm"),
            *_norm(f"{_LAYER}/pre_mlp_layer_norm", f"{_OPT_LAYER}.final_layer_norm"),
            *_norm(f"{_LAYER}/post_mlp_layer_norm", f"{_OPT_LAYER}.final_layer_norm"),
            *_norm("decoder/decoder_norm", "model.decoder.final_layer_norm"),
        ),
        copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
        prefix=("model.", "decoder."),
    ),
    "llama": Family(
        rows=(
            Row("decoder/token_embedder/embedding", "model.embed_tokens.weight"),
            *_linear(f"{_LAYER}/self_attention/query", f"{_LLAMA_LAYER}.self_attn.q_proj"),
            *_linear(f"{_LAYER}/self_attention/key", f"{_LLAMA_LAYER}.self_attn.k_proj"),
            *_linear(f"{_LAYER}/self_attention/value", f"{_LLAMA_LAYER}.self_attn.v_proj"),
            *_linear(f"{_LAYER}/self_attention/out", f"{_LLAMA_LAYER}.self_attn.o_proj"),
            *_linear(f"{_LAYER}/mlp/wi_0", f"{_LLAMA_LAYER}.mlp.gate_proj"),
            *_linear(f"{_LAYER}/mlp/wi_1", f"{_LLAMA_LAYER}.mlp.up_proj"),
            *_linear(f"{_LAYER}/mlp/wo", f"{_LLAMA_LAYER}.mlp.down_proj"),
            *_norm(f"{_LAYER}/pre_self_attention_layer_norm", f"{_LLAMA_LAYER}.input_layernorm"),
            *_norm(f"{_LAYER}/pre_mlp_layer_norm", f"{_LLAMA_LAYER}.post_attention_layernorm"),
            *_norm("decoder/decoder_norm", "model.norm"),
            *_linear("decoder/logits_dense", "lm_head"),
        ),
        copies={
            "lm_head.weight": "model.embed_tokens.weight",
            "model.layers.{layer}.self_attn.rotary_emb.inv_freq": None,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One parameter of one model and its tensor: a row of a table with the layer filled in.

    Attributes:
      ours: path in our tree of separate layers.
      theirs: name there.
      transposed: whether the axes are swapped.
      shape: of the parameter, in our tree.
    """

    ours: tuple[str, ...]
    theirs: str
    transposed: bool
    shape: tuple[int, ...]

    @property
    def their_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.transposed else self.shape

    def swap(self, value: Any) -> Any:
        """Our array from theirs, or theirs from ours."""
        return value.T if self.transposed else value


def pairs(config: api.Config, family: str) -> list[Pair]:
    """Every parameter of a model with its tensor, in the order of the table, layer by layer.

    Args:
      config: the model; stacked layers are named as separate ones (see `api.unstack_layers`).
      family: a name of `HUGGING_FACE`.

    Raises:
      FlanError: an unknown family, or one whose table lacks a parameter of the model.
    """
    table = _family(family)
    shapes = tensors_lib.parameters(config)
    found = []
    for row in table.rows:
        for layer in itertools.count() if "{layer}" in row.ours else (0,):
            path = tuple(row.ours.format(layer=layer).split("/"))
            if path not in shapes:
                break
            found.append(Pair(path, row.theirs.format(layer=layer), row.transposed, shapes[path]))
    lacking = set(shapes) - {pair.ours for pair in found}
    if lacking:
        raise errors.FlanError(
            f"the names of {family} have none for {tensors_lib.listed('/'.join(path) for path in lacking)}; "
            "is the model of another family?"
        )
    return found


def check(
    config: api.Config, family: str, stored: Mapping[str, tensors_lib.Stored], path: Any = "the checkpoint"
) -> list[Pair]:
    """The pairs of a model, if the tensors of a checkpoint are its own.

    Args:
      config: the model.
      family: a name of `HUGGING_FACE`.
      stored: every tensor of the checkpoint by its name.
      path: the checkpoint, for messages.

    Raises:
      FlanError: with the list of tensors that are missing, unknown or of another shape or kind of dtype.
    """
    wanted = pairs(config, family)
    spare = [name for name in stored if copy_of(family, name)[0]]
    tensors_lib.check(path, family, {pair.theirs: pair.their_shape for pair in wanted}, stored, spare)
    return wanted


def copy_of(family: str, name: str) -> tuple[bool, str | None]:
    """Whether a tensor of this name may be there without need, and the one that it repeats."""
    for pattern, original in _family(family).copies.items():
        if re.fullmatch(re.escape(pattern).replace(r"\{layer\}", r"\d+"), name):
            return True, original
    return False, None


def whole_name(family: str, name: str) -> str:
    """The name of a tensor in the table, from that in a file."""
    prefix, begins = _family(family).prefix or ("", "")
    return prefix + name if name.startswith(begins) else name


def family_of(config: api.Config) -> str:
    """The family under whose names Hugging Face has models like this one.

    Raises:
      FlanError: it has none.
    """
    if isinstance(config, api.T5Config):
        return "t5"
    if config.positions == "learned":
        return "opt"
    if config.positions == "rotary" and config.norm == "rms":
        return "llama"
    raise errors.FlanError(
        f"Hugging Face has no model with positions {config.positions!r}, norm {config.norm!r} and block {config.block!r}; "
        f"expected a model like those of {', '.join(HUGGING_FACE)}"
    )


def to_ours(config: api.Config, family: str, tensors: Tensors) -> api.Params:
    """Our parameters, float32 numpy arrays with layers stored one by one, from all tensors of a checkpoint.

    Raises:
      FlanError: see `check`.
    """
    float32 = np.dtype(np.float32)
    stored = {name: tensors_lib.Stored(tuple(value.shape), float32) for name, value in tensors.items()}
    wanted = check(config, family, stored)
    return tensors_lib.nested({pair.ours: pair.swap(np.asarray(tensors[pair.theirs], np.float32)) for pair in wanted})


def to_theirs(config: api.Config, family: str, params: api.Params) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint but the copies, from our parameters with layers stored one by one."""
    values = tensors_lib.flat(params)
    return {pair.theirs: pair.swap(np.asarray(values[pair.ours])) for pair in pairs(config, family)}


def _family(name: str) -> Family:
    if name not in HUGGING_FACE:
        raise errors.unknown("family of names", name, HUGGING_FACE)
    return HUGGING_FACE[name]
