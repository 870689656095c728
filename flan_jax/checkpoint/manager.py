"""Checkpoints of a training run, on Orbax.

On disk, as T5X lays it out:

    MODEL_DIR/checkpoint_<step>/        no zero padding
      state/                            {'target': parameters, 'state': {'step': int32, 'param_states': slots}}
      dataset/                          JSON: the position in the data
      _CHECKPOINT_METADATA              Orbax's, with one fingerprint per array (see fingerprint.py) as custom metadata
      commit_success.txt                written last
    MODEL_DIR/broken_checkpoint_<step>/ one that could not be read: moved out of the way, never deleted

Orbax writes into a temporary directory and renames it, so a killed save leaves no `checkpoint_<step>` on a file system
with atomic renames; on gs:// the marker `commit_success.txt` plays that part.
"""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from flan_jax import errors
from flan_jax.checkpoint import fingerprint

logger = logging.getLogger(__name__)

PREFIX = "checkpoint"
_DIRECTORY = re.compile(rf"^{PREFIX}_(0|[1-9]\d*)$")
# What a complete checkpoint holds, in the order in which a missing one is reported.
_COMMIT = ("commit_success.txt", "_CHECKPOINT_METADATA")
_STATE = ("state/_METADATA",)
_DATASET = ("dataset/metadata",)
# Tensors named in an error about a checkpoint that does not fit the model.
_NAMED = 10


class BrokenCheckpoint(errors.FlanError):
    """A checkpoint that is half written, truncated or altered, as opposed to one of another model."""


@dataclasses.dataclass(frozen=True)
class RestoreDecision:
    """Where a run's first state comes from.

    Attributes:
      source: `model_dir`, `initial_checkpoint` or `scratch`.
      path: the checkpoint directory; None for `scratch`.
      step: the step in the directory's name; None for `scratch` and where the name has none.
      skipped: incomplete checkpoints passed over, each as `PATH: reason`.
    """

    source: Literal["model_dir", "initial_checkpoint", "scratch"]
    path: str | None = None
    step: int | None = None
    skipped: tuple[str, ...] = ()


def resolve_restore(
    model_dir: str | os.PathLike,
    restore_path: str | os.PathLike | None,
    mode: str = "specific",
    fallback_to_scratch: bool = False,
) -> RestoreDecision:
    """Decides where the first state comes from. Reads directory listings only.

    The order:
      1. The newest complete checkpoint in `model_dir`: a restarted run goes on, whatever `restore_path` says.
      2. `restore_path` (INITIAL_CHECKPOINT_PATH): with mode `specific` that checkpoint directory, with mode `latest`
         the newest complete checkpoint in that model directory. `restore_from` then loads parameters, optimizer state
         and step, as T5X does, or the parameters alone.
      3. From scratch: where `fallback_to_scratch` holds and there is no `restore_path`, or mode is `latest` and nothing
         is there yet. A `specific` path that does not exist is an error in any case: training from scratch because of a
         misspelt path costs a run.

    Incomplete checkpoints (no commit marker, a missing item) are passed over in 1 and 2 (`latest`) with a warning each.

    Raises:
      FlanError: for an unknown mode, a path that does not exist, a `model_dir` that holds another program's
        checkpoints, and where nothing is found and falling back is off.
    """
    if mode not in ("specific", "latest"):
        raise errors.unknown("restore mode", mode, ("specific", "latest"))
    _refuse_foreign(absolute(model_dir))
    ours, skipped = _newest_complete(absolute(model_dir), _COMMIT + _STATE + _DATASET)
    if ours is not None:
        return RestoreDecision("model_dir", str(ours), _step_of(ours), skipped)
    if not restore_path:
        if fallback_to_scratch:
            return RestoreDecision("scratch", skipped=skipped)
        raise errors.FlanError(
            f"no complete checkpoint in {absolute(model_dir)}, and INITIAL_CHECKPOINT_PATH is not set"
        )
    path = absolute(restore_path)
    if mode == "specific":
        _check_is_checkpoint(path)
        return RestoreDecision("initial_checkpoint", str(path), _step_of(path), skipped)
    theirs, skipped_there = _newest_complete(path, _COMMIT + _STATE)
    skipped += skipped_there
    if theirs is not None:
        return RestoreDecision("initial_checkpoint", str(theirs), _step_of(theirs), skipped)
    if fallback_to_scratch:
        return RestoreDecision("scratch", skipped=skipped)
    if not path.exists():
        raise _missing(path)
    hint = "; it is itself a checkpoint: use mode 'specific'" if (path / "state").exists() else ""
    raise errors.FlanError(f"no complete checkpoint_<step> in {path}{hint}{_listing(path)}")


