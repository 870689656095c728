"""The state of a run: step, parameters, optimizer state; where each lives, and how it is laid out in a checkpoint."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import sharding
from flan_jax.models import api
from flan_jax.training import adapters

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Attributes:
    step: int32 scalar, updates done.
    params: the parameter tree, T5X's names; with an adapter, its own parameters only.
    opt_state: the optimizer's slots.
    """

    step: Any
    params: Tree
    opt_state: Tree

    def checkpoint_tree(self) -> dict[str, Any]:
        """The tree as T5X saves it: `{'target': params, 'state': {'step', 'param_states'}}`."""
        return {"target": self.params, "state": {"step": self.step, "param_states": self.opt_state}}

    @classmethod
    def from_checkpoint_tree(cls, tree: Mapping[str, Any]) -> "TrainState":
        return cls(step=tree["state"]["step"], params=tree["target"], opt_state=tree["state"]["param_states"])


def create(
    config: api.Config, optimizer: Any, rng: jax.Array, adapter: adapters.Adapter | None = None, base: Tree = None
) -> TrainState:
    """A new run's state: random parameters, or those of an adapter on the frozen `base`; empty slots, step 0."""
    params = api.init(config, rng) if adapter is None else adapter.init(base, rng)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract(config: api.Config, optimizer: Any, adapter: adapters.Adapter | None = None) -> TrainState:
    """The state's shapes; nothing is allocated."""
    base = None if adapter is None else api.abstract_params(config)
    make = functools.partial(create, config, optimizer, adapter=adapter)
    return jax.eval_shape(lambda rng, frozen: make(rng, base=frozen), jax.random.key(0), base)


def trained_axes(config: api.Config, adapter: adapters.Adapter | None = None) -> Tree:
    """The logical axes of the parameters that are trained: the model's, or the adapter's."""
    axes = api.logical_axes(config)
    return axes if adapter is None else adapter.axes(axes)


def shardings(
    config: api.Config,
    optimizer: Any,
    mesh: Any,
    rules: Any = sharding.STANDARD_RULES,
    adapter: adapters.Adapter | None = None,
) -> Any:
    """Where each array of the state lives: a `TrainState` of shardings.

    A slot is split along the axes that it shares with its parameter: a whole moment lies as the parameter does, a
    factored one as what is left of it.
    """
    shapes = abstract(config, optimizer, adapter)
    params = sharding.param_shardings(mesh, trained_axes(config, adapter), shapes.params, rules)
    slots = sharding.param_shardings(mesh, optimizer.state_axes(shapes.params), shapes.opt_state, rules)
    return TrainState(step=sharding.replicated(mesh), params=params, opt_state=slots)
