"""Checkpoints of a training run, on Orbax.

On disk, as T5X lays it out:

    MODEL_DIR/checkpoint_<step>/        no zero padding
      state/                            {'target': parameters, 'state': {'step': int32, 'param_states': slots}}
      dataset/                          JSON: the position in the data
      _CHECKPOINT_METADATA              Orbax's, with one fingerprint per array (see fingerprint.py) as custom metadata
      commit_success.txt                written last
    MODEL_DIR/broken_checkpoint_<step>/ one that could not be read while an older one could: moved aside, never deleted

Orbax writes into a temporary directory and renames it, so a killed save leaves no `checkpoint_<step>` on a file system
with atomic renames; on gs:// the marker `commit_success.txt` plays that part.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from flan_jax import errors
from flan_jax.checkpoint import disk_full, fingerprint, folders, t5x_files, t5x_tree
from flan_jax.checkpoint import tensors as tensors_lib

logger = logging.getLogger(__name__)

# What the rest of flan_jax asks of checkpoints is here, wherever it is written down.
PREFIX, notes = folders.PREFIX, folders.notes
absolute, BrokenCheckpoint = tensors_lib.absolute, tensors_lib.BrokenCheckpoint
StorageUnavailable = tensors_lib.StorageUnavailable


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

    2 and 3 are refused where `model_dir` holds checkpoints that were whole once (`broken_checkpoint_<step>` included) and
    none that is: they would throw away what the run had trained. Incomplete checkpoints (no commit marker, a missing
    item) are passed over in 1 and 2 (`latest`) with a warning each.

    Raises:
      FlanError: for an unknown mode, a path that does not exist, a `model_dir` that holds another program's
        checkpoints or only damaged ones, where nothing is found and falling back is off, and where the storage does not
        answer.
    """
    if mode not in ("specific", "latest"):
        raise errors.unknown("restore mode", mode, ("specific", "latest"))
    with tensors_lib.reading(absolute(model_dir), "the list of checkpoints"):
        folders.refuse_foreign(absolute(model_dir))
        ours, skipped = folders.newest_complete(absolute(model_dir), folders.OWN)
        if ours is not None:
            return RestoreDecision("model_dir", str(ours), folders.step_of(ours), skipped)
        folders.refuse_lost(absolute(model_dir))
    if not restore_path:
        if fallback_to_scratch:
            return RestoreDecision("scratch", skipped=skipped)
        raise errors.FlanError(
            f"no complete checkpoint in {absolute(model_dir)}, and INITIAL_CHECKPOINT_PATH is not set"
        )
    path = absolute(restore_path)
    if mode == "specific":
        folders.check_is_checkpoint(path)
        return RestoreDecision("initial_checkpoint", str(path), folders.step_of(path), skipped)
    theirs, skipped_there = folders.newest_complete(path, folders.WHOLE)
    skipped += skipped_there
    if theirs is not None:
        return RestoreDecision("initial_checkpoint", str(theirs), folders.step_of(theirs), skipped)
    if fallback_to_scratch:
        return RestoreDecision("scratch", skipped=skipped)
    if not path.exists():
        raise folders.missing(path)
    hint = "; it is itself a checkpoint: use mode 'specific'" if folders.is_checkpoint(path) else ""
    raise errors.FlanError(f"no complete checkpoint_<step> in {path}{hint}{folders.listing(path)}")


