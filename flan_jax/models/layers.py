"""Building blocks without attention: parameters with logical axes, dense, norm, embedding, feed-forward, dropout.

Shapes: B batch, S source length, T target length, D model, F feed-forward, V vocabulary. Sizes, initialisers and the
placement of dropout are those of T5.1.1 (T5X examples/t5); a layer has a bias only where it is asked for (OPT).
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from flan_jax import errors, sharding

Initializer = Callable[..., jax.Array]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    # T5.1.1's GELU is the tanh approximation.
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Looks an activation up by its gin name."""
    if name not in ACTIVATIONS:
        raise errors.unknown("mlp_activations", name, ACTIVATIONS)
    return ACTIVATIONS[name]


@struct.dataclass
class Annotated(nn.meta.AxisMetadata):
    """A parameter together with the logical names of its axes.

    Linen's own boxes also constrain shardings when they are opened under a mesh; this one only carries the names.
    """

    value: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "Annotated":
        return Annotated(val, self.names)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Annotated":
        return Annotated(self.value, (*self.names[:index], params[nn.PARTITION_NAME], *self.names[index:]))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Annotated":
        del params
        return Annotated(self.value, (*self.names[:index], *self.names[index + 1 :]))


def annotated(init: Initializer, names: Sequence[str]) -> Callable[..., Any]:
    """Wraps an initialiser so that the parameter it makes knows its logical axes."""
    return lambda *args: Annotated(init(*args), tuple(names))


# variance_scaling as T5X sets it: normal for attention, truncated normal elsewhere.
attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
relpos_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Dense(nn.Module):
    """Multiplies the last axis by a kernel, and adds a bias if asked to: [..., in] -> [..., features]."""

    features: int
    axes: tuple[str, str]
    dtype: Any
    init: Initializer = dense_init
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", annotated(self.init, self.axes), (x.shape[-1], self.features), jnp.float32)
        # Flat, because XLA's CPU backend writes a transposed copy of three-dimensional operands for the kernel's gradient.
        # On a mesh, batch and length may lie on different axes of it, which one axis could not.
        flat = x if sharding.partitioned() else x.reshape(-1, x.shape[-1])
        y = jnp.dot(flat.astype(self.dtype), sharding.gathered(kernel.astype(self.dtype), self.axes))
        if self.use_bias:
            bias = self.param("bias", annotated(nn.initializers.zeros, self.axes[1:]), (self.features,), jnp.float32)
            y += bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*x.shape[:-1], self.features)


