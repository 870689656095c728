"""All that the rest of the library may ask of a model: pure functions of (config, params, ...).

Parameters are plain nested dicts named as in T5X; `logical_axes` is the parallel tree of axis names. A batch holds
T5X's feature names: `encoder_input_tokens` [B, S], `decoder_input_tokens` [B, T], `decoder_target_tokens` [B, T], and
if packed `encoder_segment_ids`, `decoder_segment_ids` and positions (which T5 does not need: its positions are
relative). Token 0 is padding.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import errors
from flan_jax.models import encoder_decoder, layers

T5Config = encoder_decoder.T5Config
Batch = Mapping[str, jax.Array]
Params = dict[str, Any]

TOKEN_FEATURES = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


def _features(batch: Batch, needed: tuple[str, ...]) -> dict[str, jax.Array]:
    missing = [name for name in needed if name not in batch]
    if missing:
        raise errors.FlanError(
            f"the batch lacks {', '.join(missing)}; expected {', '.join(needed)}; it has {', '.join(sorted(batch))}"
        )
    if ("encoder_segment_ids" in batch) != ("decoder_segment_ids" in batch):
        raise errors.FlanError(
            "a packed batch needs both encoder_segment_ids and decoder_segment_ids; it has only one of them"
        )
    return dict(batch)


def _apply(config: T5Config, params: Params, method: str, *args: Any) -> Any:
    return encoder_decoder.EncoderDecoder(config).apply({"params": params}, *args, method=method)


def _boxed(config: T5Config, rng: jax.Array) -> Any:
    token = jnp.ones((1, 1), jnp.int32)
    return encoder_decoder.EncoderDecoder(config).init({"params": rng}, dict.fromkeys(TOKEN_FEATURES, token))["params"]


def _is_box(node: Any) -> bool:
    return isinstance(node, layers.Annotated)


@functools.partial(jax.jit, static_argnums=0)
def init(config: T5Config, rng: jax.Array) -> Params:
    """Draws initial parameters, float32.

    To create them already distributed, call it inside `jax.jit(..., out_shardings=sharding.param_shardings(...))`.

    Args:
      config: the model.
      rng: random key.
    """
    return jax.tree.map(lambda box: box.value, _boxed(config, rng), is_leaf=_is_box)


def abstract_params(config: T5Config) -> Params:
    """The parameter tree as `ShapeDtypeStruct`s; nothing is allocated."""
    return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def logical_axes(config: T5Config) -> Params:
    """The parameter tree with, at each leaf, the tuple of its logical axis names."""
    boxed = jax.eval_shape(functools.partial(_boxed, config), jax.random.key(0))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=_is_box)


def num_params(config: T5Config) -> int:
    """How many numbers the parameters hold."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))


def logits(config: T5Config, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
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
    return _apply(config, params, "__call__", _features(batch, TOKEN_FEATURES), dropout_rng)


def encode(config: T5Config, params: Params, batch: Batch) -> jax.Array:
    """Encoder output [B, S, D]; positions of padding hold values that mean nothing."""
    features = _features(batch, ("encoder_input_tokens",))
    return _apply(config, params, "encode", features["encoder_input_tokens"], features.get("encoder_segment_ids"))


def prefill(config: T5Config, params: Params, batch: Batch, max_decode_length: int) -> dict[str, Any]:
    """Runs the encoder and returns the cache from which decoding starts.

    Args:
      config: the model.
      params: its parameters.
      batch: `encoder_input_tokens` [B, S], one example per row.
      max_decode_length: how many tokens `decode_step` may be given; a further one would overwrite the last.

    Raises:
      FlanError: the batch is packed.
    """
    features = _features(batch, ("encoder_input_tokens",))
    if "encoder_segment_ids" in features:
        raise errors.FlanError(
            "decoding needs one example per row, but the batch is packed (it has encoder_segment_ids)"
        )
    return _apply(config, params, "prefill", features["encoder_input_tokens"], max_decode_length)


def decode_step(
    config: T5Config, params: Params, cache: dict[str, Any], token_B: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """Feeds one token per row; the first is the padding id 0, as `decoder_input_tokens` begins.

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
