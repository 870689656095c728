"""Attention within the segments of packed rows by the splash kernel of JAX's Pallas library, on TPU.

The logits [B, H, Q, S] never exist in HBM, causal attention leaves out the blocks above the diagonal, and the backward pass
computes its blocks again. Reached through `attention.dot_product_attention`.

Shapes as in `attention`: B batch, Q query length, S key length, H heads, N heads of keys and values, K head dim.
"""

import functools
from typing import Any

import jax
from jax.sharding import PartitionSpec

from flan_jax import errors, sharding

# Of rows and of keys that a kernel has on the chip at a time. 512 is a good size for all generations, says the kernel's own
# documentation; a shorter row is one block.
_BLOCK = 512
# A block's lanes: lengths are multiples of it.
LANES = 128


def check(length: int) -> None:
    """Refuses a length that the kernel's blocks do not divide.

    Raises:
      FlanError: naming the lengths that would do.
    """
    step = LANES if length <= _BLOCK else _BLOCK
    if length % step:
        near = -(-length // step) * step
        raise errors.FlanError(
            f"splash attention needs rows of a multiple of {step} tokens; given {length}, expected e.g. {near}"
        )


def attend(
    query_BxQxHxK: jax.Array,
    key_BxSxNxK: jax.Array,
    value_BxSxNxK: jax.Array,
    segments_BxQ: jax.Array,
    segments_BxS: jax.Array,
    *,
    causal: bool,
    interpret: bool = False,
) -> jax.Array:
    """Mixes the values of the same segment, of earlier places if `causal`; nothing is divided by sqrt(K).

    On a mesh, batch and heads are split as the table in scope says, and every device runs the kernel on its part.

    Args:
      query_BxQxHxK: queries.
      key_BxSxNxK: keys; N is H, or 1 for multi-query attention, or a divisor of H.
      value_BxSxNxK: values.
      segments_BxQ: int32, of the queries; padding is a segment of its own.
      segments_BxS: of the keys.
      causal: a query looks at keys no further along than itself.
      interpret: run it step by step on any backend: for tests.

    Returns:
      [B, Q, H, K] in the values' type.

    Raises:
      FlanError: a length that the kernel cannot do.
    """
    check(query_BxQxHxK.shape[1])
    check(key_BxSxNxK.shape[1])
    heads, key_heads = query_BxQxHxK.shape[2], key_BxSxNxK.shape[2]
    inputs = [value.swapaxes(1, 2) for value in (query_BxQxHxK, key_BxSxNxK, value_BxSxNxK)]
    segments = [segments_BxQ, segments_BxS]
    of_device = functools.partial(_rows, causal=causal, interpret=interpret)
    if not sharding.partitioned():
        return of_device(*inputs, *segments).swapaxes(1, 2)
    axes = ("batch", "heads", "length", "kv")
    specs = [sharding.spec_in_scope(axes, value.shape) for value in inputs]
    if key_heads > 1 and specs[1] != specs[0]:
        # Fewer heads of keys than devices that share the queries': each needs those of its own queries.
        inputs[1:] = [value.repeat(heads // key_heads, axis=1) for value in inputs[1:]]
        specs[1:] = [specs[0], specs[0]]
    of_rows = PartitionSpec(specs[0][0], None)
    in_specs = (*specs, of_rows, of_rows)
    on_mesh = jax.shard_map(of_device, in_specs=in_specs, out_specs=specs[0], check_vma=False)
    return on_mesh(*inputs, *segments).swapaxes(1, 2)


def _rows(
    query_BxHxQxK: jax.Array,
    key_BxNxSxK: jax.Array,
    value_BxNxSxK: jax.Array,
    segments_BxQ: jax.Array,
    segments_BxS: jax.Array,
    *,
    causal: bool,
    interpret: bool,
) -> jax.Array:
    """One device's rows and heads."""
    # The kernel's module imports Pallas, which takes a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels

    heads, queries, head_dim = query_BxHxQxK.shape[1:]
    key_heads, keys = key_BxNxSxK.shape[1:3]
    make = functools.partial(_kernel, queries=queries, keys=keys, causal=causal, interpret=interpret)

    def one_row(
        query: jax.Array, key: jax.Array, value: jax.Array, of_queries: jax.Array, of_keys: jax.Array
    ) -> jax.Array:
        ids = kernels.SegmentIds(q=of_queries, kv=of_keys)
        if key_heads == heads:
            return make(heads, shared=False)(query, key, value, ids)
        # Each head of keys with the queries' heads that share it.
        apart = query.reshape(key_heads, heads // key_heads, queries, head_dim)
        shared = make(heads // key_heads, shared=True)
        return jax.vmap(shared, in_axes=(0, 0, 0, None))(apart, key, value, ids).reshape(query.shape)

    mixed_BxHxQxK = jax.vmap(one_row)(query_BxHxQxK, key_BxNxSxK, value_BxNxSxK, segments_BxQ, segments_BxS)
    return mixed_BxHxQxK.astype(value_BxNxSxK.dtype)


def _kernel(heads: int, *, shared: bool, queries: int, keys: int, causal: bool, interpret: bool) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    of_queries, of_keys = min(_BLOCK, queries), min(_BLOCK, keys)
    sizes = kernels.BlockSizes(
        block_q=of_queries, block_kv=of_keys, block_kv_compute=of_keys, block_q_dkv=of_queries, block_kv_dkv=of_keys,
        block_kv_dkv_compute=of_keys, block_q_dq=of_queries, block_kv_dq=of_keys,
    )  # fmt: skip
    of_head = (masks.CausalMask if causal else masks.FullMask)((queries, keys))
    make = kernels.make_splash_mqa if shared else kernels.make_splash_mha
    return make(
        masks.MultiHeadMask([of_head] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
