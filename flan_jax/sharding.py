"""The device mesh, and the one table from logical axis names to mesh axes.

Models name the axes of their parameters and activations logically (`embed`, `mlp`, `batch`); only this module knows
which of them are split over which devices. The names are those of T5X, so that a parameter tree carries the same
annotations.

The mesh always has three axes:
  data   splits the batch; parameters are copied. The one that crosses slices, over the data-centre network.
  fsdp   splits the batch and also the `embed` axis of every parameter, which is gathered where it is used.
  model  splits heads, feed-forward and vocabulary (tensor parallelism).

Which table applies is part of the scope that `use` opens: jit traces anew under another one.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flan_jax import compat, errors

AXIS_NAMES = ("data", "fsdp", "model")

Rules = Mapping[str, tuple[str, ...]]
Axes = tuple[str | None, ...]

# Logical axis -> the mesh axes that split it. An axis of an array takes the mesh axes that are still free in that
# array.
STANDARD_RULES: Rules = {
    # parameters
    "vocab": ("model",),
    "embed": ("fsdp",),
    "mlp": ("model",),
    "heads": ("model",),
    "joined_kv": ("model",),
    "kv": (),
    "relpos_buckets": (),
    "layers": (),
    "lora_rank": (),
    "prompt": (),
    # activations
    "batch": ("data", "fsdp"),
    "length": (),
    "activation_embed": (),
}

# The devices that share a layer's tensors also share what runs from layer to layer (T5X's `activation_partitioning_dims=2`).
# What layers keep for the backward pass shrinks, sums become scatters and gathers of the same bytes: FLAN-137B on v3:8x8 peaks
# at 12.2 GiB instead of 14.6. Splitting the length instead keeps as little, but XLA does not scatter those sums.
SPLIT_RESIDUAL_RULES: Rules = {**STANDARD_RULES, "activation_embed": ("model",)}

TABLES: Mapping[str, Rules] = {"standard": STANDARD_RULES, "split_residual": SPLIT_RESIDUAL_RULES}

# The table in scope, as pairs, which can be hashed.
_IN_SCOPE = jax.make_user_context(None)


def table(given: str | Mapping[str, Any] | Sequence[Any] | None) -> Rules:
    """The rules that a configuration means.

    Args:
      given: a name of `TABLES`; rules that replace those of the standard table, as a mapping or, as T5X writes them, as
        pairs of a logical name and a mesh axis, several of them or None; None for the standard table.

    Raises:
      FlanError: an unknown table, logical name or mesh axis.
    """
    if given is None:
        return STANDARD_RULES
    if isinstance(given, str):
        if given not in TABLES:
            raise errors.unknown("table of axes", given, TABLES)
        return TABLES[given]
    own: dict[str, tuple[str, ...]] = {}
    for name, value in given.items() if isinstance(given, Mapping) else given:
        axes = () if value is None else (value,) if isinstance(value, str) else tuple(value)
        if name not in STANDARD_RULES:
            raise errors.unknown("logical axis", name, STANDARD_RULES)
        for axis in axes:
            if axis not in AXIS_NAMES:
                raise errors.unknown("mesh axis", axis, AXIS_NAMES)
        own[name] = axes
    return {**STANDARD_RULES, **own}


def standard_logical_axis_rules() -> dict[str, tuple[str, ...]]:
    """T5X's name for a copy of `STANDARD_RULES`, as gin files call it."""
    return {name: tuple(axes) for name, axes in STANDARD_RULES.items()}


