"""Attention: the one function that computes it, masks, relative and rotary positions, and the layer with its cache.

Shapes: B batch, Q query length, S key length, T target length, D model, H heads, N heads of keys and values, K head dim.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flan_jax import errors, sharding
from flan_jax.models import layers, splash

# Added weight of a masked key. A query with no key left sees the uniform mean of all values, as in T5X.
MASKED = -1e10

# What computes attention over whole sequences where nothing is added to the products: XLA, a kernel for TPU, or one for GPU.
KERNELS = ("xla", "splash", "cudnn")

RELPOS_BUCKETS = 32
RELPOS_MAX_DISTANCE = 128

# Logical axes of a layer's cached keys or values.
CACHE_AXES = ("batch", "heads", "length", "kv")

# Cosines and sines of rotary positions, each float32 [B or 1, L, 1, K/2]; None where a model has no rotary positions.
Rotation = tuple[jax.Array, jax.Array] | None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["queries_BxQ", "keys_BxS"], meta_fields=["causal"])
@dataclasses.dataclass(frozen=True)
class Segments:
    """In place of a mask: a query looks at the keys of its segment, by the splash kernel (TPU).

    Attributes:
      queries_BxQ: segment of every query, int32; 0 for padding.
      keys_BxS: segment of every key.
      causal: a query looks at keys no further along than itself.
    """

    queries_BxQ: jax.Array
    keys_BxS: jax.Array
    causal: bool


# True where a query may look, [B, 1, Q or 1, S].
Mask = jax.Array | Segments


def dot_product_attention(
    query_BxQxHxK: jax.Array,
    key_BxSxNxK: jax.Array,
    value_BxSxNxK: jax.Array,
    *,
    bias_HxQxS: jax.Array | None = None,
    mask_Bx1xQxS: Mask | None = None,
    dropout_seed: layers.Seed = None,
    dropout_rate: float = 0.0,
    float32_logits: bool = True,
    fused: bool = False,
) -> jax.Array:
    """Mixes values by the softmax of query-key products; nothing is divided by sqrt(K).

    T5 folds the 1/sqrt(K) into the query's initialiser. Dropout draws one mask per (example, key head, key), the same for
    all queries, as T5X does; it then commutes with the product and is applied to the values, which are Q times fewer
    numbers than the weights.

    Args:
      query_BxQxHxK: queries.
      key_BxSxNxK: keys. Where N < H, head n serves the queries' heads n * H/N to (n + 1) * H/N - 1: grouped-query
        attention (Ainslie et al. 2023), and multi-query attention where N is 1.
      value_BxSxNxK: values.
      bias_HxQxS: added to the products (relative positions); [B, H, Q, S] where each row has its own.
      mask_Bx1xQxS: True where a query may look; Q may be 1 for all queries. `Segments` ask for the splash kernel,
        which computes products in float32 and takes no bias.
      dropout_seed: uint32 [2]; without it nothing is dropped.
      dropout_rate: probability that a key is dropped.
      float32_logits: products and softmax in float32 whatever the inputs' type.
      fused: by cuDNN, on a GPU and in bfloat16, where there are several queries and no bias. A bias is left to XLA: cuDNN would need
        it, with the mask, written out for every row.

    Returns:
      [B, Q, H, K] in the values' type.

    Raises:
      FlanError: `fused` where there is no cuDNN.
    """
    if isinstance(mask_Bx1xQxS, Segments):
        kept_BxSxNxK = layers.dropout(value_BxSxNxK, dropout_rate, dropout_seed, (-1,))
        of_queries, of_keys = mask_Bx1xQxS.queries_BxQ, mask_Bx1xQxS.keys_BxS
        return splash.attend(query_BxQxHxK, key_BxSxNxK, kept_BxSxNxK, of_queries, of_keys, causal=mask_Bx1xQxS.causal)
    if fused and bias_HxQxS is None and query_BxQxHxK.shape[1] > 1:
        kept_BxSxNxK = layers.dropout(value_BxSxNxK, dropout_rate, dropout_seed, (-1,))
        return _fused(query_BxQxHxK, key_BxSxNxK, kept_BxSxNxK, mask_Bx1xQxS)
    rows, queries, heads, head_dim = query_BxQxHxK.shape
    keys, key_heads = key_BxSxNxK.shape[1:3]
    groups = heads // key_heads
    logits_dtype = jnp.float32 if float32_logits else query_BxQxHxK.dtype
    # The heads that share keys become further queries (G*Q = P of them), so that no key is copied.
    query_BxPxNxK = _fold_groups(query_BxQxHxK, groups)
    logits_BxNxPxS = jnp.einsum("bqhk,bshk->bhqs", query_BxPxNxK, key_BxSxNxK, preferred_element_type=logits_dtype)
    logits_BxHxQxS = logits_BxNxPxS.reshape(rows, heads, queries, keys)
    if bias_HxQxS is not None and bias_HxQxS.ndim == 4:
        logits_BxHxQxS = logits_BxHxQxS + bias_HxQxS.astype(logits_dtype)
    elif bias_HxQxS is not None:
        logits_BxHxQxS = add_bias(logits_BxHxQxS, bias_HxQxS)
    if mask_Bx1xQxS is not None:
        logits_BxHxQxS = jnp.where(mask_Bx1xQxS, logits_BxHxQxS, jnp.asarray(MASKED, logits_dtype))
    logits_BxNxPxS = logits_BxHxQxS.reshape(rows, key_heads, groups * queries, keys)
    mixed_BxPxNxK = softmax_mix(logits_BxNxPxS, layers.dropout(value_BxSxNxK, dropout_rate, dropout_seed, (-1,)))
    if groups == 1:
        return mixed_BxPxNxK
    mixed = mixed_BxPxNxK.reshape(rows, groups, queries, key_heads, head_dim)
    return mixed.transpose(0, 2, 3, 1, 4).reshape(rows, queries, heads, head_dim)


def _fused(
    query_BxQxHxK: jax.Array, key_BxSxNxK: jax.Array, value_BxSxNxK: jax.Array, mask_Bx1xQxS: jax.Array | None
) -> jax.Array:
    if mask_Bx1xQxS is not None:
        rows, queries = query_BxQxHxK.shape[:2]
        mask_Bx1xQxS = jnp.broadcast_to(mask_Bx1xQxS, (rows, 1, queries, key_BxSxNxK.shape[1]))
    try:
        return jax.nn.dot_product_attention(
            query_BxQxHxK, key_BxSxNxK, value_BxSxNxK, mask=mask_Bx1xQxS, scale=1.0, implementation="cudnn"
        )
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        raise errors.FlanError(
            f"attention 'cudnn' needs a GPU with cuDNN; given backend {jax.default_backend()!r}; expected attention 'xla' there"
        ) from error


def _fold_groups(query_BxQxHxK: jax.Array, groups: int) -> jax.Array:
    """[B, Q, N*G, K] -> [B, G*Q, N, K]."""
    if groups == 1:
        return query_BxQxHxK
    rows, queries, heads, head_dim = query_BxQxHxK.shape
    split = query_BxQxHxK.reshape(rows, queries, heads // groups, groups, head_dim)
    return split.transpose(0, 3, 1, 2, 4).reshape(rows, groups * queries, heads // groups, head_dim)


@jax.custom_vjp
def add_bias(logits_BxHxQxS: jax.Array, bias_HxQxS: jax.Array) -> jax.Array:
    """Logits plus one bias for the whole batch.

    The barrier ends each layer's sum over the batch in that layer. XLA's CPU compiler otherwise keeps the logits' gradients
    of all layers and sums them in one fusion with what comes before the bias: 0.64 s of an 8.0 s T5.1.1-small step.
    """
    return logits_BxHxQxS + bias_HxQxS[None].astype(logits_BxHxQxS.dtype)


def _add_bias_forward(logits_BxHxQxS: jax.Array, bias_HxQxS: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_bias(logits_BxHxQxS, bias_HxQxS), jnp.zeros((), bias_HxQxS.dtype)


def _add_bias_backward(bias_type: jax.Array, gradient_BxHxQxS: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones_B = jnp.ones(gradient_BxHxQxS.shape[0], gradient_BxHxQxS.dtype)
    exact = jax.lax.Precision.HIGHEST
    summed_HxQxS = jnp.einsum(
        "b,bhqs->hqs", ones_B, gradient_BxHxQxS, precision=exact, preferred_element_type=jnp.float32
    )
    return gradient_BxHxQxS, summed_HxQxS.astype(bias_type.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def softmax_mix(logits_BxHxQxS: jax.Array, value_BxSxHxK: jax.Array) -> jax.Array:
    """The softmax of the logits over S, times the values: [B, Q, H, K] in the values' type.

    The product is divided by the softmax's denominator, not the weights: they are S / K times as many numbers. Going back,
    the sum over keys of weight times gradient equals output times gradient, summed over K (Dao et al. 2022), so that the
    weights are read once and not kept. A T5.1.1-small step then peaks at 3.9 GiB instead of 4.8, in the same time.
    """
    return _softmax_mix_forward(logits_BxHxQxS, value_BxSxHxK)[0]


def _softmax_mix_forward(
    logits_BxHxQxS: jax.Array, value_BxSxHxK: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    dtype = value_BxSxHxK.dtype
    largest_BxHxQx1 = jnp.max(logits_BxHxQxS, axis=-1, keepdims=True)
    powers_BxHxQxS = jnp.exp(logits_BxHxQxS - largest_BxHxQx1)
    total_BxQxHx1 = jnp.swapaxes(jnp.sum(powers_BxHxQxS, axis=-1, dtype=jnp.float32), 1, 2)[..., None]
    powers_BxHxQxS = powers_BxHxQxS.astype(dtype)
    mixed_BxQxHxK = jnp.einsum("bhqs,bshk->bqhk", powers_BxHxQxS, value_BxSxHxK, preferred_element_type=jnp.float32)
    mixed_BxQxHxK = (mixed_BxQxHxK / total_BxQxHx1).astype(dtype)
    logits_type = jnp.zeros((), logits_BxHxQxS.dtype)
    return mixed_BxQxHxK, (powers_BxHxQxS, total_BxQxHx1, value_BxSxHxK, mixed_BxQxHxK, logits_type)


def _softmax_mix_backward(residuals: tuple[jax.Array, ...], gradient_BxQxHxK: jax.Array) -> tuple[jax.Array, jax.Array]:
    powers_BxHxQxS, total_BxQxHx1, value_BxSxHxK, mixed_BxQxHxK, logits_type = residuals
    gradient_BxQxHxK = gradient_BxQxHxK.astype(jnp.float32)
    scaled_BxQxHxK = gradient_BxQxHxK / total_BxQxHx1
    shared_BxQxH = jnp.sum(scaled_BxQxHxK * mixed_BxQxHxK.astype(jnp.float32), axis=-1)
    scaled_BxQxHxK = scaled_BxQxHxK.astype(value_BxSxHxK.dtype)
    value_gradient = jnp.einsum("bhqs,bqhk->bshk", powers_BxHxQxS, scaled_BxQxHxK)
    weight_gradient = jnp.einsum("bqhk,bshk->bhqs", scaled_BxQxHxK, value_BxSxHxK, preferred_element_type=jnp.float32)
    shared_BxHxQx1 = jnp.swapaxes(shared_BxQxH, 1, 2)[..., None]
    logits_gradient = powers_BxHxQxS.astype(jnp.float32) * (weight_gradient - shared_BxHxQx1)
    return logits_gradient.astype(logits_type.dtype), value_gradient.astype(value_BxSxHxK.dtype)


softmax_mix.defvjp(_softmax_mix_forward, _softmax_mix_backward)


def attention_mask(
    query_valid_BxQ: jax.Array,
    key_valid_BxS: jax.Array,
    query_segments_BxQ: jax.Array | None = None,
    key_segments_BxS: jax.Array | None = None,
    *,
    causal: bool = False,
    prefix_BxL: jax.Array | None = None,
) -> jax.Array:
    """Says which query may look at which key: both real, same packed example, and not the future if `causal`.

    Tokens of a prefix (`prefix_BxL` True; queries and keys are then the same sequence) see each other all the same.

    Returns:
      bool [B, 1, Q, S].
    """
    mask = query_valid_BxQ[:, None, :, None] & key_valid_BxS[:, None, None, :]
    if query_segments_BxQ is not None and key_segments_BxS is not None:
        mask &= query_segments_BxQ[:, None, :, None] == key_segments_BxS[:, None, None, :]
    if causal:
        queries, keys = mask.shape[-2:]
        past = jnp.asarray(np.arange(queries)[:, None] >= np.arange(keys)[None, :])[None, None]
        if prefix_BxL is not None:
            past = past | (prefix_BxL[:, None, :, None] & prefix_BxL[:, None, None, :])
        mask &= past
    return mask


def segments(
    query_valid_BxQ: jax.Array,
    key_valid_BxS: jax.Array,
    query_segments_BxQ: jax.Array | None = None,
    key_segments_BxS: jax.Array | None = None,
    *,
    causal: bool = False,
) -> Segments:
    """`attention_mask` without a prefix, for the splash kernel."""

    def of(valid: jax.Array, given: jax.Array | None) -> jax.Array:
        return valid.astype(jnp.int32) if given is None else jnp.where(valid, given, 0)

    return Segments(of(query_valid_BxQ, query_segments_BxQ), of(key_valid_BxS, key_segments_BxS), causal)


def relative_buckets(
    relative: np.ndarray,
    *,
    bidirectional: bool,
    buckets: int = RELPOS_BUCKETS,
    max_distance: int = RELPOS_MAX_DISTANCE,
) -> np.ndarray:
    """Maps key position minus query position to a bucket (T5 paper, section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`; everything beyond
    shares the last. Bidirectional attention spends half of all buckets on keys to the right; causal attention puts
    those into bucket 0.
    """
    distance = -np.asarray(relative)
    offset = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = np.where(distance < 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(distance, 0)
    exact = buckets // 2
    # float32 and the epsilon decide on which side of a boundary a distance falls; pretrained tables rely on it.
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    grown = exact + (np.log(ratio) / np.log(max_distance / exact) * (buckets - exact)).astype(np.int32)
    return (offset + np.where(distance < exact, distance, np.minimum(grown, buckets - 1))).astype(np.int32)


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket, added to the attention logits of every layer of a stack."""

    num_heads: int
    bidirectional: bool

    def setup(self) -> None:
        init = layers.annotated(layers.relpos_init, ("heads", "relpos_buckets"))
        self.rel_embedding = self.param("rel_embedding", init, (self.num_heads, RELPOS_BUCKETS), jnp.float32)

    def __call__(self, queries: int, keys: int) -> jax.Array:
        """The bias of whole sequences, float32 [H, Q, S].

        It depends on key minus query only, so that one number per distance is looked up and then shifted by one place
        from row to row. The gradient is a sum along diagonals, without a Q x S scatter into 32 places or a product with
        Q x S one-hot buckets, which on a CPU took 7% of a T5.1.1-small step.
        """
        distances = np.arange(1 - queries, keys)
        buckets = relative_buckets(distances, bidirectional=self.bidirectional)
        one_hot_NxR = np.arange(RELPOS_BUCKETS)[:, None] == buckets[None, :]
        by_distance_HxR = self.rel_embedding @ jnp.asarray(one_hot_NxR, jnp.float32)
        # A row of Q + S numbers, repeated and cut into rows that are one shorter, moves right by one in each.
        period = queries + keys
        padded_HxP = jnp.pad(by_distance_HxR, ((0, 0), (0, 1)))
        repeated = jnp.broadcast_to(padded_HxP[:, None, :], (self.num_heads, queries, period))
        flat = repeated.reshape(self.num_heads, queries * period)[:, : queries * (period - 1)]
        return flat.reshape(self.num_heads, queries, period - 1)[:, :, queries - 1 :]

    def step(self, position: jax.Array, keys: int) -> jax.Array:
        """The row of the causal bias for the query at `position` (a scalar), float32 [H, 1, S]."""
        by_distance = jnp.asarray(relative_buckets(-np.arange(keys), bidirectional=False))
        distance_S = jnp.maximum(position - np.arange(keys, dtype=np.int32), 0)
        return jnp.take(self.rel_embedding, by_distance[distance_S], axis=1)[:, None, :]

    def behind(self, place_BxC: jax.Array, keys: int) -> jax.Array:
        """The causal bias of queries that stand at given places behind a cache of so many keys, float32 [B, H, C, S]."""
        by_distance = jnp.asarray(relative_buckets(-np.arange(RELPOS_MAX_DISTANCE + 1), bidirectional=False))
        distance_BxCxS = place_BxC[:, :, None] - np.arange(keys, dtype=np.int32)[None, None, :]
        buckets_BxCxS = by_distance[
            jnp.clip(distance_BxCxS, 0, RELPOS_MAX_DISTANCE)
        ]  # the last is shared from there on
        return jnp.take(self.rel_embedding, buckets_BxCxS, axis=1).swapaxes(0, 1)


def rotation(positions_BxL: jax.Array, head_dim: int, theta: float) -> Rotation:
    """Cosines and sines of rotary position embeddings (Su et al. 2021).

    Pair i of a head turns by position * theta^(-2i/K). A pair is (i, i + K/2), as in Hugging Face's checkpoints, not
    (2i, 2i + 1) as in LLaMA's original ones: the same model under a permutation of the rows of query and key kernels.
    """
    speeds = theta ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = positions_BxL.astype(jnp.float32)[:, :, None, None] * jnp.asarray(speeds, jnp.float32)[None, None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BxLxHxK: jax.Array, turn: Rotation) -> jax.Array:
    """Turns queries or keys to their positions, in float32; returns `x` itself without a rotation."""
    if turn is None:
        return x_BxLxHxK
    cosine, sine = turn
    left, right = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)
    return turned.astype(x_BxLxHxK.dtype)


class Attention(nn.Module):
    """Multi-head attention with joined head kernels [D, H*K], for whole sequences and for one step with a cache.

    Attributes:
      num_heads: heads of queries, H.
      head_dim: K.
      features: width of the output, D.
      dropout_rate: probability that a key is dropped.
      dtype: type of activations.
      float32_logits: products and softmax in float32 even if `dtype` is bfloat16.
      num_kv_heads: heads of keys and values, N, a divisor of H; H if None.
      use_bias: every projection has a bias.
      scaled: divide queries by sqrt(K); if not, the query's initialiser is divided instead (T5).
      kernel: one of `KERNELS`. 'splash' is what a mask in the form of `Segments` asks for.
    """

    num_heads: int
    head_dim: int
    features: int
    dropout_rate: float
    dtype: Any
    float32_logits: bool
    num_kv_heads: int | None = None
    use_bias: bool = False
    scaled: bool = False
    kernel: str = "xla"

    def setup(self) -> None:
        joined = self.num_heads * self.head_dim
        scale = 1.0 if self.scaled else 1.0 / math.sqrt(self.head_dim)

        def query_init(*args: Any) -> jax.Array:
            return layers.attention_init(*args) * scale

        def dense(features: int, axes: tuple[str, str], init: layers.Initializer) -> layers.Dense:
            return layers.Dense(features, axes, self.dtype, init, self.use_bias)

        axes = ("embed", "joined_kv")
        # The single head of multi-query attention is needed whole wherever a part of the queries' heads is.
        shared = axes if self._kv_heads > 1 else ("embed", "kv")
        self.query = dense(joined, axes, query_init)
        self.key = dense(self._kv_heads * self.head_dim, shared, layers.attention_init)
        self.value = dense(self._kv_heads * self.head_dim, shared, layers.attention_init)
        self.out = dense(self.features, ("joined_kv", "embed"), layers.attention_init)

    @property
    def _kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    def _heads(self, x: jax.Array, heads: int) -> jax.Array:
        x = x.reshape(*x.shape[:2], heads, self.head_dim)
        return sharding.constrain(x, ("batch", "length", "heads", "kv"))

    def keys_values(self, x_BxSxD: jax.Array, turn: Rotation = None) -> tuple[jax.Array, jax.Array]:
        """Projects a sequence to keys and values, each [B, S, N, K]."""
        key_BxSxNxK = rotate(self._heads(self.key(x_BxSxD), self._kv_heads), turn)
        return key_BxSxNxK, self._heads(self.value(x_BxSxD), self._kv_heads)

    def attend(
        self,
        x_BxQxD: jax.Array,
        key_BxSxNxK: jax.Array,
        value_BxSxNxK: jax.Array,
        mask: Mask | None,
        bias: jax.Array | None,
        seed: layers.Seed = None,
        turn: Rotation = None,
    ) -> jax.Array:
        """Looks from `x_BxQxD` at given keys and values; [B, Q, D]."""
        query_BxQxHxK = rotate(self._heads(self.query(x_BxQxD), self.num_heads), turn)
        if self.scaled:
            query_BxQxHxK = query_BxQxHxK * jnp.asarray(1.0 / math.sqrt(self.head_dim), self.dtype)
        mixed_BxQxHxK = dot_product_attention(
            query_BxQxHxK,
            key_BxSxNxK,
            value_BxSxNxK,
            bias_HxQxS=bias,
            mask_Bx1xQxS=mask,
            dropout_seed=seed,
            dropout_rate=self.dropout_rate,
            float32_logits=self.float32_logits,
            fused=self.kernel == "cudnn",
        )
        return self.out(mixed_BxQxHxK.reshape(*mixed_BxQxHxK.shape[:2], -1))

    def __call__(
        self,
        x_BxQxD: jax.Array,
        x_BxSxD: jax.Array,
        mask: Mask | None,
        bias: jax.Array | None = None,
        seed: layers.Seed = None,
        turn: Rotation = None,
    ) -> jax.Array:
        """Looks from one sequence at another (or at itself); [B, Q, D]."""
        return self.attend(x_BxQxD, *self.keys_values(x_BxSxD, turn), mask, bias, seed, turn)

    def step(
        self,
        x_Bx1xD: jax.Array,
        cache: dict[str, jax.Array],
        position: jax.Array,
        bias_Hx1xT: jax.Array | None,
        start_B: jax.Array | None = None,
        turn: Rotation = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Self-attention of the token at `position`, which is written into the cache.

        The cache holds [B, N, T, K], batch dimensions first, so that a step multiplies it without a transposed copy.

        Args:
          x_Bx1xD: the token.
          cache: keys and values of the earlier positions.
          position: place in the cache, the same for all rows.
          bias_Hx1xT: added to the products.
          start_B: first place of each row; 0 if None.
          turn: rotation to the token's position in its row, which is `position - start_B`.

        Returns:
          [B, 1, D] and the cache with the token's key and value.
        """
        cache = {
            name: sharding.constrain(
                jax.lax.dynamic_update_slice(cache[name], new_Bx1xNxK.swapaxes(1, 2), (0, 0, position, 0)), CACHE_AXES
            )
            for name, new_Bx1xNxK in zip(("self_key", "self_value"), self.keys_values(x_Bx1xD, turn), strict=True)
        }
        places_1x1x1xT = jnp.arange(cache["self_key"].shape[2], dtype=jnp.int32)[None, None, None, :]
        mask = places_1x1x1xT <= position
        if start_B is not None:
            mask &= places_1x1x1xT >= start_B[:, None, None, None]
        key_BxTxNxK, value_BxTxNxK = cache["self_key"].swapaxes(1, 2), cache["self_value"].swapaxes(1, 2)
        return self.attend(x_Bx1xD, key_BxTxNxK, value_BxTxNxK, mask, bias_Hx1xT, None, turn), cache