class CheckpointManager:
    """Saves and restores one run's checkpoints. Every process calls every method; Orbax decides who writes what.

    Only the run that writes to a directory may open a manager on it: it removes the temporary directories left there by
    a killed run and moves half-written checkpoints aside. Evaluation uses `resolve_restore` and `restore_from`.

    Args:
      directory: MODEL_DIR; a relative one is made absolute; made if absent.
      keep: how many of the newest checkpoints stay; None keeps all.
      period: `save` writes at steps divisible by this.
      async_save: write in the background; `save` returns once the arrays are copied to the host.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int | None, period: int, async_save: bool = True) -> None:
        if keep is not None and keep < 1:
            raise errors.FlanError(f"keep is {keep}; expected at least 1, or None to keep every checkpoint")
        if period < 1:
            raise errors.FlanError(f"checkpoint period is {period}; expected at least 1 step")
        self.directory = absolute(directory)
        self._period = period
        if self.directory.exists() and not self.directory.is_dir():
            raise errors.FlanError(f"model directory {self.directory} is a file")
        _refuse_foreign(self.directory)
        for path in _checkpoints(self.directory):
            reason = _incomplete(path, _COMMIT + _STATE + _DATASET)
            if reason:
                _set_aside(path, reason)
        self._orbax = ocp.CheckpointManager(
            self.directory,
            item_names=("state", "dataset"),
            options=ocp.CheckpointManagerOptions(
                step_prefix=PREFIX,
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=async_save,
                save_root_metadata=False,
            ),
        )

    def save(self, step: int, state_tree: Any, dataset_state: Mapping[str, Any], *, force: bool = False) -> bool:
        """Saves if `step` is due. The arrays may be donated as soon as this returns.

        Args:
          step: the number of updates done.
          state_tree: `{'target': ..., 'state': {'step': ..., 'param_states': ...}}` of jax arrays.
          dataset_state: the data position; must be JSON.
          force: save although `step` is not divisible by the period (the last step of a run).

        Returns:
          Whether a checkpoint is being written: False off the period, and for a step that exists, which T5X skips too.

        Raises:
          Exception: what the previous background save died of.
        """
        if not force and step % self._period:
            return False
        if step in self._orbax.all_steps():
            logger.warning("checkpoint %s exists already: not written again", self.directory / f"{PREFIX}_{step}")
            return False
        # The copy keeps a position that the loader goes on changing out of the background write.
        dataset = json.loads(json.dumps(dataset_state))
        marks = fingerprint.fingerprints(fingerprint.named_leaves(state_tree).items())
        return self._orbax.save(
            step,
            args=ocp.args.Composite(state=ocp.args.PyTreeSave(state_tree), dataset=ocp.args.JsonSave(dataset)),
            custom_metadata={"fingerprints": marks},
            force=True,
        )

    def latest_step(self) -> int | None:
        """Returns the newest step that is completely written, or None."""
        steps = self.all_steps()
        return steps[-1] if steps else None

    def all_steps(self) -> list[int]:
        """Returns the completely written steps, ascending by number."""
        whole = [path for path in _checkpoints(self.directory) if not _incomplete(path, _COMMIT + _STATE + _DATASET)]
        return sorted(int(path.name.rsplit("_", 1)[1]) for path in whole)

    def restore(self, abstract_state_tree: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Restores one checkpoint, bit for bit, onto the shardings that are asked for.

        Args:
          abstract_state_tree: the tree to fill: jax.ShapeDtypeStruct with shardings, or arrays to take both from.
          step: which one; None takes the newest, and the one before where the newest cannot be read: each one passed
            over is named in a warning and moved to `broken_checkpoint_<step>`.

        Returns:
          The state tree and the data position.

        Raises:
          FlanError: where there is none, or where it is not one of this model's (nothing falls back on that).
          BrokenCheckpoint: where the step asked for, or every one there is, cannot be read.
        """
        self.wait()
        if step is not None:
            path = self.directory / f"{PREFIX}_{step}"
            if not path.exists():
                known = ", ".join(map(str, self.all_steps())) or "none"
                raise errors.FlanError(f"no checkpoint of step {step} in {self.directory}; steps there: {known}")
            return _read(path, abstract_state_tree)
        candidates = _checkpoints(self.directory)
        if not candidates:
            raise errors.FlanError(f"no checkpoint in {self.directory}")
        for path in candidates:
            result, problem = None, "another process could not read it"
            try:
                result = _read(path, abstract_state_tree)
            except BrokenCheckpoint as error:
                problem = str(error).removeprefix(f"checkpoint {path}: ")
            if _everywhere(result is not None) and result is not None:
                return result
            _set_aside(path, problem)
            self._orbax.reload()
        raise BrokenCheckpoint(
            f"none of the {len(candidates)} checkpoints in {self.directory} can be read; the log names each; "
            "they were moved to broken_checkpoint_<step>"
        )

    def wait(self) -> None:
        """Returns once the background save is committed; raises what it died of."""
        self._orbax.wait_until_finished()

    def close(self) -> None:
        """Waits for the background save and releases the threads."""
        self._orbax.close()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def restore_from(path: str | os.PathLike, abstract_state: Any, *, params_only: bool = False) -> Any:
    """Loads a checkpoint from anywhere, such as INITIAL_CHECKPOINT_PATH. Its data position is left alone.

    Unlike `CheckpointManager.restore`, it converts to the dtypes asked for (parameters for inference in bfloat16).

    Args:
      path: one `checkpoint_<step>` directory.
      abstract_state: the whole state tree as in `CheckpointManager.restore`; with `params_only` only 'target' is read.
      params_only: leave optimizer state and step; nothing is asked of what the checkpoint holds beside 'target'.

    Returns:
      The state tree, or `{'target': parameters}`.

    Raises:
      FlanError: if there is nothing at `path` or the tensors are not the model's.
      BrokenCheckpoint: if it cannot be read.
    """
    path = absolute(path)
    _check_is_checkpoint(path)
    wanted = {"target": abstract_state["target"]} if params_only else abstract_state
    return _read_state(path, wanted, params_only=params_only, cast=True)


