"""The T5.1.1 encoder-decoder as Linen modules, with the parameter names and shapes of T5X.

Layers are stored one by one (`encoder/layers_0/...`, T5X examples/t5) or, with `scan_layers`, stacked along axis 1 of
every parameter (`encoder/layers/...`), which compiles in a time that does not grow with depth.

Shapes: B batch, S source length, T target length, D model, H heads, K head dim, V vocab, L layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax import sharding
from flan_jax.models import attention, layers, stacks


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and numerics of an encoder-decoder. Parameters are float32 whatever `dtype` is.

    Attributes:
      vocab_size: rows of the embedding, V.
      emb_dim: width of the residual stream, D.
      num_heads: attention heads, H.
      head_dim: width of a head, K; H*K need not be D.
      num_encoder_layers: depth of the encoder.
      num_decoder_layers: depth of the decoder.
      mlp_dim: width of each feed-forward projection, F.
      mlp_activations: one activation per projection; their product is gated GELU for ('gelu', 'linear').
      dropout_rate: probability of dropping; active only where a random key is given.
      logits_via_embedding: logits by the transposed embedding over sqrt(D) (T5.1.0), instead of their own kernel.
      dtype: type of activations, 'float32' or 'bfloat16'. Norm statistics and logits are float32 in both.
      attention: what computes the decoder's attention to the encoder over whole sequences: 'xla'; 'splash', a kernel for TPU;
        'cudnn', for GPU and bfloat16. Self-attention adds relative positions, which is XLA's in any case.
      float32_attention_logits: attention products and softmax in float32 even if `dtype` is bfloat16.
      remat_policy: what the backward pass recomputes: 'none', 'minimal' (all but products with weights), 'offload' (the same, kept
        in the host's memory; TPU and GPU), 'full' (all).
      scan_layers: stack the layers and loop over them.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_dim: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    dtype: str = "float32"
    attention: str = "xla"
    float32_attention_logits: bool = True
    remat_policy: str = "none"
    scan_layers: bool = False

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "emb_dim",
            "num_heads",
            "head_dim",
            "num_encoder_layers",
            "num_decoder_layers",
            "mlp_dim",
        )
        stacks.check_config(self, sizes)

    @property
    def activation_dtype(self) -> Any:
        return stacks.DTYPES[self.dtype]


def _attention(config: T5Config) -> attention.Attention:
    return attention.Attention(
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        features=config.emb_dim,
        dropout_rate=config.dropout_rate,
        dtype=config.activation_dtype,
        float32_logits=config.float32_attention_logits,
        kernel=config.attention,
    )


def _feed_forward(config: T5Config) -> layers.FeedForward:
    return layers.FeedForward(config.mlp_dim, config.mlp_activations, config.dropout_rate, config.activation_dtype)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind a norm."""

    config: T5Config

    def setup(self) -> None:
        self.pre_attention_layer_norm = layers.RMSNorm(self.config.activation_dtype)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm(self.config.activation_dtype)
        self.mlp = _feed_forward(self.config)

    def __call__(
        self, x_BxSxD: jax.Array, seed: layers.Seed, mask: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, None]:
        rate, seeds = self.config.dropout_rate, [layers.fold(seed, place) for place in range(4)]
        y_BxSxD = stacks.normed(self.pre_attention_layer_norm, x_BxSxD)
        x_BxSxD = stacks.residual(x_BxSxD, self.attention(y_BxSxD, y_BxSxD, mask, bias, seeds[0]), rate, seeds[1])
        y_BxSxD = stacks.normed(self.pre_mlp_layer_norm, x_BxSxD)
        x_BxSxD = stacks.residual(x_BxSxD, self.mlp(y_BxSxD, seeds[2]), rate, seeds[3])
        return x_BxSxD, None


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, feed-forward, each behind a norm."""

    config: T5Config

    def setup(self) -> None:
        self.pre_self_attention_layer_norm = layers.RMSNorm(self.config.activation_dtype)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = layers.RMSNorm(self.config.activation_dtype)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm(self.config.activation_dtype)
        self.mlp = _feed_forward(self.config)

    def __call__(
        self,
        x_BxTxD: jax.Array,
        seed: layers.Seed,
        encoded_BxSxD: jax.Array,
        mask: jax.Array,
        cross_mask: attention.Mask,
        bias: jax.Array,
    ) -> tuple[jax.Array, None]:
        rate, seeds = self.config.dropout_rate, [layers.fold(seed, place) for place in range(6)]
        y_BxTxD = stacks.normed(self.pre_self_attention_layer_norm, x_BxTxD)
        x_BxTxD = stacks.residual(x_BxTxD, self.self_attention(y_BxTxD, y_BxTxD, mask, bias, seeds[0]), rate, seeds[1])
        y_BxTxD = stacks.normed(self.pre_cross_attention_layer_norm, x_BxTxD)
        change_BxTxD = self.encoder_decoder_attention(y_BxTxD, encoded_BxSxD, cross_mask, None, seeds[2])
        x_BxTxD = stacks.residual(x_BxTxD, change_BxTxD, rate, seeds[3])
        y_BxTxD = stacks.normed(self.pre_mlp_layer_norm, x_BxTxD)
        x_BxTxD = stacks.residual(x_BxTxD, self.mlp(y_BxTxD, seeds[4]), rate, seeds[5])
        return x_BxTxD, None

    def cross_cache(self, carry: None, encoded_BxSxD: jax.Array) -> tuple[None, dict[str, jax.Array]]:
        """Keys and values of the encoder's output, [B, H, S, K]: the same for every step of decoding."""
        key_BxSxHxK, value_BxSxHxK = self.encoder_decoder_attention.keys_values(encoded_BxSxD)
        return carry, {"cross_key": key_BxSxHxK.swapaxes(1, 2), "cross_value": value_BxSxHxK.swapaxes(1, 2)}

    def step(
        self,
        x_Bx1xD: jax.Array,
        cache: dict[str, jax.Array],
        position: jax.Array,
        cross_mask: jax.Array,
        bias: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One position of `__call__`, with the keys and values of the earlier positions taken from the cache.

        There may be several rows to a source, which stand together: they are so many queries of the same keys.
        """
        change, written = self.self_attention.step(self.pre_self_attention_layer_norm(x_Bx1xD), cache, position, bias)
        x_Bx1xD = x_Bx1xD + change
        sources = cache["cross_key"].shape[0]
        queries = self.pre_cross_attention_layer_norm(x_Bx1xD).reshape(sources, -1, x_Bx1xD.shape[-1])
        key_BxSxHxK, value_BxSxHxK = cache["cross_key"].swapaxes(1, 2), cache["cross_value"].swapaxes(1, 2)
        change = self.encoder_decoder_attention.attend(queries, key_BxSxHxK, value_BxSxHxK, cross_mask, None)
        x_Bx1xD = x_Bx1xD + change.reshape(x_Bx1xD.shape)
        return x_Bx1xD + self.mlp(self.pre_mlp_layer_norm(x_Bx1xD)), written

    def follow(
        self, x_BxCxD: jax.Array, cache: dict[str, jax.Array], mask: jax.Array, cross_mask: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, None]:
        """`__call__` of packed targets, with the encoder's keys and values taken from the cache."""
        y_BxCxD = stacks.normed(self.pre_self_attention_layer_norm, x_BxCxD)
        x_BxCxD = x_BxCxD + self.self_attention(y_BxCxD, y_BxCxD, mask, bias)
        key_BxSxHxK, value_BxSxHxK = cache["cross_key"].swapaxes(1, 2), cache["cross_value"].swapaxes(1, 2)
        y_BxCxD = stacks.normed(self.pre_cross_attention_layer_norm, x_BxCxD)
        x_BxCxD = x_BxCxD + self.encoder_decoder_attention.attend(y_BxCxD, key_BxSxHxK, value_BxSxHxK, cross_mask, None)
        return x_BxCxD + self.mlp(stacks.normed(self.pre_mlp_layer_norm, x_BxCxD)), None


class Encoder(nn.Module):
    """Embedded tokens [B, S, D] to contextual vectors [B, S, D]."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        self.relpos_bias = attention.RelativePositionBias(config.num_heads, bidirectional=True)
        layer = stacks.rematerialised(EncoderLayer, config)
        if config.scan_layers:
            methods = {"__call__": {"in_axes": (0, nn.broadcast, nn.broadcast)}}
            self.layers = stacks.scanned(layer, config.num_encoder_layers, methods)(config)
        else:
            self.layers = [layer(config) for _ in range(config.num_encoder_layers)]
        self.encoder_norm = layers.RMSNorm(config.activation_dtype)

    def __call__(self, x_BxSxD: jax.Array, mask: jax.Array, seed: layers.Seed = None) -> jax.Array:
        rate, depth = self.config.dropout_rate, self.config.num_encoder_layers
        bias_HxSxS = self.relpos_bias(x_BxSxD.shape[1], x_BxSxD.shape[1])
        x_BxSxD = layers.dropout(x_BxSxD, rate, layers.fold(seed, depth), (-2,))
        x_BxSxD = stacks.run(self.layers, x_BxSxD, seed, depth, mask, bias_HxSxS)
        # T5X draws this one mask per position too, unlike all the others.
        return layers.dropout(self.encoder_norm(x_BxSxD), rate, layers.fold(seed, depth + 1))


class Decoder(nn.Module):
    """Embedded target tokens [B, T, D] and encoder output [B, S, D] to the vectors [B, T, D] that give logits."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        self.relpos_bias = attention.RelativePositionBias(config.num_heads, bidirectional=False)
        layer = stacks.rematerialised(DecoderLayer, config)
        if config.scan_layers:
            methods = {
                "__call__": {"in_axes": (0, *(nn.broadcast,) * 4)},
                "cross_cache": {"in_axes": nn.broadcast},
                "step": {"in_axes": (0, nn.broadcast, nn.broadcast, nn.broadcast)},
                "follow": {"in_axes": (0, nn.broadcast, nn.broadcast, nn.broadcast)},
            }
            self.layers = stacks.scanned(layer, config.num_decoder_layers, methods)(config)
        else:
            self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = layers.RMSNorm(config.activation_dtype)
        if not config.logits_via_embedding:
            # float32 for stability, as in T5X.
            self.logits_dense = layers.Dense(config.vocab_size, ("embed", "vocab"), jnp.float32)

    def __call__(
        self,
        x_BxTxD: jax.Array,
        encoded_BxSxD: jax.Array,
        mask: jax.Array,
        cross_mask: attention.Mask,
        seed: layers.Seed = None,
    ) -> jax.Array:
        rate, depth = self.config.dropout_rate, self.config.num_decoder_layers
        bias_HxTxT = self.relpos_bias(x_BxTxD.shape[1], x_BxTxD.shape[1])
        x_BxTxD = layers.dropout(x_BxTxD, rate, layers.fold(seed, depth), (-2,))
        x_BxTxD = stacks.run(self.layers, x_BxTxD, seed, depth, encoded_BxSxD, mask, cross_mask, bias_HxTxT)
        return layers.dropout(self.decoder_norm(x_BxTxD), rate, layers.fold(seed, depth + 1), (-2,))

    def cache(self, encoded_BxSxD: jax.Array, length: int) -> dict[str, Any]:
        """An empty cache for `length` positions: per layer [B, H, T, K]; [L, B, H, T, K] if layers are stacked."""
        cache = {}
        for name, layer in stacks.named(self.layers).items():
            _, cross = layer.cross_cache(None, encoded_BxSxD)
            key = cross["cross_key"]
            empty = jnp.zeros((*key.shape[:-2], length, key.shape[-1]), key.dtype)
            cache[name] = {"self_key": empty, "self_value": empty, **cross}
        return cache

    def step(
        self, x_Bx1xD: jax.Array, cache: dict[str, Any], position: jax.Array, cross_mask: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """One position: the vectors [B, 1, D] that give its logits, and the cache with the position written."""
        length = next(iter(cache.values()))["self_key"].shape[-2]
        bias_Hx1xT = self.relpos_bias.step(position, length)
        updated = {}
        for name, layer in stacks.named(self.layers).items():
            x_Bx1xD, written = layer.step(x_Bx1xD, cache[name], position, cross_mask, bias_Hx1xT)
            updated[name] = {**cache[name], **written}
        return self.decoder_norm(x_Bx1xD), updated

    def follow(self, x_BxCxD: jax.Array, cache: dict[str, Any], mask: jax.Array, cross_mask: jax.Array) -> jax.Array:
        """`__call__` of packed targets, with the encoder's keys and values taken from the cache; [B, C, D]."""
        # Within a target distances are those of the row, which is all that relative positions know.
        bias_HxCxC = self.relpos_bias(x_BxCxD.shape[1], x_BxCxD.shape[1])
        for name, layer in stacks.named(self.layers).items():
            x_BxCxD, _ = layer.follow(x_BxCxD, cache[name], mask, cross_mask, bias_HxCxC)
        return self.decoder_norm(x_BxCxD)


class EncoderDecoder(nn.Module):
    """Token ids to logits. All callers outside this package go through `models.api`."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        self.token_embedder = layers.Embed(config.vocab_size, config.emb_dim, config.activation_dtype)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self, tokens_BxS: jax.Array, segments_BxS: jax.Array | None = None, seed: layers.Seed = None
    ) -> jax.Array:
        """Encoder output [B, S, D]; positions of padding are computed too, and masked by whoever looks at them."""
        valid_BxS = tokens_BxS > 0
        mask = attention.attention_mask(valid_BxS, valid_BxS, segments_BxS, segments_BxS)
        return self.encoder(self.token_embedder(tokens_BxS), mask, layers.fold(seed, 0))

    def project(self, x_BxTxD: jax.Array) -> jax.Array:
        """Final vectors to logits [B, T, V], float32."""
        if self.config.logits_via_embedding:
            logits_BxTxV = self.token_embedder.attend(x_BxTxD) / jnp.sqrt(jnp.float32(self.config.emb_dim))
        else:
            logits_BxTxV = self.decoder.logits_dense(x_BxTxD)
        return sharding.constrain(logits_BxTxV, ("batch", "length", "vocab"))

    def __call__(self, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None) -> jax.Array:
        """Logits [B, T, V] of teacher forcing."""
        return self.project(self.hidden(batch, dropout_rng))

    def hidden(self, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None) -> jax.Array:
        """The vectors [B, T, D] that `project` makes these logits of."""
        seed = layers.seed_from(dropout_rng)
        encoder_segments_BxS = batch.get("encoder_segment_ids")
        decoder_segments_BxT = batch.get("decoder_segment_ids")
        encoded_BxSxD = self.encode(batch["encoder_input_tokens"], encoder_segments_BxS, seed)
        source_BxS = batch["encoder_input_tokens"] > 0
        target_BxT = batch["decoder_target_tokens"] > 0
        mask = attention.attention_mask(target_BxT, target_BxT, decoder_segments_BxT, decoder_segments_BxT, causal=True)
        cross = (target_BxT, source_BxS, decoder_segments_BxT, encoder_segments_BxS)
        by_segments = (
            self.config.attention == "splash" and not self.is_initializing()
        )  # parameters are made with one token
        cross_mask = attention.segments(*cross) if by_segments else attention.attention_mask(*cross)
        embedded_BxTxD = self.token_embedder(batch["decoder_input_tokens"])
        return self.decoder(embedded_BxTxD, encoded_BxSxD, mask, cross_mask, layers.fold(seed, 1))

    def prefill(self, tokens_BxS: jax.Array, max_decode_length: int) -> dict[str, Any]:
        """Runs the encoder once and returns the cache from which `step` starts."""
        layers_cache = self.decoder.cache(self.encode(tokens_BxS), max_decode_length)
        valid_Bx1x1xS = (tokens_BxS > 0)[:, None, None, :]
        return {"position": jnp.zeros((), jnp.int32), "cross_mask": valid_Bx1x1xS, "decoder": layers_cache}

    def step(self, cache: dict[str, Any], token_B: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Logits [B, V] after `token_B`, and the cache one position further."""
        position = cache["position"]
        x_Bx1xD = self.token_embedder(token_B[:, None])
        x_Bx1xD, updated = self.decoder.step(x_Bx1xD, cache["decoder"], position, cache["cross_mask"])
        return self.project(x_Bx1xD)[:, 0], {**cache, "position": position + 1, "decoder": updated}

    def follow(self, cache: dict[str, Any], batch: dict[str, jax.Array]) -> jax.Array:
        """The vectors [B, C, D] of continuations of what the cache was made of; see `api.continuations`."""
        valid_BxC, segments_BxC = batch["decoder_target_tokens"] > 0, batch["decoder_segment_ids"]
        mask = attention.attention_mask(valid_BxC, valid_BxC, segments_BxC, segments_BxC, causal=True)
        x_BxCxD = self.token_embedder(batch["decoder_input_tokens"])
        return self.decoder.follow(x_BxCxD, cache["decoder"], mask, cache["cross_mask"])
