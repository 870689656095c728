"""Optimizers behind one interface, Adafactor exactly as in T5X, and T5X's learning-rate schedules.

The training step knows only `Optimizer`. Adafactor is our own because optax.adafactor differs from T5X's by 35% of an
update on 3-D attention kernels and by 49% on scanned layers (measured).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flan_jax import errors

Tree = Any


class Optimizer(Protocol):
    """What the training step asks of an optimizer. All methods are pure and may be traced."""

    def with_axes(self, axes: Tree) -> "Optimizer":
        """Returns the optimizer told the parameters' logical axes (`models.api.logical_axes`)."""
        ...

    def init(self, params: Tree) -> Tree:
        """Returns the state before the first step."""
        ...

    def update(
        self, grads: Tree, opt_state: Tree, params: Tree, step: jax.Array | int, learning_rate: jax.Array | float
    ) -> tuple[Tree, Tree]:
        """Takes step number `step` (from 0); returns the new parameters and the new state."""
        ...

    def state_axes(self, params: Tree) -> Tree:
        """Returns the state's tree with a tuple of logical axis names (or None) for each array."""
        ...


# Logical axis -> its part in factoring the second moment (T5X's standard_logical_factor_rules). A `batch` axis numbers
# parameters that are stacked for convenience: each keeps its own scale, clipping and statistics.
STANDARD_FACTOR_RULES: Mapping[str, str] = {
    "vocab": "column",
    "embed": "row",
    "mlp": "column",
    "heads": "column",
    "kv": "column",
    "joined_kv": "column",
    "relpos_buckets": "none",
    "layers": "batch",
    "stack": "batch",
    "q_wi_fused": "column",
    "o_wo_fused": "column",
    "multiquery_heads": "column",
    "kv_fused": "column",
    "layer_norm_scale": "none",
    # Not T5X's: adapters are too small for factors of their second moment to save anything.
    "lora_rank": "none",
    "prompt": "none",
}
_PARTS = {"row": "row", "column": "column", "col": "column", "batch": "batch", "none": "none", "unfactorized": "none"}