def absolute(path: str | os.PathLike) -> epath.Path:
    """Returns the path as Orbax needs it: absolute, `~` expanded, gs:// and the like as they are."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


# Reading one checkpoint.


def _read(path: epath.Path, abstract_state_tree: Any) -> tuple[Any, dict[str, Any]]:
    reason = _incomplete(path, _COMMIT + _STATE + _DATASET)
    if reason:
        raise BrokenCheckpoint(f"checkpoint {path}: {reason}")
    try:
        dataset_state = json.loads((path / "dataset" / "metadata").read_text())
    except ValueError as error:
        raise BrokenCheckpoint(f"checkpoint {path}: dataset/metadata is not JSON: {error}") from error
    return _read_state(path, abstract_state_tree, params_only=False, cast=False), dataset_state


def _read_state(path: epath.Path, wanted: Any, *, params_only: bool, cast: bool) -> Any:
    """Restores the tree `wanted`: checks names, shapes and (unless `cast`) dtypes before, fingerprints afterwards."""
    try:
        stored = fingerprint.named_leaves(ocp.PyTreeCheckpointHandler().metadata(path / "state").tree)
        marks = _stored_fingerprints(path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BrokenCheckpoint(f"checkpoint {path}: metadata cannot be read: {_first_line(error)}") from error
    stored = {name: leaf for name, leaf in stored.items() if hasattr(leaf, "shape")}
    if params_only:
        stored = {name: leaf for name, leaf in stored.items() if name.startswith("target.")}
    problems = _mismatches(stored, fingerprint.named_leaves(wanted), cast)
    if problems:
        raise errors.FlanError(f"checkpoint {path} does not fit the model: {_summary(problems)}")
    abstract = jax.tree.map(_abstract, wanted)
    arguments = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=params_only,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            state = checkpointer.restore(path / "state", args=arguments)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # No room on the host or the device: the checkpoint is not to blame.
    except Exception as error:  # TensorStore's read errors arrive as a bare Exception.
        raise BrokenCheckpoint(f"checkpoint {path}: array data cannot be read: {_first_line(error)}") from error
    # A converted array has other bits than the one that was saved.
    same = [(name, leaf) for name, leaf in fingerprint.named_leaves(state).items() if leaf.dtype == stored[name].dtype]
    altered = [name for name, mark in fingerprint.fingerprints(same).items() if marks.get(name, mark) != mark]
    if altered:
        raise BrokenCheckpoint(
            f"checkpoint {path}: array data was altered after it was saved: {_some(altered)} ({len(altered)} tensors)"
        )
    return state


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _stored_fingerprints(path: epath.Path) -> dict[str, int]:
    """Returns what `save` noted; nothing for a checkpoint written by another program."""
    file = path / "_CHECKPOINT_METADATA"
    if not file.exists():
        return {}
    return (json.loads(file.read_text()).get("custom_metadata") or {}).get("fingerprints", {})


def _mismatches(stored: Mapping[str, Any], wanted: Mapping[str, Any], cast: bool) -> dict[str, list[str]]:
    """Returns kind of mismatch -> tensors, each with the shapes in the checkpoint and in the model."""
    found: dict[str, list[str]] = {
        "missing in the checkpoint": [],
        "not in the model": [],
        "of another shape": [],
        "of another dtype": [],
    }
    for name, leaf in wanted.items():
        if name not in stored:
            found["missing in the checkpoint"].append(f"{name} {_shape(leaf)}{_renamed(name, leaf, stored, wanted)}")
        elif tuple(stored[name].shape) != tuple(leaf.shape):
            found["of another shape"].append(f"{name}: checkpoint {_shape(stored[name])}, model {_shape(leaf)}")
        elif not cast and np.dtype(stored[name].dtype) != np.dtype(leaf.dtype):
            found["of another dtype"].append(f"{name}: checkpoint {stored[name].dtype}, model {np.dtype(leaf.dtype)}")
    found["not in the model"] = [f"{name} {_shape(leaf)}" for name, leaf in stored.items() if name not in wanted]
    return {kind: names for kind, names in found.items() if names}


def _renamed(name: str, leaf: Any, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Returns the hint for a tensor that the checkpoint seems to hold under another name."""
    same_shape = [other for other in stored if other not in wanted and tuple(stored[other].shape) == tuple(leaf.shape)]
    hint = errors.nearest(name, same_shape)
    return f" ({hint[2:]})" if "did you mean" in hint else ""


