"""The device mesh, and the one table from logical axis names to mesh axes.

Models name the axes of their parameters and activations logically (`embed`, `mlp`, `batch`); only this module knows
which of them are split over which devices. The names are those of T5X, so that a parameter tree carries the same
annotations.

The mesh always has three axes:
  data   splits the batch; parameters are copied.
  fsdp   splits the batch and also the `embed` axis of every parameter, which is gathered where it is used.
  model  splits heads, feed-forward and vocabulary (tensor parallelism).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
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
    # activations
    "batch": ("data", "fsdp"),
    "length": (),
    "activation_embed": (),
}


def make_mesh(data: int = -1, fsdp: int = 1, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices into the mesh (data, fsdp, model).

    Args:
      data: size of the data axis; -1 takes the devices that the other axes leave.
      fsdp: size of the axis that splits parameters and batch; -1 as above.
      model: size of the tensor-parallel axis; -1 as above.
      devices: the devices to use, by default all of them.

    Returns:
      The mesh. On TPU and GPU the order of devices follows the interconnect.

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
    shape = tuple(sizes[name] for name in AXIS_NAMES)
    if devices is None and available[0].platform != "cpu":
        arranged = jax.make_mesh(shape, AXIS_NAMES).devices
    else:
        arranged = np.asarray(available, dtype=object).reshape(shape)
    return compat.make_mesh(arranged, AXIS_NAMES)


def use(mesh: Mesh) -> Any:
    """Returns a context manager under which models constrain their activations to `mesh`."""
    return compat.use_mesh(mesh)


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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a global batch: the first dimension over data and fsdp, the others whole."""
    return NamedSharding(mesh, PartitionSpec(STANDARD_RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Fixes the layout of an activation on the mesh in scope; returns `x` as it is where there is none."""
    mesh_axes = compat.automatic_mesh_axes()
    if math.prod(mesh_axes.values()) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh_axes))
