"""All that the rest of the library may ask of a model: pure functions of (config, params, ...).

The config's type decides the family. Parameters are plain nested dicts named as in T5X; `logical_axes` is the parallel
tree of axis names. A batch holds T5X's feature names; token 0 is padding, and the first input of a sequence.

Encoder-decoder (`T5Config`): `encoder_input_tokens` [B, S], `decoder_input_tokens` [B, T], `decoder_target_tokens`
[B, T], and if packed `encoder_segment_ids`, `decoder_segment_ids` and positions (which T5 does not need: its positions
are relative).

Decoder-only (`DecoderOnlyConfig`): `decoder_input_tokens` and `decoder_target_tokens` [B, T]; for prefix-LM
`decoder_causal_attention` [B, T], 1 where an input belongs to the prompt; if packed `decoder_segment_ids`; positions
restart with every segment unless `decoder_positions` says otherwise. Which targets count is `decoder_loss_weights`'
business, in the loss.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax import errors
from flan_jax.models import decoder_only, encoder_decoder, layers

T5Config = encoder_decoder.T5Config
DecoderOnlyConfig = decoder_only.DecoderOnlyConfig
Config = T5Config | DecoderOnlyConfig
Batch = Mapping[str, jax.Array]
Params = dict[str, Any]

ENCODER_DECODER_FEATURES = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
DECODER_ONLY_FEATURES = ("decoder_input_tokens", "decoder_target_tokens")


def _model(config: Config) -> nn.Module:
    if isinstance(config, DecoderOnlyConfig):
        return decoder_only.DecoderOnly(config)
    return encoder_decoder.EncoderDecoder(config)


def _token_features(config: Config) -> tuple[str, ...]:
    return DECODER_ONLY_FEATURES if isinstance(config, DecoderOnlyConfig) else ENCODER_DECODER_FEATURES


def _features(batch: Batch, needed: tuple[str, ...]) -> dict[str, jax.Array]:
    missing = [name for name in needed if name not in batch]
    if missing:
        raise errors.FlanError(
            f"the batch lacks {', '.join(missing)}; expected {', '.join(needed)}; it has {', '.join(sorted(batch))}"
        )
    return dict(batch)


def _checked(config: Config, batch: Batch) -> dict[str, jax.Array]:
    """The batch of teacher forcing, if it has what the model needs."""
    needed = _token_features(config)
    if isinstance(config, DecoderOnlyConfig):
        if config.prefix_lm:
            needed = (*needed, "decoder_causal_attention")
        features = _features(batch, needed)
        length, places = features["decoder_input_tokens"].shape[1], "decoder_positions" in features
        if not places and "decoder_segment_ids" not in features:
            _check_positions(config, length, f"a sequence of {length} tokens")
        return features
    features = _features(batch, needed)
    if ("encoder_segment_ids" in batch) != ("decoder_segment_ids" in batch):
        raise errors.FlanError(
            "a packed batch needs both encoder_segment_ids and decoder_segment_ids; it has only one of them"
        )
    return features


def _check_positions(config: DecoderOnlyConfig, length: int, what: str) -> None:
    if config.positions == "learned" and length > config.max_positions:
        raise errors.FlanError(f"{what} needs {length} positions; the model has learned {config.max_positions}")


def _apply(config: Config, params: Params, method: str, *args: Any) -> Any:
    return _model(config).apply({"params": params}, *args, method=method)


def _boxed(config: Config, rng: jax.Array) -> Any:
    token = jnp.ones((1, 1), jnp.int32)
    names = (*_token_features(config), "decoder_causal_attention")
    return _model(config).init({"params": rng}, dict.fromkeys(names, token))["params"]


def _is_box(node: Any) -> bool:
    return isinstance(node, layers.Annotated)


@functools.partial(jax.jit, static_argnums=0)
def init(config: Config, rng: jax.Array) -> Params:
    """Draws initial parameters, float32.

    To create them already distributed, call it inside `jax.jit(..., out_shardings=sharding.param_shardings(...))`.

    Args:
      config: the model.
      rng: random key.
    """
    return jax.tree.map(lambda box: box.value, _boxed(config, rng), is_leaf=_is_box)


def abstract_params(config: Config) -> Params:
    """The parameter tree as `ShapeDtypeStruct`s; nothing is allocated."""
    return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def logical_axes(config: Config) -> Params:
    """The parameter tree with, at each leaf, the tuple of its logical axis names."""
    boxed = jax.eval_shape(functools.partial(_boxed, config), jax.random.key(0))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=_is_box)


def num_params(config: Config) -> int:
    """How many numbers the parameters hold."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))


