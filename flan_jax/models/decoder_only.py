"""The decoder-only model as Linen modules: LaMDA-PT, PaLM, OPT, LLaMA and T5X's own example are configs of it.

Parameter names are those of T5X examples/decoder_only; what that model does not have (learned positions, biases, parallel
blocks, projections of the embedding) has names of the same style. See `stacks` for how layers are stored.

Shapes: B batch, T sequence length, P prompt length, D model, H heads, N heads of keys and values, K head dim,
V vocabulary, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax import errors, sharding
from flan_jax.models import attention, layers, stacks

BLOCKS = ("pre_norm", "post_norm", "parallel")
NORMS = ("rms", "layer")
POSITIONS = ("relative", "rotary", "learned")


@dataclasses.dataclass(frozen=True)
class DecoderOnlyConfig:
    """Sizes and numerics of a decoder-only model. Parameters are float32 whatever `dtype` is.

    The defaults are T5X's examples/decoder_only, the T5.1.1 decoder without an encoder. Kernels start as T5X's do
    (fan-in variance scaling) in every family.

    Attributes:
      vocab_size: rows of the embedding, V.
      emb_dim: width of the residual stream, D.
      num_heads: attention heads, H.
      head_dim: width of a head, K; H*K need not be D.
      num_layers: depth.
      mlp_dim: width of each feed-forward projection, F.
      num_kv_heads: heads of keys and values, a divisor of H: 1 is multi-query attention, more are grouped; None is H.
      mlp_activations: one activation per projection, their product is what goes on: ('gelu', 'linear') is gated GELU,
        ('swish', 'linear') SwiGLU, ('relu',) a plain ReLU.
      block: 'pre_norm' x + f(norm(x)), attention first; 'post_norm' norm(x + f(x)) and no final norm (OPT-350M);
        'parallel' x + attention(norm(x)) + mlp(norm(x)) with one norm (PaLM, section 2).
      norm: 'rms', or 'layer' with mean subtraction.
      norm_epsilon: added to the mean square or variance.
      use_bias: biases in every projection and in layer norms.
      positions: 'relative' T5 bias, one table for all layers; 'rotary'; 'learned' table added to the embedding.
      rope_theta: base of the rotary wavelengths.
      max_positions: learned positions; what `decoder_positions` may not exceed.
      position_offset: unused rows at the start of the learned table (OPT: 2).
      embedding_dim: width of the token embedding, if it is projected to D and back (OPT-350M: 512).
      embedding_stddev: of the initial embeddings.
      logits_via_embedding: logits by the transposed embedding, instead of their own kernel.
      scale_logits: tied logits are divided by sqrt(D).
      scale_attention: queries are divided by sqrt(K); if not, their kernel's initial values are (T5).
      prefix_lm: tokens that `decoder_causal_attention` marks see each other in both directions.
      dropout_rate: probability of dropping; active only where a random key is given.
      dtype: type of activations, 'float32' or 'bfloat16'. Norm statistics and logits are float32 in both.
      attention: what computes it over whole sequences: 'xla'; 'splash', a kernel for TPU without relative positions and prefix-LM;
        'cudnn', for GPU and bfloat16, without relative positions. All give the same numbers but for rounding.
      float32_attention_logits: attention products and softmax in float32 even if `dtype` is bfloat16.
      remat_policy: what the backward pass recomputes: 'none', 'minimal' (all but products with weights), 'offload' (the same, kept
        in the host's memory; TPU and GPU), 'full' (all).
      scan_layers: stack the layers and loop over them.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    num_layers: int
    mlp_dim: int
    num_kv_heads: int | None = None
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    block: str = "pre_norm"
    norm: str = "rms"
    norm_epsilon: float = 1e-6
    use_bias: bool = False
    positions: str = "relative"
    rope_theta: float = 10000.0
    max_positions: int = 2048
    position_offset: int = 0
    embedding_dim: int | None = None
    embedding_stddev: float = 1.0
    logits_via_embedding: bool = True
    scale_logits: bool = True
    scale_attention: bool = False
    prefix_lm: bool = False
    dropout_rate: float = 0.1
    dtype: str = "float32"
    attention: str = "xla"
    float32_attention_logits: bool = True
    remat_policy: str = "none"
    scan_layers: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "emb_dim", "num_heads", "head_dim", "num_layers", "mlp_dim", "max_positions")
        stacks.check_config(self, sizes)
        stacks.check_choice("block", self.block, BLOCKS)
        stacks.check_choice("norm", self.norm, NORMS)
        stacks.check_choice("positions", self.positions, POSITIONS)
        if self.attention == "cudnn" and self.positions == "relative":
            raise errors.FlanError(
                "attention 'cudnn' has no bias; given positions 'relative'; expected attention 'xla', or other positions"
            )
        if self.attention == "splash" and (self.positions == "relative" or self.prefix_lm):
            raise errors.FlanError(
                f"attention 'splash' has no bias and no prefix; given positions {self.positions!r} and prefix_lm {self.prefix_lm}; "
                "expected attention 'xla'"
            )
        kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        if kv_heads < 1 or self.num_heads % kv_heads:
            raise errors.FlanError(f"num_kv_heads must divide num_heads {self.num_heads}, given {kv_heads}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise errors.FlanError(f"rotary positions need an even head_dim, given {self.head_dim}")
        if self.use_bias and self.norm == "rms":
            raise errors.FlanError("use_bias needs norm 'layer': an RMS norm has no bias; given norm 'rms'")

    @property
    def activation_dtype(self) -> Any:
        return stacks.DTYPES[self.dtype]


def _norm(config: DecoderOnlyConfig) -> nn.Module:
    if config.norm == "rms":
        return layers.RMSNorm(config.activation_dtype, config.norm_epsilon)
    return layers.LayerNorm(config.activation_dtype, config.norm_epsilon, config.use_bias)


class DecoderOnlyLayer(nn.Module):
    """Causal self-attention and feed-forward, one after the other or side by side."""

    config: DecoderOnlyConfig

    def setup(self) -> None:
        config = self.config
        if config.block == "parallel":
            self.layer_norm = _norm(config)
        elif config.block == "post_norm":
            self.post_self_attention_layer_norm = _norm(config)
            self.post_mlp_layer_norm = _norm(config)
        else:
            self.pre_self_attention_layer_norm = _norm(config)
            self.pre_mlp_layer_norm = _norm(config)
        self.self_attention = attention.Attention(
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            features=config.emb_dim,
            dropout_rate=config.dropout_rate,
            dtype=config.activation_dtype,
            float32_logits=config.float32_attention_logits,
            num_kv_heads=config.num_kv_heads,
            use_bias=config.use_bias,
            scaled=config.scale_attention,
            kernel=config.attention,
        )
        self.mlp = layers.FeedForward(
            config.mlp_dim, config.mlp_activations, config.dropout_rate, config.activation_dtype, config.use_bias
        )

    def _block(
        self, x_BxTxD: jax.Array, attend: Callable[[jax.Array], jax.Array], seeds: list[layers.Seed]
    ) -> jax.Array:
        """The layer around its attention, which differs between whole sequences, prompts and steps."""
        residual = functools.partial(stacks.residual, rate=self.config.dropout_rate)
        if self.config.block == "parallel":
            y_BxTxD = stacks.normed(self.layer_norm, x_BxTxD)
            return residual(x_BxTxD, attend(y_BxTxD) + self.mlp(y_BxTxD, seeds[2]), seed=seeds[1])
        if self.config.block == "post_norm":
            x_BxTxD = self.post_self_attention_layer_norm(residual(x_BxTxD, attend(x_BxTxD), seed=seeds[1]))
            return self.post_mlp_layer_norm(residual(x_BxTxD, self.mlp(x_BxTxD, seeds[2]), seed=seeds[3]))
        x_BxTxD = residual(x_BxTxD, attend(stacks.normed(self.pre_self_attention_layer_norm, x_BxTxD)), seed=seeds[1])
        return residual(x_BxTxD, self.mlp(stacks.normed(self.pre_mlp_layer_norm, x_BxTxD), seeds[2]), seed=seeds[3])

    def __call__(
        self,
        x_BxTxD: jax.Array,
        seed: layers.Seed,
        mask: attention.Mask,
        bias: jax.Array | None,
        turn: attention.Rotation,
    ) -> tuple[jax.Array, None]:
        seeds = [layers.fold(seed, place) for place in range(4)]
        return self._block(x_BxTxD, lambda y: self.self_attention(y, y, mask, bias, seeds[0], turn), seeds), None

    def prefill(
        self, x_BxPxD: jax.Array, mask: jax.Array, bias: jax.Array | None, turn: attention.Rotation
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`__call__` of a prompt, and its keys and values [B, N, P, K]."""
        written = {}

        def attend(y_BxPxD: jax.Array) -> jax.Array:
            key_BxPxNxK, value_BxPxNxK = self.self_attention.keys_values(y_BxPxD, turn)
            written.update(self_key=key_BxPxNxK.swapaxes(1, 2), self_value=value_BxPxNxK.swapaxes(1, 2))
            return self.self_attention.attend(y_BxPxD, key_BxPxNxK, value_BxPxNxK, mask, bias, None, turn)

        return self._block(x_BxPxD, attend, [None] * 4), written

    def step(
        self,
        x_Bx1xD: jax.Array,
        cache: dict[str, jax.Array],
        position: jax.Array,
        start_B: jax.Array,
        bias: jax.Array | None,
        turn: attention.Rotation,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One position of `__call__`, with the keys and values of the earlier positions taken from the cache."""
        written = {}

        def attend(y_Bx1xD: jax.Array) -> jax.Array:
            out_Bx1xD, updated = self.self_attention.step(y_Bx1xD, cache, position, bias, start_B, turn)
            written.update(updated)
            return out_Bx1xD

        return self._block(x_Bx1xD, attend, [None] * 4), written

    def follow(
        self,
        x_BxCxD: jax.Array,
        cache: dict[str, jax.Array],
        mask: jax.Array,
        bias: jax.Array | None,
        turn: attention.Rotation,
    ) -> tuple[jax.Array, None]:
        """`__call__` of what stands behind a prompt, whose keys and values are taken from the cache."""

        def attend(y_BxCxD: jax.Array) -> jax.Array:
            own = self.self_attention.keys_values(y_BxCxD, turn)
            key, value = (
                jnp.concatenate([cache[name].swapaxes(1, 2), made_BxCxNxK], axis=1)
                for name, made_BxCxNxK in zip(("self_key", "self_value"), own, strict=True)
            )
            return self.self_attention.attend(y_BxCxD, key, value, mask, bias, None, turn)

        return self._block(x_BxCxD, attend, [None] * 4), None


class Decoder(nn.Module):
    """Token ids and positions to final vectors, and these to logits; holds every parameter of the model."""

    config: DecoderOnlyConfig

    def setup(self) -> None:
        config = self.config
        width = config.embedding_dim or config.emb_dim
        dtype, stddev = config.activation_dtype, config.embedding_stddev
        self.token_embedder = layers.Embed(config.vocab_size, width, dtype, stddev)
        if config.embedding_dim is not None:
            self.project_in = layers.Dense(config.emb_dim, ("embed", "embed"), dtype)
            self.project_out = layers.Dense(width, ("embed", "embed"), dtype)
        if config.positions == "learned":
            rows = config.max_positions + config.position_offset
            self.position_embedder = layers.Embed(rows, config.emb_dim, dtype, stddev)
        elif config.positions == "relative":
            self.relpos_bias = attention.RelativePositionBias(config.num_heads, bidirectional=False)
        layer = stacks.rematerialised(DecoderOnlyLayer, config)
        if config.scan_layers:
            methods = {
                "__call__": {"in_axes": (0, *(nn.broadcast,) * 3)},
                "prefill": {"in_axes": nn.broadcast},
                "step": {"in_axes": (0, *(nn.broadcast,) * 4)},
                "follow": {"in_axes": (0, *(nn.broadcast,) * 3)},
            }
            self.layers = stacks.scanned(layer, config.num_layers, methods)(config)
        else:
            self.layers = [layer(config) for _ in range(config.num_layers)]
        if config.block != "post_norm":
            self.decoder_norm = _norm(config)
        if not config.logits_via_embedding:
            # float32 for stability, as in T5X.
            self.logits_dense = layers.Dense(config.vocab_size, ("embed", "vocab"), jnp.float32)

    def _embed(self, tokens_BxT: jax.Array, positions_BxT: jax.Array) -> tuple[jax.Array, attention.Rotation]:
        """Vectors [B, T, D], with learned positions added, and the rotation to rotary positions."""
        config = self.config
        x_BxTxD = self.token_embedder(tokens_BxT)
        if config.embedding_dim is not None:
            x_BxTxD = self.project_in(x_BxTxD)
        if config.positions == "learned":
            x_BxTxD = x_BxTxD + self.position_embedder(positions_BxT + config.position_offset)
        if config.positions == "rotary":
            return x_BxTxD, attention.rotation(positions_BxT, config.head_dim, config.rope_theta)
        return x_BxTxD, None

    def _bias(self, length: int) -> jax.Array | None:
        return self.relpos_bias(length, length) if self.config.positions == "relative" else None

    def _final_norm(self, x_BxTxD: jax.Array) -> jax.Array:
        return x_BxTxD if self.config.block == "post_norm" else self.decoder_norm(x_BxTxD)

    def project(self, x_BxTxD: jax.Array) -> jax.Array:
        """Final vectors to logits [B, T, V], float32."""
        config = self.config
        if config.embedding_dim is not None:
            x_BxTxD = self.project_out(x_BxTxD)
        if config.logits_via_embedding:
            logits_BxTxV = self.token_embedder.attend(x_BxTxD)
            if config.scale_logits:
                logits_BxTxV = logits_BxTxV / jnp.sqrt(jnp.float32(config.emb_dim))
        else:
            logits_BxTxV = self.logits_dense(x_BxTxD)
        return sharding.constrain(logits_BxTxV, ("batch", "length", "vocab"))

    def __call__(
        self, tokens_BxT: jax.Array, positions_BxT: jax.Array, mask: attention.Mask, seed: layers.Seed = None
    ) -> jax.Array:
        """The final vectors [B, T, D], that `project` makes logits of."""
        rate, depth = self.config.dropout_rate, self.config.num_layers
        x_BxTxD, turn = self._embed(tokens_BxT, positions_BxT)
        x_BxTxD = layers.dropout(x_BxTxD, rate, layers.fold(seed, depth), (-2,))
        bias_HxTxT = self._bias(tokens_BxT.shape[1])
        x_BxTxD = stacks.run(self.layers, x_BxTxD, seed, depth, mask, bias_HxTxT, turn)
        return layers.dropout(self._final_norm(x_BxTxD), rate, layers.fold(seed, depth + 1), (-2,))

    def prefill(self, tokens_BxP: jax.Array, positions_BxP: jax.Array, mask: jax.Array, length: int) -> dict[str, Any]:
        """The cache of a prompt, with room for `length` places: per layer [B, N, T, K], [L, B, N, T, K] if stacked."""
        x_BxPxD, turn = self._embed(tokens_BxP, positions_BxP)
        bias_HxPxP = self._bias(tokens_BxP.shape[1])
        cache = {}
        for name, layer in stacks.named(self.layers).items():
            x_BxPxD, written = layer.prefill(x_BxPxD, mask, bias_HxPxP, turn)
            cache[name] = {part: _lengthened(value, length) for part, value in written.items()}
        return cache

    def step(
        self, token_B: jax.Array, cache: dict[str, Any], position: jax.Array, start_B: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """One place of the cache: logits [B, V] after `token_B`, and the cache with the place written."""
        x_Bx1xD, turn = self._embed(token_B[:, None], (position - start_B)[:, None])
        length = next(iter(cache.values()))["self_key"].shape[-2]
        bias_Hx1xT = self.relpos_bias.step(position, length) if self.config.positions == "relative" else None
        updated = {}
        for name, layer in stacks.named(self.layers).items():
            x_Bx1xD, updated[name] = layer.step(x_Bx1xD, cache[name], position, start_B, bias_Hx1xT, turn)
        return self.project(self._final_norm(x_Bx1xD))[:, 0], updated

    def follow(
        self, tokens_BxC: jax.Array, places_BxC: jax.Array, start_B: jax.Array, cache: dict[str, Any], mask: jax.Array
    ) -> jax.Array:
        """The vectors [B, C, D] of tokens that stand behind a prompt, each as if it stood at its place of the cache."""
        x_BxCxD, turn = self._embed(tokens_BxC, places_BxC - start_B[:, None])
        bias_BxHxCxT = None
        if self.config.positions == "relative":
            keys = next(iter(cache.values()))["self_key"].shape[-2]
            bias_BxHxCxP = self.relpos_bias.behind(places_BxC, keys)
            own_HxCxC = self.relpos_bias(tokens_BxC.shape[1], tokens_BxC.shape[1])
            own_BxHxCxC = jnp.broadcast_to(own_HxCxC[None], (tokens_BxC.shape[0], *own_HxCxC.shape))
            bias_BxHxCxT = jnp.concatenate([bias_BxHxCxP, own_BxHxCxC], axis=-1)
        for name, layer in stacks.named(self.layers).items():
            x_BxCxD, _ = layer.follow(x_BxCxD, cache[name], mask, bias_BxHxCxT, turn)
        return self._final_norm(x_BxCxD)


def _lengthened(value: jax.Array, length: int) -> jax.Array:
    """Pads [..., P, K] to [..., length, K]."""
    padding = [(0, 0)] * value.ndim
    padding[-2] = (0, length - value.shape[-2])
    return sharding.constrain(jnp.pad(value, padding), ("layers",) * (value.ndim - 4) + attention.CACHE_AXES)


def segment_positions(segments_BxT: jax.Array) -> jax.Array:
    """Positions that restart at 0 wherever the segment id changes; [B, T]."""
    places_1xT = jnp.arange(segments_BxT.shape[1], dtype=jnp.int32)[None, :]
    before_BxT = jnp.pad(segments_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts_BxT = jnp.where(segments_BxT != before_BxT, places_1xT, 0)
    return places_1xT - jax.lax.cummax(starts_BxT, axis=1)


class DecoderOnly(nn.Module):
    """Token ids to logits. All callers outside this package go through `models.api`."""

    config: DecoderOnlyConfig

    def setup(self) -> None:
        self.decoder = Decoder(self.config)

    def __call__(self, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None) -> jax.Array:
        """Logits [B, T, V] of teacher forcing."""
        return self.project(self.hidden(batch, dropout_rng))

    def project(self, x_BxTxD: jax.Array) -> jax.Array:
        """Final vectors to logits [B, T, V], float32."""
        return self.decoder.project(x_BxTxD)

    def hidden(self, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None) -> jax.Array:
        """The vectors [B, T, D] that `project` makes these logits of."""
        tokens_BxT, valid_BxT = batch["decoder_input_tokens"], batch["decoder_target_tokens"] > 0
        segments_BxT = batch.get("decoder_segment_ids")
        if "decoder_positions" in batch:
            positions_BxT = batch["decoder_positions"]
        elif segments_BxT is not None:
            positions_BxT = segment_positions(segments_BxT)
        else:
            positions_BxT = jnp.arange(tokens_BxT.shape[1], dtype=jnp.int32)[None, :]
        if self.config.attention == "splash" and not self.is_initializing():  # parameters are made with one token
            mask = attention.segments(valid_BxT, valid_BxT, segments_BxT, segments_BxT, causal=True)
            return self.decoder(tokens_BxT, positions_BxT, mask, layers.seed_from(dropout_rng))
        prefix_BxT = batch["decoder_causal_attention"] > 0 if self.config.prefix_lm else None
        mask = attention.attention_mask(
            valid_BxT, valid_BxT, segments_BxT, segments_BxT, causal=True, prefix_BxL=prefix_BxT
        )
        return self.decoder(tokens_BxT, positions_BxT, mask, layers.seed_from(dropout_rng))

    def prefill(self, tokens_BxP: jax.Array, length_B: jax.Array, max_decode_length: int) -> dict[str, Any]:
        """Runs the prompts, the first `length_B` tokens of each row, and returns the cache from which `step` starts.

        Prompts are moved to the right end, so that all rows go on at the same place of the cache, and a step writes one
        slice of it; `start` says where each row begins. The last token of a prompt is given to the first step again
        (its keys and values come out the same): only `step` computes logits.
        """
        prompt = tokens_BxP.shape[1]
        start_B = prompt - length_B.astype(jnp.int32)
        positions_BxP = jnp.arange(prompt, dtype=jnp.int32)[None, :] - start_B[:, None]
        valid_BxP, positions_BxP = positions_BxP >= 0, jnp.maximum(positions_BxP, 0)
        tokens_BxP = jnp.where(valid_BxP, jnp.take_along_axis(tokens_BxP, positions_BxP, axis=1), 0)
        mask = attention.attention_mask(valid_BxP, valid_BxP, causal=not self.config.prefix_lm)
        cache = self.decoder.prefill(tokens_BxP, positions_BxP, mask, prompt - 1 + max_decode_length)
        return {"position": jnp.int32(prompt - 1), "start": start_B, "decoder": cache}

    def step(self, cache: dict[str, Any], token_B: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Logits [B, V] after `token_B`, and the cache one place further."""
        position = cache["position"]
        logits_BxV, updated = self.decoder.step(token_B, cache["decoder"], position, cache["start"])
        return logits_BxV, {**cache, "position": position + 1, "decoder": updated}

    def follow(self, cache: dict[str, Any], batch: dict[str, jax.Array]) -> jax.Array:
        """The vectors [B, C, D] of continuations of the prompts in the cache; see `api.continuations`."""
        valid_BxC, segments_BxC = batch["decoder_target_tokens"] > 0, batch["decoder_segment_ids"]
        own = attention.attention_mask(valid_BxC, valid_BxC, segments_BxC, segments_BxC, causal=True)
        # Each continuation begins with the last token of its prompt, so that one's place in the cache is not looked at.
        keys = next(iter(cache["decoder"].values()))["self_key"].shape[-2]
        keys_1xP = jnp.arange(keys, dtype=jnp.int32)[None, :]
        read_BxP = (keys_1xP >= cache["start"][:, None]) & (keys_1xP < cache["position"])
        mask = jnp.concatenate([attention.attention_mask(valid_BxC, read_BxP), own], axis=-1)
        places_BxC = cache["position"] + batch["decoder_positions"]
        tokens_BxC = batch["decoder_input_tokens"]
        return self.decoder.follow(tokens_BxC, places_BxC, cache["start"], cache["decoder"], mask)