def standard_logical_factor_rules() -> dict[str, str]:
    """T5X's name for a copy of `STANDARD_FACTOR_RULES`, as gin files call it."""
    return dict(STANDARD_FACTOR_RULES)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How one parameter is treated.

    Attributes:
      average: axes over which its scale and its clipping are averaged (all but the stacked ones).
      row: axes kept by `v_row` next to stacked ones; None if the second moment is kept whole.
      column: axes kept by `v_col` likewise.
    """

    average: tuple[int, ...]
    row: tuple[int, ...] | None = None
    column: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Adafactor:
    """Adafactor (Shazeer and Stern 2018) with T5X's factoring, scaling and defaults.

    The state has the parameters' tree with {'m', 'v', 'v_col', 'v_row'} at each leaf, float32; a slot that is not used
    is zeros of shape (1,), as in T5X's checkpoints.

    Attributes:
      learning_rate: used where `update` is given none.
      factored: keep row and column means of the second moment instead of the whole.
      multiply_by_parameter_scale: steps relative to the parameter's root mean square.
      beta1: momentum; None keeps no momentum.
      decay_rate: second-moment decay is 1 - (step + 1)^-decay_rate.
      step_offset: subtracted from the step in that decay, to restart it for finetuning.
      clipping_threshold: largest root mean square of an update; None for no limit.
      weight_decay_rate: fraction by which parameters shrink each step.
      min_dim_size_to_factor: smallest size of the two largest axes for which a matrix is factored.
      epsilon1: added to squared gradients.
      epsilon2: smallest parameter scale.
      dtype_momentum: type in which momentum is kept.
      logical_factor_rules: logical axis -> 'row', 'column', 'batch' or 'none'; decides for rank 3 and above and for
        stacked parameters only (T5X falls back to the two largest axes for matrices). None decides by size alone.
      weight_decay_rate_lr_exponent: weight decay is learning_rate^this, times weight_decay_rate if given.
      global_norm_clip_threshold: largest global norm of the gradients.
      max_parameter_scale: largest parameter scale.
      skip_nan_updates: keep the old value wherever the new one is NaN.
      axes: the parameters' logical axes; set by `with_axes`.
    """

    learning_rate: float | None = None
    factored: bool = True
    multiply_by_parameter_scale: bool = True
    beta1: float | None = None
    decay_rate: float = 0.8
    step_offset: int = 0
    clipping_threshold: float | None = 1.0
    weight_decay_rate: float | None = None
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    dtype_momentum: Any = jnp.float32
    logical_factor_rules: Mapping[str, str] | None = None
    weight_decay_rate_lr_exponent: float | None = None
    global_norm_clip_threshold: float | None = None
    max_parameter_scale: float | None = None
    skip_nan_updates: bool = False
    axes: Tree = None

    def with_axes(self, axes: Tree) -> "Adafactor":
        return dataclasses.replace(self, axes=axes)

    def init(self, params: Tree) -> Tree:
        leaves, treedef = jax.tree.flatten(params)
        states = []
        for param, plan in zip(leaves, self._plans(params), strict=True):
            state = {name: jnp.zeros((1,), jnp.float32) for name in ("m", "v", "v_col", "v_row")}
            if plan.row is None or plan.column is None:
                state["v"] = jnp.zeros(param.shape, jnp.float32)
            else:
                state["v_row"] = jnp.zeros(np.delete(param.shape, plan.column), jnp.float32)
                state["v_col"] = jnp.zeros(np.delete(param.shape, plan.row), jnp.float32)
            if self.beta1 is not None:
                state["m"] = jnp.zeros(param.shape, self.dtype_momentum)
            states.append(state)
        return jax.tree.unflatten(treedef, states)

    def update(
        self,
        grads: Tree,
        opt_state: Tree,
        params: Tree,
        step: jax.Array | int,
        learning_rate: jax.Array | float | None = None,
    ) -> tuple[Tree, Tree]:
        rate = self.learning_rate if learning_rate is None else learning_rate
        if rate is None:
            raise errors.FlanError("Adafactor needs a learning_rate, in its arguments or for each step; given neither")
        leaves, treedef = jax.tree.flatten(params)
        flat_grads = [grad.astype(jnp.float32) for grad in treedef.flatten_up_to(grads)]
        if self.global_norm_clip_threshold:
            limit = self.global_norm_clip_threshold
            norm = jnp.sqrt(sum((jnp.sum(jnp.square(grad)) for grad in flat_grads), start=jnp.float32(0.0)))
            scale = limit * jnp.minimum(1.0 / limit, 1.0 / norm)
            flat_grads = [grad * scale for grad in flat_grads]
        decay = 1.0 - (jnp.asarray(step - self.step_offset, jnp.float32) + 1.0) ** (-self.decay_rate)
        updated = [
            self._update_one(param, grad, state, plan, decay, rate)
            for param, grad, state, plan in zip(
                leaves, flat_grads, treedef.flatten_up_to(opt_state), self._plans(params), strict=True
            )
        ]
        new_params = jax.tree.unflatten(treedef, [param for param, _ in updated])
        return new_params, jax.tree.unflatten(treedef, [state for _, state in updated])

    def state_axes(self, params: Tree) -> Tree:
        leaves, treedef = jax.tree.flatten(params)
        if self.axes is None:
            raise errors.FlanError("Adafactor.state_axes needs the parameters' logical axes; call with_axes first")
        states = []
        for axes, plan in zip(treedef.flatten_up_to(self.axes), self._plans(params), strict=True):
            state: dict[str, tuple[str | None, ...]] = dict.fromkeys(("m", "v", "v_col", "v_row"), (None,))
            if plan.row is None or plan.column is None:
                state["v"] = axes
            else:
                state["v_row"] = tuple(name for axis, name in enumerate(axes) if axis not in plan.column)
                state["v_col"] = tuple(name for axis, name in enumerate(axes) if axis not in plan.row)
            if self.beta1 is not None:
                state["m"] = axes
            states.append(state)
        del leaves
        return jax.tree.unflatten(treedef, states)

    def _plans(self, params: Tree) -> list[_Plan]:
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        axes = [None] * len(paths) if self.axes is None else treedef.flatten_up_to(self.axes)
        return [
            self._plan(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, names)
            for (path, leaf), names in zip(paths, axes, strict=True)
        ]

    def _plan(self, path: str, shape: tuple[int, ...], axes: tuple[str, ...] | None) -> _Plan:
        everything = tuple(range(len(shape)))
        if not self.factored:
            return _Plan(everything)
        if self.logical_factor_rules is None or axes is None:
            if len(shape) > 2:
                raise errors.FlanError(
                    f"Adafactor cannot tell which axes of {path} {shape} to factor: "
                    "rank 3 and above needs logical_factor_rules and with_axes"
                )
            return self._plan_by_size(shape)
        parts = [self._part(path, name) for name in axes]
        stacked = [axis for axis, part in enumerate(parts) if part == "batch"]
        if len(shape) <= 2 and not stacked:
            return self._plan_by_size(shape)
        average = tuple(axis for axis in everything if axis not in stacked)
        row = tuple(axis for axis, part in enumerate(parts) if part == "row")
        column = tuple(axis for axis, part in enumerate(parts) if part == "column")
        if not row or not column:
            return _Plan(average)
        if "none" in parts:
            raise errors.FlanError(f"Adafactor rules for {path} {axes} mix row, column and none: {tuple(parts)}")
        return _Plan(average, row, column)

    def _part(self, path: str, name: str) -> str:
        rules = self.logical_factor_rules or {}
        if name not in rules:
            raise errors.unknown(f"logical axis of {path} in logical_factor_rules", name, rules)
        part = str(rules[name]).lower()
        if part not in _PARTS:
            raise errors.unknown("factoring rule", part, _PARTS)
        return _PARTS[part]

    def _plan_by_size(self, shape: tuple[int, ...]) -> _Plan:
        """The largest axis is averaged away in `v_row`, the second largest in `v_col`; ties go by position."""
        everything = tuple(range(len(shape)))
        order = [int(axis) for axis in np.argsort(shape, kind="stable")]
        if len(shape) < 2 or shape[order[-2]] < self.min_dim_size_to_factor:
            return _Plan(everything)
        return _Plan(everything, row=(order[-2],), column=(order[-1],))

    def _update_one(
        self, param: jax.Array, grad: jax.Array, state: dict[str, jax.Array], plan: _Plan, decay: jax.Array, rate: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        old = param.astype(jnp.float32)
        new_state = dict(state)
        squared = jnp.square(grad) + self.epsilon1
        if plan.row is None or plan.column is None:
            new_state["v"] = decay * state["v"] + (1.0 - decay) * squared
            direction = grad * new_state["v"] ** -0.5
        else:
            v_row = decay * state["v_row"] + (1.0 - decay) * jnp.mean(squared, axis=plan.column)
            v_col = decay * state["v_col"] + (1.0 - decay) * jnp.mean(squared, axis=plan.row)
            new_state.update(v_row=v_row, v_col=v_col)
            # Where the row axes stand in v_row, which has lost the column axes.
            kept = tuple(axis - sum(gone < axis for gone in plan.column) for axis in plan.row)
            row_factor = (v_row / jnp.mean(v_row, axis=kept, keepdims=True)) ** -0.5
            direction = grad * jnp.expand_dims(row_factor, plan.column) * jnp.expand_dims(v_col**-0.5, plan.row)
        if self.clipping_threshold is not None:
            size = jnp.sqrt(jnp.mean(jnp.square(direction), axis=plan.average, keepdims=True))
            direction = direction / jnp.maximum(1.0, size / self.clipping_threshold)
        scale = rate
        if self.multiply_by_parameter_scale:
            own = jnp.sqrt(jnp.mean(jnp.square(old), axis=plan.average, keepdims=True))
            own = jnp.maximum(own, self.epsilon2)
            scale = rate * (own if self.max_parameter_scale is None else jnp.minimum(own, self.max_parameter_scale))
        change = scale * direction
        if self.beta1 is not None:
            change = self.beta1 * state["m"].astype(jnp.float32) + (1.0 - self.beta1) * change
            new_state["m"] = change.astype(self.dtype_momentum)
        weight_decay = self.weight_decay_rate
        if self.weight_decay_rate_lr_exponent:
            weight_decay = (1.0 if weight_decay is None else weight_decay) * rate**self.weight_decay_rate_lr_exponent
        new = (old if weight_decay is None else (1.0 - weight_decay) * old) - change
        if self.skip_nan_updates:
            new_state = {name: jnp.where(jnp.isnan(value), state[name], value) for name, value in new_state.items()}
            new = jnp.where(jnp.isnan(new), old, new)
        return new.astype(param.dtype), new_state


@dataclasses.dataclass(frozen=True, eq=False)
class OptaxOptimizer:
    """Any optax optimizer, driven by the learning rate of the step.

    Attributes:
      make: called with `learning_rate=...`, returns the transformation: `optax.adamw`, or a partial of it.
      axes: the parameters' logical axes; set by `with_axes`.
    """

    make: Callable[..., optax.GradientTransformation] = optax.adamw
    axes: Tree = None

    def with_axes(self, axes: Tree) -> "OptaxOptimizer":
        return dataclasses.replace(self, axes=axes)

    def init(self, params: Tree) -> Tree:
        return self.make(learning_rate=0.0).init(params)

    def update(
        self, grads: Tree, opt_state: Tree, params: Tree, step: jax.Array | int, learning_rate: jax.Array | float
    ) -> tuple[Tree, Tree]:
        del step  # optax counts in its own state
        # An optax transformation is a pair of pure functions, so it can be made anew around each step's learning rate.
        updates, opt_state = self.make(learning_rate=learning_rate).update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def state_axes(self, params: Tree) -> Tree:
        if self.axes is None:
            raise errors.FlanError("OptaxOptimizer.state_axes needs the parameters' logical axes; call with_axes first")
        transformation = self.make(learning_rate=0.0)
        return optax.tree_map_params(
            transformation,
            lambda _, names: names,
            jax.eval_shape(transformation.init, params),
            self.axes,
            transform_non_params=lambda leaf: (None,) * len(leaf.shape),
        )


def adamw(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    clip_global_norm: float | None = None,
) -> OptaxOptimizer:
    """AdamW (Loshchilov and Hutter 2017), with Adam's two moments in float32 (t5x: `optimizers.adamw`, optax's defaults).

    Args:
      b1: decay of the gradients' mean.
      b2: decay of their mean square.
      eps: added to its root.
      weight_decay: times the learning rate, what parameters shrink by each step.
      clip_global_norm: largest norm of all gradients together; None for no limit.
    """

    def make(learning_rate: Any) -> optax.GradientTransformation:
        step = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
        return step if clip_global_norm is None else optax.chain(optax.clip_by_global_norm(clip_global_norm), step)

    return OptaxOptimizer(make)


_SCHEDULE_FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)


def create_learning_rate_scheduler(
    factors: str = "constant * linear_warmup * rsqrt_decay",
    base_learning_rate: float = 0.5,
    warmup_steps: int = 1000,
    decay_factor: float = 0.5,
    steps_per_decay: int = 20000,
    steps_per_cycle: int = 100000,
    step_offset: int = 0,
    min_learning_rate: float = 1e-8,
) -> Callable[[jax.Array | int], jax.Array]:
    """Builds T5X's learning-rate schedule, a product of named factors.

    Args:
      factors: names joined by `*`: constant (base_learning_rate), linear_warmup (step / warmup_steps up to 1),
        linear_decay (warm-up to base_learning_rate, then minus decay_factor per step; brings its own
        base_learning_rate), rsqrt_decay (1 / sqrt of the larger of step and warmup_steps), rsqrt_normalized_decay (the
        same times sqrt(warmup_steps)), decay_every (decay_factor every steps_per_decay steps), cosine_decay (from
        warmup_steps on, cycle by cycle).
      base_learning_rate: the constant.
      warmup_steps: length of the warm-up.
      decay_factor: see factors.
      steps_per_decay: see factors.
      steps_per_cycle: length of a cosine cycle.
      step_offset: subtracted from the step.
      min_learning_rate: the result is never below.

    Returns:
      A function of the step to a float32 scalar.

    Raises:
      FlanError: an unknown factor.
    """
    names = [name.strip() for name in factors.split("*")]
    for name in names:
        if name not in _SCHEDULE_FACTORS:
            raise errors.unknown("learning-rate factor", name, _SCHEDULE_FACTORS)

    def factor(name: str, step: jax.Array) -> jax.Array | float:
        later = jnp.maximum(step, warmup_steps).astype(jnp.float32)
        match name:
            case "constant":
                return base_learning_rate
            case "linear_warmup":
                return jnp.minimum(1.0, step / warmup_steps)
            case "linear_decay":
                return base_learning_rate * jnp.minimum(step / warmup_steps, 1.0 + decay_factor * (warmup_steps - step))
            case "rsqrt_decay":
                return 1.0 / jnp.sqrt(later)
            case "rsqrt_normalized_decay":
                return jnp.sqrt(jnp.float32(warmup_steps)) / jnp.sqrt(later)
            case "decay_every":
                return jnp.float32(decay_factor) ** (step // steps_per_decay)
        progress = jnp.maximum(0.0, (step - warmup_steps) / float(steps_per_cycle))
        return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.maximum(0, jnp.asarray(step) - step_offset)
        value = jnp.float32(1.0)
        for name in names:
            value = value * factor(name, step)
        return jnp.maximum(value, min_learning_rate).astype(jnp.float32)

    return schedule
