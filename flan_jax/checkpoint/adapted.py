"""Adapters on disk: checkpoints that hold an adapter alone and say which frozen parameters it belongs to; merging.

Such a checkpoint is one like any other (see `manager`), with the adapter's parameters as its `target` and the optimizer's state
of those only. Its notes say what the adapter is, and of its base the path, the step and the fingerprint:

    {"adapter": {"kind": "LoRA", "rank": 8, ...}, "base": {"path": ..., "step": 30000, "fingerprint": "8c1f..."}}
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import errors, sharding
from flan_jax.checkpoint import fingerprint, folders, manager, t5x_files, tensors
from flan_jax.models import api
from flan_jax.training import adapters, configs

logger = logging.getLogger(__name__)

Tree = Any


def open_base(
    adapter: adapters.Adapter | None,
    config: api.Config,
    restore: configs.RestoreCheckpointConfig | None,
    mesh: Any,
    rules: sharding.Rules = sharding.STANDARD_RULES,
) -> adapters.Tuning | None:
    """Loads the parameters that a run of an adapter leaves alone; None without an adapter.

    Raises:
      FlanError: no checkpoint is named, it is not there, does not fit the model, or holds an adapter itself.
    """
    if adapter is None:
        return None
    if restore is None:
        raise errors.FlanError(
            "an adapter (train_script.train.adapter) needs the model that it adapts: expected INITIAL_CHECKPOINT_PATH and "
            "utils.CheckpointConfig.restore = @utils.RestoreCheckpointConfig(), as in adapters/lora.gin"
        )
    path, step = locate(restore.path, restore.mode)
    if "adapter" in manager.notes(path):
        raise _is_adapter(path)
    shapes = api.abstract_params(config)
    places = sharding.param_shardings(mesh, api.logical_axes(config), shapes, rules)
    placed = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, places)
    base = manager.restore_from(path, {"target": placed}, params_only=True)["target"]
    about = {"path": path, "step": step, "fingerprint": digest(base)}
    return adapters.Tuning(adapter, base, {"adapter": adapters.settings(adapter), "base": about})


def check(decision: manager.RestoreDecision, tuning: adapters.Tuning | None) -> None:
    """Refuses to continue a run with another adapter or on another base, or as what it is not.

    Raises:
      FlanError: what `decision` found is an adapter's and this run has none; is not and this run has one; is another
        adapter's; belongs to another base.
    """
    if decision.path is None or (decision.source == "initial_checkpoint" and tuning is not None):
        return
    path = manager.absolute(decision.path)
    if decision.source == "initial_checkpoint":
        if "adapter" in (_readable_notes(path) or {}):
            raise _is_adapter(str(path))
        return
    # Where the newest cannot be read, the run continues an older one: those of one directory belong to one run.
    readable = map(_readable_notes, folders.checkpoints(path.parent))
    found = next((notes for notes in readable if notes is not None), {})
    if tuning is None:
        if "adapter" in found:
            raise errors.FlanError(
                f"{path.parent} holds a run of the adapter {found['adapter'].get('kind')}, and this run has none: give the "
                "adapter's gin file (adapters/lora.gin, adapters/prompt_tuning.gin), or another MODEL_DIR"
            )
        return
    if "adapter" not in found:
        raise errors.FlanError(
            f"{path.parent} holds checkpoints of a whole model, which an adapter cannot continue: use another MODEL_DIR, "
            "with one of these checkpoints as INITIAL_CHECKPOINT_PATH"
        )
    before, now = found["adapter"], tuning.record["adapter"]
    differ = [
        f"{name} = {before.get(name)!r}, this run has {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if differ:
        raise errors.FlanError(f"the adapter in {path.parent} has {'; '.join(differ)}: use another MODEL_DIR")
    _check_base(str(path), found["base"], tuning.record["base"])


def load_params(
    path: str | os.PathLike, placed: Tree, *, mesh: Any = None, base_path: str | os.PathLike | None = None
) -> Tree:
    """The parameters that a model computes with, of any checkpoint: a model's own, or an adapter's applied to its base.

    Args:
      path: one `checkpoint_<step>` directory.
      placed: the model's parameters as `ShapeDtypeStruct`s with shardings.
      mesh: the mesh of these shardings, on all of which an adapter's few parameters are copied.
      base_path: the checkpoint of the base, where it is not (any more) at the path that the adapter's checkpoint names.

    Raises:
      FlanError: nothing is there, the tensors are not the model's, or the base is not the one that was adapted.
      BrokenCheckpoint: a checkpoint cannot be read.
    """
    if "adapter" not in manager.notes(path):
        return manager.restore_from(path, {"target": placed}, params_only=True)["target"]
    adapter, base, params = _load(str(manager.absolute(path)), placed, mesh, base_path)
    return adapter.apply(base, params)


def merge(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    base_path: str | os.PathLike | None = None,
    undo: str | os.PathLike | None = None,
) -> str:
    """Writes the sum of a LoRA adapter and its base as a checkpoint of a model: parameters, no optimizer state.

    Its step is the base's plus the adapter's.

    Args:
      source: the adapter's MODEL_DIR, of which the newest checkpoint is taken, or one checkpoint.
      out: directory that gets `checkpoint_<step>`.
      base_path: as in `load_params`.
      undo: a merged checkpoint, from which the adapter is taken away again; what is written is the base, up to one rounding
        of each number.

    Returns:
      The path written.

    Raises:
      FlanError: `source` holds no LoRA adapter, or what would be written is there already.
    """
    path, step = locate(source)
    notes = manager.notes(path)
    if "adapter" not in notes:
        raise errors.FlanError(
            f"{path} holds no adapter; expected a run with train_script.train.adapter, or its checkpoint"
        )
    adapter = adapters.from_settings(notes["adapter"])
    if not isinstance(adapter, adapters.LoRA):
        raise errors.FlanError(
            f"{path} holds {adapter.kind}, which changes no weight of the model and cannot be merged into them; "
            "`flan eval` loads it with its base"
        )
    steps = notes["base"].get("step") or 0
    steps += 0 if undo else step or 0
    written = manager.absolute(out) / f"{manager.PREFIX}_{steps}"
    if written.exists():
        raise errors.FlanError(f"{written} exists already; expected a directory without it")
    if undo:
        merged, _ = locate(undo)
        whole = manager.restore_from(merged, {"target": _stored(merged)}, params_only=True)["target"]
        result = adapter.unapply(whole, _own(path, adapter, whole, None))
    else:
        where = _base_of(path, base_path)
        adapter, base, params = _load(path, _stored(where), None, where)
        result = adapter.apply(base, params)
    state = {"target": result, "state": {"step": jnp.int32(steps), "param_states": {}}}
    history = {"unmerged_from" if undo else "merged_from": {"path": path, **notes}}
    history = {name: {key: value for key, value in of.items() if key != "fingerprints"} for name, of in history.items()}
    with manager.CheckpointManager(out, keep=None, period=1, async_save=False, notes=history) as checkpoints:
        checkpoints.save(steps, state, {}, force=True)
    return str(written)


def locate(path: str | os.PathLike, mode: str | None = None) -> tuple[str, int | None]:
    """The checkpoint that a path means, and its step if its name has one.

    Args:
      path: a checkpoint, or a directory of them, of which the newest is taken.
      mode: `specific` or `latest` insists on one or the other.
    """
    path = manager.absolute(path)
    chosen = mode or ("specific" if folders.is_checkpoint(path) else "latest")
    # No run is there to be continued: what is asked for is `path`.
    decision = manager.resolve_restore(path / "none", path, chosen)
    if decision.path is None:
        raise errors.FlanError(f"no checkpoint in {path}")
    return decision.path, decision.step


def digest(params: Tree) -> str:
    """16 hexadecimal digits that stand for every number of a tree and every name: other parameters have others."""
    marks = fingerprint.fingerprints(fingerprint.named_leaves(params).items())
    text = "\n".join(f"{name}={mark}" for name, mark in sorted(marks.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(
    path: str, placed: Tree, mesh: Any, base_path: str | os.PathLike | None
) -> tuple[adapters.Adapter, Tree, Tree]:
    """The adapter of a checkpoint, its base, and its own parameters."""
    notes = manager.notes(path)
    adapter = adapters.from_settings(notes["adapter"])
    where = _base_of(path, base_path)
    base = manager.restore_from(where, {"target": placed}, params_only=True)["target"]
    _check_base(path, notes["base"], {"path": where, "fingerprint": digest(base)})
    logger.info("adapter %s on %s", path, where)
    return adapter, base, _own(path, adapter, base, mesh)


def _own(path: str, adapter: adapters.Adapter, base: Tree, mesh: Any) -> Tree:
    """The adapter's own parameters."""
    place = None if mesh is None else sharding.replicated(mesh)
    shapes = jax.eval_shape(adapter.init, base, jax.random.key(0))
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    return manager.restore_from(path, {"target": wanted}, params_only=True)["target"]


