"""Memory and time of a layout without compiling it: rough, for deciding which layouts are worth compiling.

Formulas, for one device; P parameters, n tokens that it has at a time. What compiled steps showed: XLA keeps, beside the
state and the gradients, a copy of stacked layers in the type of activations, and for every layer what the remat policy
saves.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from flan_jax import sharding
from flan_jax.models import api, flops
from flan_jax.planning import runs, slices

# Parameters are stored and their gradients added in float32.
_STORED = 4


def peak_bytes(run: runs.Run, layout: runs.Layout) -> float:
    """HBM of one device at its fullest."""
    config = run.model.config
    ways = layout.fsdp * layout.model
    params, small = run.num_params / ways, _itemsize(config)
    held, trained = run.state_bytes
    state, gradients = held / ways, trained / ways * (2 if layout.microbatches > 1 else 1)
    copy = params * small if config.scan_layers and small < _STORED else 0.0
    if run.adapter is not None:
        state += params * _STORED
        gradients += params * _STORED  # of LoRA's effective kernels
    return state + gradients + copy + kept_bytes(run, layout) + _working_bytes(run, layout)


def kept_bytes(run: runs.Run, layout: runs.Layout) -> float:
    """What the layers keep for the backward pass."""
    return sum(tokens * numbers for tokens, numbers in _kept(run, layout)) * _itemsize(run.model.config)


def _kept(run: runs.Run, layout: runs.Layout) -> list[tuple[float, float]]:
    """For each stack (tokens that a device has, numbers kept of each, all layers together)."""
    config, rows = run.model.config, _rows(run, layout)
    lengths = run.lengths
    residual = config.emb_dim / (layout.model if _splits_residual(layout) else 1)
    joined = config.num_heads * config.head_dim / _ways(config.num_heads * config.head_dim, layout)
    hidden = len(config.mlp_activations) * config.mlp_dim / _ways(config.mlp_dim, layout)
    target = rows * lengths["decoder_target_tokens"]
    if isinstance(config, api.DecoderOnlyConfig):
        heads = config.num_kv_heads or config.num_heads
        shared = 2 * heads * config.head_dim / (1 if heads == 1 else _ways(heads * config.head_dim, layout))
        products = joined + shared + hidden + (0 if config.block == "parallel" else residual)
        pairs = config.num_heads * lengths["decoder_target_tokens"] / _ways(config.num_heads, layout)
        each = _of_policy(layout.remat, residual, products, pairs)
        return [(target, config.num_layers * each)]
    source = rows * lengths["encoder_input_tokens"]
    heads = config.num_heads / _ways(config.num_heads, layout)
    encoder = _of_policy(
        layout.remat, residual, 3 * joined + hidden + residual, heads * lengths["encoder_input_tokens"]
    )
    across = heads * (lengths["encoder_input_tokens"] + lengths["decoder_target_tokens"])
    decoder = _of_policy(layout.remat, residual, 4 * joined + hidden + 2 * residual, across)
    cross = 0 if layout.remat in ("full", "offload") else 2 * joined
    return [(source, config.num_encoder_layers * encoder + config.num_decoder_layers * cross),
            (target, config.num_decoder_layers * decoder)]  # fmt: skip


def _of_policy(remat: str, residual: float, products: float, pairs: float) -> float:
    """Numbers kept of a token in a layer."""
    if remat == "none":
        return residual + 2 * products + 2 * pairs
    return residual + (products if remat == "minimal" else 0.0)


def _working_bytes(run: runs.Run, layout: runs.Layout) -> float:
    """What one layer needs at its fullest (its gathered weights, the logits of attention), and the logits of the loss."""
    config, rows = run.model.config, _rows(run, layout)
    layers = _layers(config)
    weights = 3 * run.num_params / layers / layout.model * _itemsize(config)
    longest = max(run.lengths.values())
    attention = 3 * rows * config.num_heads / _ways(config.num_heads, layout) * longest**2 * 4
    chunk = min(run.lengths["decoder_target_tokens"], run.model.logits_chunk or 512)
    logits = 3 * rows * chunk * config.vocab_size / _ways(config.vocab_size, layout) * 4
    return max(weights + attention, logits)


def seconds(run: runs.Run, layout: runs.Layout, where: slices.Slice) -> float:
    """Of a step in which no communication hides behind computation; see `estimate.Time.slow`."""
    config, chip = run.model.config, where.chip
    if chip is None:
        return 0.0
    small, params = _itemsize(config), run.num_params
    total = run.flops * _again(run, layout) / (chip.peak * where.chips)
    if layout.remat == "offload":  # there and back, every microbatch
        kept = kept_bytes(run, dataclasses.replace(layout, remat="minimal")) - kept_bytes(run, layout)
        total += 2 * kept * layout.microbatches * where.devices_per_chip / slices.HOST_LINK
    groups = _groups(layout, where.devices)
    if layout.fsdp > 1:  # weights gathered forward and backward, gradients scattered, for every microbatch
        moved = 3 * small * params / layout.model * layout.microbatches * (layout.fsdp - 1) / layout.fsdp
        total += moved / where.bandwidth(groups["fsdp"])
    if layout.model > 1:
        blocks = 1 if getattr(config, "block", "") == "parallel" else 2
        sums = 2 * blocks + (blocks if layout.remat == "full" else 0)
        tokens = run.tokens / (layout.data * layout.fsdp)
        moved = 2 * sums * tokens * config.emb_dim * small * _layers(config) / (1 if _one_stack(config) else 2)
        total += moved * (layout.model - 1) / layout.model / where.bandwidth(groups["model"])
    if layout.data > 1:
        moved = 2 * _STORED * params / (layout.fsdp * layout.model) * (layout.data - 1) / layout.data
        total += moved / where.bandwidth(groups["data"])
    return total


def _again(run: runs.Run, layout: runs.Layout) -> float:
    """FLOPs with those of the recomputation, over the model's: of a forward pass that is a third of a step."""
    if layout.remat == "none":
        return 1.0
    if layout.remat == "full":
        return 4 / 3
    # All but products with weights is done again: products of attention.
    lengths = run.lengths
    sizes = (run.dataset.batch_size, lengths.get("encoder_input_tokens", 0), lengths["decoder_target_tokens"])
    return 1 + flops.attention(run.model.config, *sizes) / run.flops


