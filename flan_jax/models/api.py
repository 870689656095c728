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

A soft prompt (Lester et al. 2021) is one more parameter, set by `with_soft_prompt`: P vectors that every call below reads
as P tokens, numbered from V on, before the encoder's input or the decoder-only sequence. To the model they are tokens
like others: they have positions, and are seen as inputs are. Logits are those of the batch's own targets.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax import errors, sharding
from flan_jax.models import attention, decoder_only, encoder_decoder, layers

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


def _embedder(params: Params) -> Params:
    return params["token_embedder"] if "token_embedder" in params else params["decoder"]["token_embedder"]


def token_embedding(params: Params) -> Any:
    """The table of the tokens' vectors, [V, D]."""
    return _embedder(params)["embedding"]


def soft_prompt(params: Params) -> Any:
    """The soft prompt [P, D], or None if the parameters hold none."""
    return _embedder(params).get(layers.SOFT_PROMPT)


def with_soft_prompt(params: Params, prompt_PxD: Any) -> Params:
    """The parameters with a soft prompt, in place of one that they hold."""
    embedder = {**_embedder(params), layers.SOFT_PROMPT: prompt_PxD}
    if "token_embedder" in params:
        return {**params, "token_embedder": embedder}
    return {**params, "decoder": {**params["decoder"], "token_embedder": embedder}}


def _prompted(config: Config, params: Params, batch: Batch) -> Batch:
    """The batch with the soft prompt at the start of every row, if the parameters hold one."""
    prompt_PxD = soft_prompt(params)
    if prompt_PxD is None:
        return batch
    side = "decoder" if isinstance(config, DecoderOnlyConfig) else "encoder"
    if f"{side}_segment_ids" in batch:
        raise errors.FlanError(
            f"a soft prompt stands before one example, but the batch is packed (it has {side}_segment_ids); "
            "expected one example a row: utils.DatasetConfig.pack = False"
        )
    places_P = jnp.arange(prompt_PxD.shape[0], dtype=jnp.int32)
    before = {f"{side}_input_tokens": config.vocab_size + places_P}
    prompted = dict(batch)
    if side == "decoder":
        ones_P = jnp.ones_like(places_P)
        before |= {"decoder_target_tokens": ones_P, "decoder_causal_attention": ones_P, "decoder_positions": places_P}
        if "decoder_positions" in batch:
            prompted["decoder_positions"] = batch["decoder_positions"] + len(places_P)
    for name in before.keys() & batch.keys():
        ahead_BxP = jnp.broadcast_to(before[name][None, :], (batch[name].shape[0], len(places_P)))
        prompted[name] = jnp.concatenate([ahead_BxP.astype(batch[name].dtype), prompted[name]], axis=1)
    return prompted


def _checked(config: Config, batch: Batch) -> dict[str, jax.Array]:
    """The batch of teacher forcing, if it has what the model needs."""
    needed = _token_features(config)
    if isinstance(config, DecoderOnlyConfig):
        if config.prefix_lm:
            needed = (*needed, "decoder_causal_attention")
        features = _features(batch, needed)
        length, places = features["decoder_input_tokens"].shape[1], "decoder_positions" in features
        if not places and "decoder_segment_ids" not in features:
            check_length(config, length)
        return features
    features = _features(batch, needed)
    if ("encoder_segment_ids" in batch) != ("decoder_segment_ids" in batch):
        raise errors.FlanError(
            "a packed batch needs both encoder_segment_ids and decoder_segment_ids; it has only one of them"
        )
    return features