def logits(config: Config, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
    """Logits of every target position given the earlier ones.

    Args:
      config: the model.
      params: its parameters.
      batch: see the module's docstring.
      dropout_rng: random key; without it dropout is off.

    Returns:
      float32 [B, T, V].

    Raises:
      FlanError: a feature is missing.
    """
    return _apply(config, params, "__call__", _checked(config, batch), dropout_rng)


def encode(config: Config, params: Params, batch: Batch) -> jax.Array:
    """Encoder output [B, S, D]; positions of padding hold values that mean nothing.

    Raises:
      FlanError: the model has no encoder, or the feature is missing.
    """
    if isinstance(config, DecoderOnlyConfig):
        raise errors.FlanError("a decoder-only model has no encoder; expected an encoder-decoder config")
    features = _features(batch, ("encoder_input_tokens",))
    return _apply(config, params, "encode", features["encoder_input_tokens"], features.get("encoder_segment_ids"))


def prefill(config: Config, params: Params, batch: Batch, max_decode_length: int) -> dict[str, Any]:
    """Runs the encoder, or the prompts, and returns the cache from which decoding starts.

    Args:
      config: the model.
      params: its parameters.
      batch: one example per row. Encoder-decoder: `encoder_input_tokens` [B, S]. Decoder-only: prompts at the start of
        `decoder_input_tokens` [B, P], as long as `decoder_causal_attention` [B, P] marks, or without it up to the last
        token that is not padding; what stands behind a prompt is ignored.
      max_decode_length: how many tokens `decode_step` may be given; a further one would overwrite the last.

    Raises:
      FlanError: the batch is packed, or asks for more positions than the model has.
    """
    side = "decoder" if isinstance(config, DecoderOnlyConfig) else "encoder"
    features = _features(batch, (f"{side}_input_tokens",))
    if f"{side}_segment_ids" in features:
        raise errors.FlanError(
            f"decoding needs one example per row, but the batch is packed (it has {side}_segment_ids)"
        )
    tokens = features[f"{side}_input_tokens"]
    if not isinstance(config, DecoderOnlyConfig):
        return _apply(config, params, "prefill", tokens, max_decode_length)
    prompt = tokens.shape[1]
    what = f"decoding {max_decode_length} tokens after prompts of up to {prompt}"
    _check_positions(config, prompt - 1 + max_decode_length, what)
    return _apply(config, params, "prefill", tokens, _prompt_lengths(features), max_decode_length)


def _prompt_lengths(features: dict[str, jax.Array]) -> jax.Array:
    """Tokens of each prompt, int32 [B]; at least 1, the token that begins every sequence."""
    if "decoder_causal_attention" in features:
        length_B = jnp.sum(features["decoder_causal_attention"] > 0, axis=1)
    else:
        places_1xP = jnp.arange(1, features["decoder_input_tokens"].shape[1] + 1)[None, :]
        length_B = jnp.max(jnp.where(features["decoder_input_tokens"] != 0, places_1xP, 0), axis=1)
    return jnp.maximum(length_B, 1).astype(jnp.int32)


def first_tokens(config: Config, batch: Batch) -> jax.Array:
    """The token of each row that the first `decode_step` after `prefill` is given, int32 [B].

    0 for an encoder-decoder, as `decoder_input_tokens` begins; the last of the prompt for a decoder-only model.
    """
    if not isinstance(config, DecoderOnlyConfig):
        return jnp.zeros(_features(batch, ("encoder_input_tokens",))["encoder_input_tokens"].shape[0], jnp.int32)
    features = _features(batch, ("decoder_input_tokens",))
    last_Bx1 = _prompt_lengths(features)[:, None] - 1
    return jnp.take_along_axis(features["decoder_input_tokens"], last_Bx1, axis=1)[:, 0].astype(jnp.int32)


def decode_step(
    config: Config, params: Params, cache: dict[str, Any], token_B: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """Feeds one token per row, beginning with `first_tokens`.

    Returns:
      float32 logits [B, V] of the next token, and the cache one position further.
    """
    return _apply(config, params, "step", cache, token_B)


def stack_layers(params: Params) -> Params:
    """Parameters with separate layers (`layers_0`, ...) to those of `scan_layers` (`layers`, stacked along axis 1)."""
    stacked = {}
    for stack, children in params.items():
        count = sum(name.startswith("layers_") for name in children)
        kept = {name: child for name, child in children.items() if not name.startswith("layers_")}
        if count:
            in_order = [children[f"layers_{index}"] for index in range(count)]
            kept["layers"] = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *in_order)
        stacked[stack] = kept
    return stacked


def unstack_layers(params: Params) -> Params:
    """The inverse of `stack_layers`."""
    separate = {}
    for stack, children in params.items():
        kept = {name: child for name, child in children.items() if name != "layers"}
        if "layers" in children:
            count = jax.tree.leaves(children["layers"])[0].shape[1]
            for index in range(count):
                kept[f"layers_{index}"] = jax.tree.map(lambda leaf, at=index: leaf[:, at], children["layers"])
        separate[stack] = kept
    return separate