class RMSNorm(nn.Module):
    """T5's layer norm: scale only, no mean subtraction, statistics in float32."""

    dtype: Any
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.param("scale", annotated(nn.initializers.ones, ("embed",)), (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        y = (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)
        return y * scale_D.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class LayerNorm(nn.Module):
    """Layer norm with mean subtraction and a scale, and a bias if asked to; statistics in float32."""

    dtype: Any
    epsilon: float = 1e-6
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale_D = self.param("scale", annotated(nn.initializers.ones, ("embed",)), (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        y = (x * jax.lax.rsqrt(variance + self.epsilon)).astype(self.dtype) * scale_D.astype(self.dtype).reshape(shape)
        if not self.use_bias:
            return y
        bias_D = self.param("bias", annotated(nn.initializers.zeros, ("embed",)), (x.shape[-1],), jnp.float32)
        return y + bias_D.astype(self.dtype).reshape(shape)


# Name, beside `embedding`, of the learned vectors that a prompt-tuned model reads before its input; see `api`.
SOFT_PROMPT = "soft_prompt"


class Embed(nn.Module):
    """A table of vectors: of tokens, and where logits are tied also the output projection; or of positions."""

    vocab_size: int
    features: int
    dtype: Any
    stddev: float = 1.0

    def setup(self) -> None:
        init = annotated(nn.initializers.normal(stddev=self.stddev), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.features), jnp.float32)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[B, L] int -> [B, L, D]. An id outside the vocabulary gives NaN rather than another token's vector.

        A gather, where T5X multiplies by a one-hot matrix: for T5.1.1-small on 8 x (512+114) tokens that product alone
        is 160 GFLOP forward and as much backward, a third of the whole step.

        Where the parameters hold a soft prompt, its P vectors are those of the ids V to V + P - 1.
        """
        if not self.has_variable("params", SOFT_PROMPT):
            return jnp.take(self.embedding, tokens, axis=0, mode="fill").astype(self.dtype)
        prompt_PxD = self.get_variable("params", SOFT_PROMPT)
        virtual = tokens >= self.vocab_size
        ordinary = jnp.take(self.embedding, jnp.where(virtual, 0, tokens), axis=0, mode="fill")
        learned = jnp.take(prompt_PxD, jnp.where(virtual, tokens - self.vocab_size, 0), axis=0, mode="fill")
        return jnp.where(virtual[..., None], learned, ordinary).astype(self.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., V] in float32, by the transposed embedding."""
        table_VxD = sharding.gathered(self.embedding, ("vocab", "embed"))
        return jax.lax.dot_general(
            x.astype(jnp.float32), table_VxD, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )


# A dropout seed: uint32 [2]; None switches dropout off.
Seed = jax.Array | None


def seed_from(rng: jax.Array | None) -> Seed:
    """The seed of one forward pass, from a random key."""
    return None if rng is None else jax.random.bits(rng, (2,), jnp.uint32)


def fold(seed: Seed, number: int | jax.Array) -> Seed:
    """The seed of part `number` of what `seed` belongs to (a layer, a place within it)."""
    if seed is None:
        return None
    step = jnp.asarray(number, jnp.uint32) * jnp.uint32(2) + jnp.uint32(1)
    return _mix(seed + step * jnp.array([0x9E3779B9, 0xBB67AE85], jnp.uint32))


def _mix(bits: jax.Array) -> jax.Array:
    """MurmurHash3's 32-bit finaliser: every input bit flips every output bit with a probability near one half."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def keep_mask(seed: jax.Array, rate: float, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Random factors for dropout: 1 / (1 - rate) with probability 1 - rate, otherwise 0.

    A hash of (seed, position): unlike jax.random's threefry it adds ten instead of a hundred operations per place of
    dropout, a third of the compile time of T5.1.1-small, and unlike XLA's own generator it does not depend on how the
    array is split over devices.
    """
    counter = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        counter += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    bits = _mix(_mix(counter + seed[0]) ^ seed[1])
    keep = bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(keep, jnp.asarray(1.0 / (1.0 - rate), dtype), jnp.zeros((), dtype))


def dropout(x: jax.Array, rate: float, seed: Seed, broadcast_axes: Sequence[int] = ()) -> jax.Array:
    """Drops elements of `x`, with one draw shared along `broadcast_axes`; returns `x` itself without a seed."""
    if rate == 0.0 or seed is None:
        return x
    shape = list(x.shape)
    for axis in broadcast_axes:
        shape[axis] = 1
    return x * keep_mask(seed, rate, shape, x.dtype)


class FeedForward(nn.Module):
    """T5.1.1's gated feed-forward: product of the activations of parallel projections, then back to D.

    The projections are named wi_0, wi_1, ..., or wi if there is only one (T5.1.0, ReLU).
    """

    mlp_dim: int
    activations: tuple[str, ...]
    dropout_rate: float
    dtype: Any
    use_bias: bool = False

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, seed: Seed = None) -> jax.Array:
        gates = []
        for index, name in enumerate(self.activations):
            wi = "wi" if len(self.activations) == 1 else f"wi_{index}"
            projected = Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, use_bias=self.use_bias, name=wi)(x_BxLxD)
            gates.append(activation(name)(projected))
        hidden_BxLxF = functools.reduce(operator.mul, gates)
        hidden_BxLxF = dropout(hidden_BxLxF, self.dropout_rate, seed, (-2,))
        hidden_BxLxF = sharding.constrain(hidden_BxLxF, ("batch", "length", "mlp"))
        features = x_BxLxD.shape[-1]
        return Dense(features, ("mlp", "embed"), self.dtype, use_bias=self.use_bias, name="wo")(hidden_BxLxF)