def _summary(problems: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", ... ({len(names) - _NAMED} more)" if len(names) > _NAMED else "")


def _shape(leaf: Any) -> str:
    return "(" + ", ".join(map(str, leaf.shape)) + ")"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# Directories.


def _checkpoints(directory: epath.Path) -> list[epath.Path]:
    """Returns the `checkpoint_<step>` directories, whole or not, highest step first."""
    if not directory.exists():
        return []
    found = [path for path in directory.iterdir() if _DIRECTORY.match(path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("_", 1)[1]), reverse=True)


def _step_of(path: epath.Path) -> int | None:
    match = _DIRECTORY.match(path.name)
    return int(match.group(1)) if match else None


def _incomplete(path: epath.Path, needed: Sequence[str]) -> str:
    """Returns what is wrong with the directory as far as a listing shows, or ''."""
    absent = [name for name in needed if not (path / name).exists()]
    return f"half written: {absent[0]} is missing" if absent else ""


def _newest_complete(directory: epath.Path, needed: Sequence[str]) -> tuple[epath.Path | None, tuple[str, ...]]:
    """Returns the newest complete checkpoint, and the newer ones passed over, which are also logged."""
    skipped: list[str] = []
    for path in _checkpoints(directory):
        reason = _incomplete(path, needed)
        if not reason:
            return path, tuple(skipped)
        skipped.append(f"{path}: {reason}")
        logger.warning("checkpoint %s is passed over: %s", path, reason)
    return None, tuple(skipped)


