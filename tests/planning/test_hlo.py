"""HLO text read back: FLOPs, bytes and collectives against what was asked for, loops counted as often as they run."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from flan_jax import sharding
from flan_jax.planning import hlo, hlo_products

# What the TPU compiler writes: products as convolutions in fusions, trips in a comparison, scatters as fused all-reduces.
TPU = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%fused_product (p0: bf16[8,16], p1: bf16[4,16,32], p2: s32[]) -> bf16[8,32] {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[4,16,32]{2,1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,16,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p1, %p2, %zero, %zero), dynamic_slice_sizes={1,16,32}
  %weights = bf16[16,32]{1,0:T(8,128)(2,1)} bitcast(%slice)
  ROOT %product = bf16[8,32]{1,0:T(8,128)(2,1)} convolution(%p0, %weights), dim_labels=bf_io->bf
}

%all-reduce-scatter (input: bf16[8,32]) -> bf16[8,8] {
  %input = bf16[8,32]{1,0:T(8,128)(2,1)} parameter(0)
  %reduced = bf16[8,32]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %place = s32[]{:T(128)} constant(0)
  ROOT %mine = bf16[8,8]{1,0:T(8,128)(2,1)} dynamic-slice(%reduced, %place, %place), dynamic_slice_sizes={8,8}
}

%body (state: (s32[], bf16[8,16], bf16[4,16,32], bf16[4,8,32])) -> (s32[], bf16[8,16], bf16[4,16,32], bf16[4,8,32]) {
  %state = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}, bf16[4,8,32]{2,1,0}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%at, %one)
  %rows = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %stack = bf16[4,16,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %kept = bf16[4,8,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=3
  %made = bf16[8,32]{1,0:T(8,128)(2,1)S(1)} fusion(%rows, %stack, %at), kind=kOutput, calls=%fused_product
  %gathered = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%made), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}
  %scattered = bf16[8,8]{1,0:T(8,128)(2,1)} fusion(%made), kind=kCustom, calls=%all-reduce-scatter
  ROOT %out = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}, bf16[4,8,32]{2,1,0}) tuple(%next, %rows, %stack, %kept)
}

%condition (state.1: (s32[], bf16[8,16], bf16[4,16,32], bf16[4,8,32])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}, bf16[4,8,32]{2,1,0}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %limit = s32[]{:T(128)} constant(4)
  ROOT %more = pred[]{:T(512)} compare(%at.1, %limit), direction=LT
}

ENTRY %main (a: bf16[8,16], b: bf16[4,16,32], c: bf16[4,8,32]) -> bf16[8,16] {
  %a = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[4,16,32]{2,1,0:T(8,128)(2,1)} parameter(1)
  %c = bf16[4,8,32]{2,1,0:T(8,128)(2,1)} parameter(2)
  %start = s32[]{:T(128)} constant(0)
  %first = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}, bf16[4,8,32]{2,1,0}) tuple(%start, %a, %b, %c)
  %loop = (s32[], bf16[8,16]{1,0}, bf16[4,16,32]{2,1,0}, bf16[4,8,32]{2,1,0}) while(%first), condition=%condition, body=%body
  ROOT %last = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_of_a_tpu_program():
    step = hlo.read(TPU)
    assert step.unknown_loops == ()
    assert step.flops == 4 * 2 * 8 * 16 * 32
    found = {one.kind: (one.bytes, one.group, one.times) for one in step.collectives}
    assert found == {
        "all-gather": (8 * 128 * 2, (0, 1, 2, 3), 4),
        "reduce-scatter": (8 * 32 * 2, (0, 1, 2, 3), 4),
    }
    # Each time: rows and one of four weights in, the product stays on the chip (S(1)), the counter, the scattered part out.
    product, counter = 8 * 16 * 2 + 16 * 32 * 2 + 4, 4 + 4 + 4
    assert step.bytes == 4 * (product + counter + 8 * 8 * 2)


@pytest.mark.parametrize(
    ("edit", "trips"),
    [
        (("constant(4)\n  ROOT %more", "constant(9)\n  ROOT %more"), 9),
        (("%start = s32[]{:T(128)} constant(0)", "%start = s32[]{:T(128)} constant(1)"), 3),
        (("%one = s32[]{:T(128)} constant(1)", "%one = s32[]{:T(128)} constant(2)"), 2),
        (("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'), 7),
    ],
)
def test_trips_follow_limit_start_and_stride(edit, trips):
    assert TPU.count(edit[0]) == 1
    assert hlo.read(TPU.replace(*edit)).flops == trips * 2 * 8 * 16 * 32


def test_a_loop_whose_trips_are_not_known_is_named():
    step = hlo.read(TPU.replace("direction=LT", "direction=NE"))
    assert step.unknown_loops == ("loop",)
    assert step.flops == 2 * 8 * 16 * 32


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, dimensions={0}", (0, 2)),
        ("source_target_pairs={{0,4},{4,0}}", (0, 4)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([2,4]T(1,0)) {'a','c'}, x", (0, 4, 2, 6)),
        ("to_apply=%add", ()),
    ],
)
def test_groups_in_every_notation(attributes, group):
    assert hlo.group_of(attributes) == group


@functools.cache
def compiled(fsdp: int) -> str:
    """Three layers' products in a loop, their gradients, on a mesh."""
    mesh = sharding.make_mesh(data=1, fsdp=fsdp, model=8 // fsdp)
    placed = NamedSharding(mesh, PartitionSpec(None, "fsdp", "model"))

    def objective(stack, x):
        return jnp.sum(jax.lax.scan(lambda y, w: (jnp.tanh(y @ w) @ w.T, None), x, stack)[0])

    stack = jax.ShapeDtypeStruct((3, 128, 256), jnp.float32, sharding=placed)
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    return jax.jit(jax.grad(objective)).lower(stack, x).compile().as_text()


@pytest.mark.parametrize("fsdp", [8, 2])
def test_products_of_a_compiled_loop_are_all_counted(fsdp):
    step = hlo.read(compiled(fsdp))
    # Two products forward, and two for the gradients of each.
    assert step.flops * 8 == pytest.approx(3 * 6 * 2 * 64 * 128 * 256, rel=0.02)
    assert step.unknown_loops == ()
    assert any(one.times >= 3 and len(one.group) == fsdp for one in step.collectives)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4), st.integers(1, 2)
)  # fmt: skip
def test_convolutions_count_products_with_elements_only(size, kernel, stride, dilation, low, high, kernel_dilation):
    extent, reach = (size - 1) * dilation + 1, (kernel - 1) * kernel_dilation + 1
    result = (extent + low + high - reach) // stride + 1
    if extent + low + high < reach:
        return
    dilated = np.zeros(extent + low + high, int)
    dilated[low : low + extent : dilation] = 1
    expected = sum(
        dilated[place * stride + tap * kernel_dilation]
        for place, tap in itertools.product(range(result), range(kernel))
    )
    window = (
        f"window={{size={kernel} stride={stride} pad={low}_{high} lhs_dilate={dilation} rhs_dilate={kernel_dilation}}}"
    )
    attributes = f", {window}, dim_labels=b0f_0io->b0f"
    flops = hlo_products.convolution_flops((5, size, 7), (kernel, 7, 3), (5, result, 3), attributes)
    assert flops == 2 * 5 * 7 * 3 * expected
