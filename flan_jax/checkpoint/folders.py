"""Directories of checkpoints: which are there, which are whole, and whose they are. No array is read."""

import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from flan_jax import errors
from flan_jax.checkpoint import t5x_files
from flan_jax.checkpoint import tensors as tensors_lib

logger = logging.getLogger(__name__)

PREFIX = "checkpoint"
_DIRECTORY = re.compile(rf"^{PREFIX}_(0|[1-9]\d*)$")
_BROKEN = re.compile(rf"^broken_{PREFIX}_\d+(_\d+)?$")
# What a complete checkpoint holds, in the order in which a missing one is reported.
WHOLE = ("commit_success.txt", "_CHECKPOINT_METADATA", "state/_METADATA")
OWN = (*WHOLE, "dataset/metadata")
# The note of a checkpoint that `flan convert` wrote: no run can be continued from it in place.
CONVERTED_FROM = "converted_from"
# Tensors named in an error about a checkpoint that does not fit the model.
_NAMED = 10


def notes(path: str | os.PathLike) -> dict[str, Any]:
    """Returns what `save` noted in a checkpoint; nothing for one written by another program."""
    file = tensors_lib.absolute(path) / "_CHECKPOINT_METADATA"
    return (json.loads(file.read_text()).get("custom_metadata") or {}) if file.exists() else {}


def checkpoints(directory: epath.Path) -> list[epath.Path]:
    """Returns the `checkpoint_<step>` directories, whole or not, highest step first."""
    found = [path for path in _inside(directory) if _DIRECTORY.match(path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("_", 1)[1]), reverse=True)


def step_of(path: epath.Path) -> int | None:
    match = _DIRECTORY.match(path.name)
    return int(match.group(1)) if match else None


def _inside(directory: epath.Path) -> list[epath.Path]:
    """What a directory holds, nothing where there is none.

    A file system that does not answer raises: `exists` would say that nothing is there, and a whole checkpoint would be
    taken for a half-written one, a run for one that has not begun.
    """
    try:
        return list(directory.iterdir())
    except Exception as error:
        # TensorFlow's file systems, which serve gs://, have an exception of their own.
        if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":
            return []
        raise


def _has(path: epath.Path, name: str) -> bool:
    file = path / name
    return any(child.name == file.name for child in _inside(file.parent))


def incomplete(path: epath.Path, needed: Sequence[str]) -> str:
    """Returns what is wrong with the directory as far as a listing shows, or ''."""
    absent = [name for name in needed if not _has(path, name)]
    return f"half written: {absent[0]} is missing" if absent else ""


def newest_complete(directory: epath.Path, needed: Sequence[str]) -> tuple[epath.Path | None, tuple[str, ...]]:
    """Returns the newest complete checkpoint, and the newer ones passed over, which are also logged.

    A legacy one of T5X is complete if it is there: it got its name when it was.
    """
    skipped: list[str] = []
    for path in checkpoints(directory):
        reason = incomplete(path, needed)
        if not reason or t5x_files.is_legacy(path):
            return path, tuple(skipped)
        skipped.append(f"{path}: {reason}")
        logger.warning("checkpoint %s is passed over: %s", path, reason)
    return None, tuple(skipped)


def was_whole(path: epath.Path) -> bool:
    """Whether a checkpoint was once written to its end: what lacks the marker is what a killed save left."""
    return _has(path, WHOLE[0])


def refuse_lost(model_dir: epath.Path) -> None:
    """Refuses a model directory with checkpoints of which none can be read: a start from elsewhere would bury its steps.

    What a save left that was killed is none: a run that was killed in its first save starts anew.
    """
    found = [path for path in _inside(model_dir) if _BROKEN.match(path.name) or _DIRECTORY.match(path.name)]
    lost = sorted(path.name for path in found if was_whole(path))
    if lost:
        raise errors.FlanError(
            f"{model_dir} holds no checkpoint that is whole, but {some(lost)}: starting anew would bury what was trained there. "
            f"To read one again, name it {PREFIX}_<step>; to start anew, use another MODEL_DIR or move them elsewhere"
        )


def set_aside(path: epath.Path, reason: str) -> None:
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


def highest(here: int) -> int:
    """Returns the highest number of all processes, so that all of them go the same way."""
    if jax.process_count() == 1:
        return here
    return int(np.max(multihost_utils.process_allgather(np.asarray(here))))


def refuse_foreign(model_dir: epath.Path) -> None:
    """T5X's checkpoints hold no data position of ours: they must not be taken for half-written ones and moved aside."""
    for path in checkpoints(model_dir):
        committed = not incomplete(path, WHOLE)
        try:
            about = notes(path) if committed else {}
            foreign = committed and (not about.get("fingerprints") or CONVERTED_FROM in about)
        except ValueError:  # Damaged, not foreign.
            foreign = False
        if foreign or t5x_files.is_legacy(path):
            raise errors.FlanError(
                f"{path} was written by another program (T5X, flan convert?) and its data position cannot be continued: use another "
                "MODEL_DIR, with this checkpoint as INITIAL_CHECKPOINT_PATH"
            )


def is_checkpoint(path: epath.Path) -> bool:
    """Whether it is a checkpoint directory of ours or of T5X."""
    return t5x_files.is_orbax(path) or t5x_files.is_legacy(path)


def check_is_checkpoint(path: epath.Path) -> None:
    """Refuses what is no checkpoint of ours or of T5X, and says what it seems to be."""
    if not is_checkpoint(path):
        raise no_checkpoint(path)


def no_checkpoint(path: epath.Path) -> errors.FlanError:
    """Builds the error for a path that is in no format of ours or T5X's."""
    if not path.exists():
        return missing(path)
    inside = checkpoints(path)
    if inside:
        return errors.FlanError(
            f"{path} is a model directory, not a checkpoint: use mode 'latest', or give e.g. {inside[0].name} in it"
        )
    hint = "; flan convert makes one of a Hugging Face folder" if (path / "config.json").exists() else ""
    return errors.FlanError(f"{path} is not a checkpoint: state/_METADATA is missing{listing(path)}{hint}")


def missing(path: epath.Path) -> errors.FlanError:
    """Builds the error for a path that does not exist: the nearest names in its deepest parent that does."""
    name, parent = path.name, path.parent
    while not parent.exists() and parent != parent.parent:
        name, parent = parent.name, parent.parent
    hint = errors.nearest(name, (child.name for child in parent.iterdir())) if parent.is_dir() else ""
    return errors.FlanError(f"no checkpoint at {path}: {parent} has no {name!r}{hint}")


def listing(path: epath.Path) -> str:
    """Returns what ends an error about a directory: what it holds instead."""
    if not path.is_dir():
        return f"; {path} is a file"
    names = sorted(child.name for child in path.iterdir())
    return f"; it holds: {some(names)}" if names else "; it is empty"


def some(names: Sequence[str]) -> str:
    """Returns the first names of a list for a message, in their order."""
    return ", ".join(names[:_NAMED]) + (f", ... ({len(names) - _NAMED} more)" if len(names) > _NAMED else "")
