"""What every stack of layers needs, whichever family: checks of its config, rematerialisation, looping, residuals.

Layers are stored one by one (`layers_0`, `layers_1`, ...) or, with `scan_layers`, stacked along axis 1 of every parameter
(`layers`), which compiles in a time that does not grow with depth.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax import errors, sharding
from flan_jax.models import attention, layers

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# What a backward pass finds stored: everything; the products of weights with activations; these, but in the host's memory; or
# each layer's input only.
REMAT_POLICIES = ("none", "minimal", "offload", "full")

# Logical axes of what runs from layer to layer.
RESIDUAL_AXES = ("batch", "length", "activation_embed")


def check_config(config: Any, sizes: Sequence[str]) -> None:
    """Checks the fields that the families share, and makes `mlp_activations` a tuple.

    Args:
      config: a frozen dataclass.
      sizes: names of its fields that must be at least 1.

    Raises:
      FlanError: a field holds what no model can be built with.
    """
    # A gin file gives a list; the config is a static argument of jit and must be hashable.
    object.__setattr__(config, "mlp_activations", tuple(config.mlp_activations))
    for name in config.mlp_activations:
        layers.activation(name)
    check_choice("dtype", config.dtype, DTYPES)
    check_choice("remat_policy", config.remat_policy, REMAT_POLICIES)
    check_choice("attention", config.attention, attention.KERNELS)
    if config.attention == "cudnn" and config.dtype != "bfloat16":
        raise errors.FlanError(f"attention 'cudnn' needs dtype 'bfloat16'; given {config.dtype!r}")
    if not 0.0 <= config.dropout_rate < 1.0:
        raise errors.FlanError(f"dropout_rate must be in [0, 1), given {config.dropout_rate}")
    for field in sizes:
        if getattr(config, field) < 1:
            raise errors.FlanError(f"{field} must be at least 1, given {getattr(config, field)}")


def check_choice(field: str, given: str, known: Any) -> None:
    """Refuses a field's value that is not one of those known."""
    if given not in known:
        raise errors.unknown(field, given, known)


def residual(x_BxLxD: jax.Array, change_BxLxD: jax.Array, rate: float, seed: layers.Seed) -> jax.Array:
    """Adds a block's output; dropout is drawn once per example and feature, shared along the length."""
    change_BxLxD = sharding.constrain(change_BxLxD, RESIDUAL_AXES)
    return sharding.constrain(x_BxLxD + layers.dropout(change_BxLxD, rate, seed, (-2,)), RESIDUAL_AXES)


def normed(norm: nn.Module, x_BxLxD: jax.Array) -> jax.Array:
    """A norm's output where its input lies; whoever needs whole rows gathers them, and scatters their gradients back."""
    return sharding.constrain(norm(x_BxLxD), RESIDUAL_AXES)


def rematerialised(layer: type[nn.Module], config: Any) -> type[nn.Module]:
    """The layer class, recomputing in its backward pass what `config.remat_policy` says."""
    if config.remat_policy == "none":
        return layer
    policies = jax.checkpoint_policies
    if config.remat_policy == "minimal":
        policy = policies.dots_with_no_batch_dims_saveable
    elif config.remat_policy == "offload":
        policy = policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    else:
        policy = policies.nothing_saveable
    # Inside a loop XLA cannot merge the recomputation with the forward pass, so the barrier against it is not needed.
    return nn.remat(layer, policy=policy, prevent_cse=not config.scan_layers)


def scanned(layer: type[nn.Module], length: int, methods: dict[str, Any]) -> type[nn.Module]:
    """Stacks a layer along axis 1 of its parameters (T5X's param_scan_axis)."""
    common = {
        "variable_axes": {"params": 1},
        "split_rngs": {"params": True},
        "length": length,
        "metadata_params": {nn.PARTITION_NAME: "layers"},
    }
    return nn.scan(layer, methods={name: {**common, **axes} for name, axes in methods.items()})


def named(stack: Any) -> dict[str, Any]:
    """The layers of a stack by their parameters' names: one entry if they are stacked."""
    if isinstance(stack, nn.Module):
        return {"layers": stack}
    return {f"layers_{index}": layer for index, layer in enumerate(stack)}


def run(stack: Any, x: jax.Array, seed: layers.Seed, length: int, *shared: Any) -> jax.Array:
    """Passes `x` through the layers of a stack, each with a seed of its own."""
    if isinstance(stack, nn.Module):
        seeds = None if seed is None else jax.vmap(lambda index: layers.fold(seed, index))(jnp.arange(length))
        return stack(x, seeds, *shared)[0]
    for index, layer in enumerate(stack):
        x, _ = layer(x, layers.fold(seed, index), *shared)
    return x