def _groups(layout: runs.Layout, devices: Sequence[Any]) -> dict[str, list[Any]]:
    mesh = sharding.make_mesh(layout.data, layout.fsdp, layout.model, devices=devices).devices
    return {"data": list(mesh[:, 0, 0]), "fsdp": list(mesh[0, :, 0]), "model": list(mesh[0, 0, :])}


def _rows(run: runs.Run, layout: runs.Layout) -> float:
    return run.dataset.batch_size / (layout.data * layout.fsdp * layout.microbatches)


def _splits_residual(layout: runs.Layout) -> bool:
    return "model" in sharding.table(layout.rules)["activation_embed"]


def _ways(size: int, layout: runs.Layout) -> int:
    """How often the model axis splits a dimension: not at all if it does not divide it."""
    return layout.model if size % layout.model == 0 else 1


def _layers(config: api.Config) -> int:
    if isinstance(config, api.DecoderOnlyConfig):
        return config.num_layers
    return config.num_encoder_layers + config.num_decoder_layers


def _one_stack(config: api.Config) -> bool:
    return isinstance(config, api.DecoderOnlyConfig)


def _itemsize(config: api.Config) -> int:
    return 2 if config.dtype == "bfloat16" else 4


def divides(config: api.Config, model: int) -> bool:
    """Whether so many devices can share a layer's tensors evenly."""
    sizes = (config.num_heads, config.mlp_dim, config.num_heads * config.head_dim)
    return all(math.gcd(size, model) == model for size in sizes)