def _set_aside(path: epath.Path, reason: str) -> None:
    """Renames a broken checkpoint, so that its step can be written again and nothing is lost."""
    target = path.parent / f"broken_{path.name}"
    number = 1
    while target.exists():
        number += 1
        target = path.parent / f"broken_{path.name}_{number}"
    logger.warning("checkpoint %s is passed over and moved to %s: %s", path, target.name, reason)
    # Nobody renames before everybody has listed the directory, and nobody goes on before it is renamed.
    _sync(f"listed {path.name}")
    if jax.process_index() == 0:
        path.rename(target)
    _sync(f"set aside {path.name}")


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"flan_jax checkpoint: {name}")


def _everywhere(here: bool) -> bool:
    """Returns whether it holds in every process, so that all of them fall back together."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


def _refuse_foreign(model_dir: epath.Path) -> None:
    """T5X's checkpoints hold no data position of ours: they must not be taken for half-written ones and moved aside."""
    for path in _checkpoints(model_dir):
        committed = not _incomplete(path, _COMMIT + _STATE)
        try:
            foreign = committed and not _stored_fingerprints(path)
        except ValueError:  # Damaged, not foreign.
            foreign = False
        if foreign or (path / PREFIX).exists():
            raise errors.FlanError(
                f"{path} was written by another program (T5X?) and its data position cannot be continued: use another "
                "MODEL_DIR, with this checkpoint as INITIAL_CHECKPOINT_PATH"
            )


def _check_is_checkpoint(path: epath.Path) -> None:
    if not path.exists():
        raise _missing(path)
    if _incomplete(path, _STATE):
        inside = _checkpoints(path)
        if inside:
            raise errors.FlanError(
                f"{path} is a model directory, not a checkpoint: use mode 'latest', or give e.g. {inside[0].name} in it"
            )
        if (path / PREFIX).exists():
            raise errors.FlanError(
                f"{path} is in T5X's legacy format (a msgpack file 'checkpoint'); expected an Orbax checkpoint"
            )
        raise errors.FlanError(f"{path} is not a checkpoint: state/_METADATA is missing{_listing(path)}")


def _missing(path: epath.Path) -> errors.FlanError:
    """Builds the error for a path that does not exist: the nearest names in its deepest parent that does."""
    name, parent = path.name, path.parent
    while not parent.exists() and parent != parent.parent:
        name, parent = parent.name, parent.parent
    hint = errors.nearest(name, (child.name for child in parent.iterdir())) if parent.is_dir() else ""
    return errors.FlanError(f"no checkpoint at {path}: {parent} has no {name!r}{hint}")


def _listing(path: epath.Path) -> str:
    if not path.is_dir():
        return f"; {path} is a file"
    names = sorted(child.name for child in path.iterdir())
    return f"; it holds: {_some(names)}" if names else "; it is empty"