def _base_of(path: str, base_path: str | os.PathLike | None) -> str:
    """The checkpoint of the base of the adapter at `path`."""
    if base_path is not None:
        return locate(base_path)[0]
    recorded = manager.notes(path)["base"]["path"]
    if not manager.absolute(recorded).exists():
        raise errors.FlanError(
            f"the base of the adapter {path} was {recorded}, which does not exist; say where it is now: "
            "utils.RestoreCheckpointConfig.base_path, or flan merge --base"
        )
    return recorded


def _stored(path: str) -> Tree:
    """The parameters that a checkpoint holds, as shapes; in float32, in which a base is fingerprinted."""
    stored = t5x_files.Reader(path).tensors
    leaves = {tuple(name.split(".")): jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for name, leaf in stored.items()}
    return tensors.nested(leaves)["target"]


def _readable_notes(path: Any) -> dict[str, Any] | None:
    """The notes of a checkpoint, None where it is damaged: the manager says so and passes it over."""
    try:
        return manager.notes(path)
    except ValueError:
        return None


def _check_base(path: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    if expected.get("fingerprint") != found["fingerprint"]:
        raise errors.FlanError(
            f"{path} is an adapter of {expected.get('path')} (step {expected.get('step')}, fingerprint "
            f"{expected.get('fingerprint')}), but the base given is {found['path']}, whose parameters are others "
            f"(fingerprint {found['fingerprint']})"
        )


def _is_adapter(path: str) -> errors.FlanError:
    return errors.FlanError(
        f"{path} holds an adapter, not a model to start from; merge it first: flan merge --in {path} --out DIR"
    )