def make_mesh(data: int = -1, fsdp: int = 1, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices into the mesh (data, fsdp, model).

    Args:
      data: size of the data axis; -1 takes the devices that the other axes leave.
      fsdp: size of the axis that splits parameters and batch; -1 as above.
      model: size of the tensor-parallel axis; -1 as above.
      devices: the devices to use, by default all of them.

    Returns:
      The mesh. On TPU and GPU the order of devices follows the interconnect; over several slices the data axis, or else
      fsdp, goes from slice to slice and all others stay within one.

    Raises:
      FlanError: the sizes do not multiply to the number of devices, or more than one is -1.
    """
    available = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "model": model}
    given = ", ".join(f"{name}={size}" for name, size in sizes.items())
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise errors.FlanError(f"mesh sizes must be positive, at most one of them -1; given {given}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and len(available) % fixed == 0:
        sizes[free[0]] = len(available) // fixed
    if math.prod(sizes.values()) != len(available):
        needed = f"a divisor of {len(available)}" if free else f"{len(available)}"
        raise errors.FlanError(
            f"mesh {given} does not fit {len(available)} devices: "
            f"the fixed sizes multiply to {fixed}, expected {needed}"
        )
    return compat.make_mesh(_arrange(available, tuple(sizes[name] for name in AXIS_NAMES)), AXIS_NAMES)


def abstract_mesh(data: int, fsdp: int, model: int) -> Any:
    """A mesh of these sizes without devices: enough to say which part of an array each of them would hold."""
    kinds = (jax.sharding.AxisType.Auto,) * len(AXIS_NAMES)
    return jax.sharding.AbstractMesh((data, fsdp, model), AXIS_NAMES, axis_types=kinds)


def _arrange(devices: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Devices in the order in which neighbours on an axis are neighbours on the interconnect."""
    if devices[0].platform == "cpu":
        return np.asarray(devices, dtype=object).reshape(shape)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices > 1:
        for axis in range(2):
            if shape[axis] % slices == 0:
                across = [slices if place == axis else 1 for place in range(len(shape))]
                within = [size // ways for size, ways in zip(shape, across, strict=True)]
                return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
        raise errors.FlanError(
            f"{slices} slices share neither the data axis of {shape[0]} nor the fsdp axis of {shape[1]}; "
            f"expected one of them to be a multiple of {slices}"
        )
    if getattr(devices[0], "core_on_chip", None) is not None and devices[0].device_kind == "TPU v4":
        cores = len({(tuple(device.coords), device.core_on_chip) for device in devices})
        if cores > len({tuple(device.coords) for device in devices}):  # two devices a chip: JAX has no order for them
            return np.asarray(devices, dtype=object).reshape(shape)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = STANDARD_RULES) -> Iterator[None]:
    """Opens the scope in which models constrain their activations to `mesh`, by `rules`."""
    with compat.use_mesh(mesh), _IN_SCOPE(tuple(sorted(rules.items()))):
        yield


def spec(
    axes: Axes, shape: Sequence[int], mesh_axes: Mapping[str, int], rules: Rules = STANDARD_RULES
) -> PartitionSpec:
    """Maps one array's logical axes to mesh axes.

    A dimension that the mesh axes do not divide is kept whole: T5.1.1-small has 6 heads, which on model=4 stay together
    while its vocabulary is split. A mesh axis is used once per array, by the first dimension that names it.

    Args:
      axes: logical names, one per dimension; None keeps a dimension whole.
      shape: sizes, one per dimension.
      mesh_axes: mesh axis name -> size.
      rules: logical name -> mesh axes.

    Raises:
      FlanError: an unknown logical name, or a rank other than the array's.
    """
    if len(axes) != len(shape):
        raise errors.FlanError(
            f"logical axes {axes} name {len(axes)} dimensions; the array has {len(shape)}: {tuple(shape)}"
        )
    used: set[str] = set()
    parts: list[tuple[str, ...] | str | None] = []
    for name, size in zip(axes, shape, strict=True):
        if name is not None and name not in rules:
            raise errors.unknown("logical axis", name, rules)
        chosen: list[str] = []
        split = 1
        for mesh_axis in rules[name] if name is not None else ():
            ways = mesh_axes.get(mesh_axis, 1)
            if ways > 1 and mesh_axis not in used and size % (split * ways) == 0:
                chosen.append(mesh_axis)
                split *= ways
        used.update(chosen)
        parts.append(tuple(chosen) if len(chosen) > 1 else chosen[0] if chosen else None)
    return PartitionSpec(*parts)


def param_shardings(mesh: Mesh, axes_tree: Any, shapes_tree: Any, rules: Rules = STANDARD_RULES) -> Any:
    """Turns a tree of logical axes into a tree of shardings.

    Args:
      mesh: the device mesh.
      axes_tree: logical names per array, as `models.api.logical_axes` returns them.
      shapes_tree: arrays or `ShapeDtypeStruct`s of the same structure.
      rules: logical name -> mesh axes.
    """
    sizes = dict(mesh.shape)
    return jax.tree.map(
        lambda axes, array: NamedSharding(mesh, spec(axes, array.shape, sizes, rules)),
        axes_tree,
        shapes_tree,
        is_leaf=is_axes,
    )


def is_axes(node: Any) -> bool:
    """Whether a node of a tree is a tuple of axis names; optimizer states hold other tuples, some of them empty."""
    return type(node) is tuple and all(isinstance(name, str | None) for name in node)


def batch_sharding(mesh: Mesh, rules: Rules = STANDARD_RULES) -> NamedSharding:
    """Sharding of a global batch: the first dimension as the table says (over data and fsdp), the others whole."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def partitioned() -> bool:
    """Whether there is a mesh of several devices in scope."""
    return math.prod(compat.automatic_mesh_axes().values()) > 1


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Fixes the layout of an activation on the mesh in scope; returns `x` as it is where there is none."""
    if not partitioned():
        return x
    return jax.lax.with_sharding_constraint(x, spec_in_scope(axes, x.shape))


def gathered(param: jax.Array, axes: Axes) -> jax.Array:
    """A parameter as a product of activations needs it: whole along the mesh axes that split the batch.

    Left to itself XLA chooses between gathering the parameter and moving partial results about; for a parameter split by fsdp
    and a result split by model on a mesh that also has data, what it moves is wrong (JAX 0.10 and 0.12, CPU, rows of 32 tokens
    or fewer; `tests/test_sharding.py` has the case). The gradient goes straight to where the parameter lies.
    """
    if not partitioned():
        return param
    stored = spec_in_scope(axes, param.shape)
    of_batch = set(_rules_in_scope()["batch"])
    whole = [
        tuple(name for name in ((part,) if isinstance(part, str) else part or ()) if name not in of_batch) or None
        for part in stored
    ]
    return _gathered(param, PartitionSpec(*whole), stored)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(param: jax.Array, whole: PartitionSpec, stored: PartitionSpec) -> jax.Array:
    del stored
    return jax.lax.with_sharding_constraint(param, whole)


def _gathered_forward(param: jax.Array, whole: PartitionSpec, stored: PartitionSpec) -> tuple[jax.Array, None]:
    return _gathered(param, whole, stored), None


def _gathered_backward(
    whole: PartitionSpec, stored: PartitionSpec, kept: None, gradient: jax.Array
) -> tuple[jax.Array]:
    del whole, kept
    return (jax.lax.with_sharding_constraint(gradient, stored),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _rules_in_scope() -> Rules:
    return STANDARD_RULES if _IN_SCOPE.value is None else dict(_IN_SCOPE.value)


def spec_in_scope(axes: Axes, shape: Sequence[int]) -> PartitionSpec:
    """`spec` on the mesh and by the table in scope."""
    return spec(axes, shape, compat.automatic_mesh_axes(), _rules_in_scope())