class CheckpointManager:
    """Saves and restores one run's checkpoints. Every process calls every method; Orbax decides who writes what.

    Only the run that writes to a directory may open a manager on it: it removes the temporary directories left there by
    a killed run and moves half-written checkpoints aside (one that was whole once only where another still is).
    Evaluation uses `resolve_restore` and `restore_from`.

    Args:
      directory: MODEL_DIR; a relative one is made absolute; made if absent.
      keep: how many of the newest checkpoints stay; None keeps all.
      period: `save` writes at steps divisible by this.
      async_save: write in the background; `save` returns once the arrays are copied to the host.
      notes: JSON that every checkpoint says about itself, read back by `notes`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int | None,
        period: int,
        async_save: bool = True,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        if keep is not None and keep < 1:
            raise errors.FlanError(f"keep is {keep}; expected at least 1, or None to keep every checkpoint")
        if period < 1:
            raise errors.FlanError(f"checkpoint period is {period}; expected at least 1 step")
        self.directory = absolute(directory)
        self._period, self._notes = period, dict(notes or {})
        self._saving: int | None = None  # the step whose background save is not known to have ended
        if self.directory.exists() and not self.directory.is_dir():
            raise errors.FlanError(f"model directory {self.directory} is a file")
        with tensors_lib.reading(self.directory, "the list of checkpoints"):
            folders.refuse_foreign(self.directory)
            reasons = {path: folders.incomplete(path, folders.OWN) for path in folders.checkpoints(self.directory)}
            spared = [path for path in reasons if all(reasons.values()) and folders.was_whole(path)]
        for path, reason in reasons.items():
            if reason and path not in spared:
                folders.set_aside(path, reason)
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
          FlanError: there is no room for this checkpoint or for the one before, which was written in the background.
          Exception: what else the previous background save died of.
        """
        if not force and step % self._period:
            return False
        if step in self._orbax.all_steps():
            logger.warning("checkpoint %s exists already: not written again", self.directory / f"{PREFIX}_{step}")
            return False
        # The copy keeps a position that the loader goes on changing out of the background write.
        dataset = json.loads(json.dumps(dataset_state))
        marks = fingerprint.fingerprints(fingerprint.named_leaves(state_tree).items())
        self.wait()
        with disk_full.reported(self.directory, step):
            self._saving = step
            return self._orbax.save(
                step,
                args=ocp.args.Composite(state=ocp.args.PyTreeSave(state_tree), dataset=ocp.args.JsonSave(dataset)),
                custom_metadata={**self._notes, "fingerprints": marks},
                force=True,
            )

    def latest_step(self) -> int | None:
        """Returns the newest step that is completely written, or None."""
        steps = self.all_steps()
        return steps[-1] if steps else None

    def all_steps(self) -> list[int]:
        """Returns the completely written steps, ascending by number."""
        whole = [path for path in folders.checkpoints(self.directory) if not folders.incomplete(path, folders.OWN)]
        return sorted(int(path.name.rsplit("_", 1)[1]) for path in whole)

    def restore(self, abstract_state_tree: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Restores one checkpoint, bit for bit, onto the shardings that are asked for.

        Args:
          abstract_state_tree: the tree to fill: jax.ShapeDtypeStruct with shardings, or arrays to take both from.
          step: which one; None takes the newest, and the one before where the newest is damaged: each one passed over
            is named in a warning and moved to `broken_checkpoint_<step>` once an older one has been read.

        Returns:
          The state tree and the data position.

        Raises:
          FlanError: where there is none, or where it is not one of this model's (nothing falls back on that).
          BrokenCheckpoint: where the step asked for, or every one there is, is damaged. Nothing was moved then.
          StorageUnavailable: where one could not be read for a reason that may pass. Nothing was moved.
        """
        self.wait()
        if step is not None:
            path = self.directory / f"{PREFIX}_{step}"
            if not path.exists():
                known = ", ".join(map(str, self.all_steps())) or "none"
                raise errors.FlanError(f"no checkpoint of step {step} in {self.directory}; steps there: {known}")
            return _read(path, abstract_state_tree)
        candidates = folders.checkpoints(self.directory)
        if not candidates:
            raise errors.FlanError(f"no checkpoint in {self.directory}")
        problems: dict[epath.Path, str] = {}
        for path in candidates:
            result, problem = _read_everywhere(path, abstract_state_tree)
            if result is None:
                problems[path] = problem
                continue
            for broken, reason in problems.items():
                folders.set_aside(broken, reason)
            if problems:
                self._orbax.reload()
            return result
        raise BrokenCheckpoint(
            f"none of the {len(candidates)} checkpoints in {self.directory} can be read, and none was moved: "
            f"{'; '.join(f'{path.name}: {problem}' for path, problem in problems.items())}; "
            "to start anew, use another MODEL_DIR or move them elsewhere"
        )

    def wait(self) -> None:
        """Returns once the background save is committed; raises what it died of."""
        with disk_full.reported(self.directory, self._saving):
            self._orbax.wait_until_finished()

    def close(self) -> None:
        """Waits for the background save and releases the threads."""
        with disk_full.reported(self.directory, self._saving):
            self._orbax.close()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def restore_from(path: str | os.PathLike, abstract_state: Any, *, params_only: bool = False) -> Any:
    """Loads a checkpoint from anywhere, such as INITIAL_CHECKPOINT_PATH: ours, or T5X's in either layout.

    Its data position is left alone.

    Unlike `CheckpointManager.restore`, it converts to the dtypes asked for (parameters for inference in bfloat16).

    Args:
      path: one `checkpoint_<step>` directory.
      abstract_state: the whole state tree as in `CheckpointManager.restore`; with `params_only` only 'target' is read.
      params_only: leave optimizer state and step; nothing is asked of what the checkpoint holds beside 'target'.

    Returns:
      The state tree, or `{'target': parameters}`.

    Raises:
      FlanError: if there is nothing at `path` or the tensors are not the model's.
      BrokenCheckpoint: if it is damaged.
      StorageUnavailable: if it cannot be read for a reason that may pass.
    """
    path = absolute(path)
    folders.check_is_checkpoint(path)
    wanted = {"target": abstract_state["target"]} if params_only else abstract_state
    if not t5x_files.is_orbax(path):
        return _read_legacy(path, wanted, params_only=params_only)
    return _read_state(path, wanted, params_only=params_only, cast=True)


# Reading one checkpoint.


def _read_everywhere(path: epath.Path, abstract_state_tree: Any) -> tuple[tuple[Any, dict[str, Any]] | None, str]:
    """Reads a checkpoint in all processes, which agree on what came of it.

    Returns:
      State tree and data position, or None and what is wrong, in this process or another.

    Raises:
      StorageUnavailable: in all processes, where one of them could not reach it.
    """
    result, problem, away = None, f"checkpoint {path}: another process could not read it", None
    try:
        result = _read(path, abstract_state_tree)
    except BrokenCheckpoint as error:
        problem = str(error)
    except StorageUnavailable as error:
        away = error
    # 2: out of reach, 1: damaged, 0: read.
    worst = folders.highest(2 if away else int(result is None))
    if worst == 2:
        raise away or StorageUnavailable(f"checkpoint {path}: another process cannot read it now; nothing was moved")
    return (None if worst else result), problem.removeprefix(f"checkpoint {path}: ")


def _read(path: epath.Path, abstract_state_tree: Any) -> tuple[Any, dict[str, Any]]:
    with tensors_lib.reading(path, "its list of files"):
        reason = folders.incomplete(path, folders.OWN)
    if reason:
        raise BrokenCheckpoint(f"checkpoint {path}: {reason}")
    try:
        dataset_state = json.loads((path / "dataset" / "metadata").read_text())
    except ValueError as error:
        raise BrokenCheckpoint(f"checkpoint {path}: dataset/metadata is not JSON: {error}") from error
    except OSError as error:
        raise tensors_lib.unreadable(path, "dataset/metadata", error) from error
    return _read_state(path, abstract_state_tree, params_only=False, cast=False), dataset_state


def _read_state(path: epath.Path, wanted: Any, *, params_only: bool, cast: bool) -> Any:
    """Restores the tree `wanted`: checks names, shapes and (unless `cast`) dtypes before, fingerprints afterwards."""
    try:
        stored = fingerprint.named_leaves(ocp.PyTreeCheckpointHandler().metadata(path / "state").tree)
        marks = notes(path).get("fingerprints", {})
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # A file system's own, TensorStore's, JSON's, Orbax's.
        raise tensors_lib.unreadable(path, "metadata", error) from error
    stored = {name: leaf for name, leaf in stored.items() if hasattr(leaf, "shape")}
    _check_fits(path, stored, wanted, params_only, cast)
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
        what = "array data"
        if not tensors_lib.is_unavailable(error):
            what = t5x_files.unreadable(path, fingerprint.named_leaves(wanted), error)
        raise tensors_lib.unreadable(path, what, error) from error
    # A converted array has other bits than the one that was saved.
    same = [(name, leaf) for name, leaf in fingerprint.named_leaves(state).items() if leaf.dtype == stored[name].dtype]
    altered = [name for name, mark in fingerprint.fingerprints(same).items() if marks.get(name, mark) != mark]
    if altered:
        raise BrokenCheckpoint(
            f"checkpoint {path}: array data was altered after it was saved: {folders.some(altered)} ({len(altered)} tensors)"
        )
    return state


def _read_legacy(path: epath.Path, wanted: Any, *, params_only: bool) -> Any:
    """The same from T5X's legacy layout, converting dtypes; each process reads what its devices hold."""
    reader = t5x_files.Reader(path)
    _check_fits(path, reader.tensors, wanted, params_only, cast=True)

    def read(at: tuple, leaf: Any) -> jax.Array:
        name, leaf = fingerprint.name_of(at), _abstract(leaf)
        parts: dict[str, np.ndarray] = {}  # what several devices hold is read once

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            if str(index) not in parts:
                parts[str(index)] = np.asarray(reader.read(name, index or ()), leaf.dtype)
            return parts[str(index)]

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

    return jax.tree_util.tree_map_with_path(read, wanted)


def _check_fits(path: epath.Path, stored: Mapping[str, Any], wanted: Any, params_only: bool, cast: bool) -> None:
    """Refuses a checkpoint whose tensors are not those of the tree `wanted`."""
    if params_only:
        stored = {name: leaf for name, leaf in stored.items() if name.startswith("target.")}
    problems = _mismatches(stored, fingerprint.named_leaves(wanted), cast)
    if not problems:
        return
    hint = ""
    if t5x_tree.stacked(stored) != t5x_tree.stacked(fingerprint.named_leaves(wanted)):
        hint = "; one has stacked layers, the other separate ones: see scan_layers, or flan convert --layers"
    elif t5x_tree.of_scalable_t5(stored):
        hint = "; its layers are those of T5X's scalable_t5: flan convert makes a checkpoint that fits"
    elif all(name.startswith("state.") for names in problems.values() for name in names):
        hint = "; RestoreCheckpointConfig.params_only = True leaves the optimizer's state"
    raise errors.FlanError(f"checkpoint {path} does not fit the model: {_summary(problems)}{hint}")


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


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
    return "; ".join(f"{len(names)} {kind}: {folders.some(names)}" for kind, names in problems.items())


def _shape(leaf: Any) -> str:
    return "(" + ", ".join(map(str, leaf.shape)) + ")"