def check_length(config: Config, length: int) -> None:
    """Refuses sequences of more tokens than the model has positions for; packed ones cannot be refused by their length.

    Raises:
      FlanError: the model's positions are learned, and are fewer than `length`.
    """
    if isinstance(config, DecoderOnlyConfig):
        _check_positions(config, length, f"a sequence of {length} tokens")


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
      FlanError: a feature is missing; a soft prompt and a packed batch.
    """
    return _teacher_forced(config, params, batch, "__call__", dropout_rng)


def hidden(config: Config, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
    """What `project` makes the logits of, [B, T, D]: for whoever takes a large vocabulary piece by piece.

    Args and Raises: as `logits`.
    """
    return _teacher_forced(config, params, batch, "hidden", dropout_rng)


def _teacher_forced(config: Config, params: Params, batch: Batch, method: str, dropout_rng: Any) -> jax.Array:
    features = _prompted(config, params, _checked(config, batch))
    if soft_prompt(params) is not None:
        _checked(config, features)  # as long as it is now
    result = _apply(config, params, method, features, dropout_rng)
    prompt = result.shape[1] - batch["decoder_target_tokens"].shape[1]
    return result[:, prompt:] if prompt else result


def projection_params(config: Config, params: Params) -> Params:
    """The part of the parameters that `project` reads."""
    if config.logits_via_embedding:
        table = {"token_embedder": {"embedding": token_embedding(params)}}  # without a soft prompt beside it
        if not isinstance(config, DecoderOnlyConfig):
            return table
    else:
        table = {"logits_dense": params["decoder"]["logits_dense"]}
    if isinstance(config, DecoderOnlyConfig) and config.embedding_dim is not None:
        table["project_out"] = params["decoder"]["project_out"]
    return {"decoder": table}


def project(config: Config, projection: Params, x_BxTxD: jax.Array) -> jax.Array:
    """Logits [B, T, V], float32, of vectors from `hidden`, by the parameters from `projection_params`."""
    return _apply(config, projection, "project", x_BxTxD)


def encode(config: Config, params: Params, batch: Batch) -> jax.Array:
    """Encoder output [B, S, D], [B, P + S, D] with a soft prompt; positions of padding hold values that mean nothing.

    Raises:
      FlanError: the model has no encoder, or the feature is missing.
    """
    if isinstance(config, DecoderOnlyConfig):
        raise errors.FlanError("a decoder-only model has no encoder; expected an encoder-decoder config")
    features = _features(_prompted(config, params, batch), ("encoder_input_tokens",))
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
    tokens = _prompted(config, params, features)[f"{side}_input_tokens"]
    if not isinstance(config, DecoderOnlyConfig):
        return _apply(config, params, "prefill", tokens, max_decode_length)
    prompt = tokens.shape[1]
    what = f"decoding {max_decode_length} tokens after prompts of up to {prompt}"
    _check_positions(config, prompt - 1 + max_decode_length, what)
    length_B = _prompt_lengths(features) + (prompt - features["decoder_input_tokens"].shape[1])
    return _apply(config, params, "prefill", tokens, length_B, max_decode_length)


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
    """Feeds one token per row of the cache, beginning with `first_tokens`.

    Returns:
      float32 logits [B, V] of the next token, and the cache one position further.
    """
    return _apply(config, params, "step", cache, token_B)


def continuations(config: Config, params: Params, cache: dict[str, Any], batch: Batch) -> jax.Array:
    """Teacher forcing of any number of continuations of each prompt, in one pass over these alone.

    Args:
      config: the model.
      params: its parameters.
      cache: from `prefill`, before any `decode_step`; its `max_decode_length` does not matter.
      batch: the continuations of each prompt, packed into its row, which do not see each other: `decoder_input_tokens`,
        each beginning with the prompt's `first_tokens`, `decoder_target_tokens`, `decoder_segment_ids`, and
        `decoder_positions` that restart with every continuation; all [B, C].

    Returns:
      What `project` makes the logits of, [B, C, D].

    Raises:
      FlanError: a feature is missing.
    """
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
    return _apply(config, params, "follow", cache, _features(batch, names))


# Parts of a cache that each row has for itself; what is read from an encoder is the same for all rows of one source.
_OF_A_ROW = ("self_key", "self_value")


def copy_rows(cache: dict[str, Any], copies: int) -> dict[str, Any]:
    """The cache with `copies` rows in place of each, standing together: samples or beams of one prompt.

    An encoder's keys and values are not copied.
    """

    def copied(name: str, value: Any) -> Any:
        if name in _OF_A_ROW:
            return _placed(jnp.repeat(value, copies, axis=value.ndim - 4))
        return jnp.repeat(value, copies, axis=0) if name == "start" else value

    return _mapped(copied, cache)


def reorder_rows(cache: dict[str, Any], chosen_BxC: jax.Array) -> dict[str, Any]:
    """The cache in which row c of prompt b is what row `chosen_BxC[b, c]` of the same prompt was.

    Args:
      cache: with C rows a prompt, as `copy_rows` makes it.
      chosen_BxC: int32, 0 to C - 1.
    """
    prompts, copies = chosen_BxC.shape

    def reordered(name: str, value: Any) -> Any:
        if name not in _OF_A_ROW:
            return value
        axis = value.ndim - 4  # behind the layers, if they are stacked
        # Prompt by prompt, so that on a mesh no row leaves the device that has its prompt.
        split = value.reshape(*value.shape[:axis], prompts, copies, *value.shape[axis + 1 :])
        take = jax.vmap(lambda rows, chosen: jnp.take(rows, chosen, axis=axis), in_axes=(axis, 0), out_axes=axis)
        return _placed(take(split, chosen_BxC).reshape(value.shape))

    return _mapped(reordered, cache)


def _placed(value: jax.Array) -> jax.Array:
    """Keys or values of a cache, perhaps stacked by layers, where the mesh has them."""
    return sharding.constrain(value, ("layers",) * (value.ndim - 4) + attention.CACHE_AXES)


def _mapped(function: Callable[[str, Any], Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Applies (name, leaf) -> leaf to a nested dict."""
    return {
        name: _mapped(function, value) if isinstance(value, dict) else function(name, value)
        for name, value in tree.items()
    }


def decoding_params(config: Config, params: Params) -> Params:
    """The parameters with every matrix in the type that it is multiplied in, cast once instead of at every step.

    Results are the same to the bit: kernels are cast to `config.dtype` where they are used; embeddings, norms, biases and
    the output projection, which are used in float32 or are small, stay as they are.
    """

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if names[-1] != "kernel" or "logits_dense" in names:
            return leaf
        return leaf.astype(config.activation_dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


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
