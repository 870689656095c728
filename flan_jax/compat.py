"""Every difference between the JAX lines that flan_jax supports: 0.10 (Python 3.11) and 0.12 (Python 3.12 and later).

Nothing else in the library asks which JAX is installed.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def make_mesh(devices: np.ndarray, axis_names: Sequence[str]) -> jax.sharding.Mesh:
    """Builds a mesh whose axes are partitioned by the compiler (GSPMD).

    `jax.make_mesh` makes Explicit axes since 0.9, under which every operation must name its output sharding; `Auto` is
    asked for by name.

    Args:
      devices: array of devices, one dimension per axis.
      axis_names: one name per dimension.
    """
    types = (jax.sharding.AxisType.Auto,) * len(axis_names)
    return jax.sharding.Mesh(devices, tuple(axis_names), axis_types=types)


def use_mesh(mesh: Any) -> Any:
    """Returns a context manager under which `mesh` is in scope; it is part of jit's cache key.

    Under an abstract mesh, which has no devices, functions can be traced and not run.
    """
    if isinstance(mesh, jax.sharding.AbstractMesh):
        return jax.sharding.use_abstract_mesh(mesh)
    return jax.set_mesh(mesh)


def automatic_mesh_axes() -> dict[str, int]:
    """Returns the sizes of the axes of the mesh in scope that the compiler partitions.

    Axes under `jax.shard_map` are excluded (an array is already local to them). Without a mesh the result is empty.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return {}
    auto = jax.sharding.AxisType.Auto
    return {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == auto
    }


def coordination_client() -> Any:
    """The client of the service through which the processes of a run find each other; None in a run of one process.

    `key_value_set` and `blocking_key_value_get` have no public name in either line.
    """
    from jax._src import distributed

    return distributed.global_state.client


def detect_tpu(timeout: float) -> tuple[str, int, int] | None:
    """(address of process 0, processes, this one) of a TPU slice, as its environment or metadata server says; None elsewhere.

    JAX finds this out inside `jax.distributed.initialize` only, which cannot say who is missing.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked and "tpu" not in asked.split(","):
        return None
    from jax._src import cloud_tpu_init, clusters

    if not cloud_tpu_init.running_in_cloud_tpu_vm:
        return None
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(timeout))
    address, count, number, _ = found
    return None if address is None or count is None or number is None else (address, count, number)
