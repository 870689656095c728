"""A full disk while a checkpoint is written: one line, and the checkpoint before is what a restart finds."""

import errno
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.checkpoint import disk_full, manager


def tree(step):
    return {
        "target": {"w": jnp.full((8, 4), step, jnp.float32)},
        "state": {"step": jnp.int32(step), "param_states": {}},
    }


def full_disk(monkeypatch):
    """From here on, putting an array into TensorStore fails as it does on a full disk (its words, seen on a tmpfs)."""
    from orbax.checkpoint._src.serialization import serialization

    async def write(*args, **kwargs):
        raise ValueError(
            'RESOURCE_EXHAUSTED: Error writing "target.w/0" in OCDBT database at local file "x": Failed to write 417061 '
            "bytes to file 4: No space left on device [os_error_code='28']"
        )

    monkeypatch.setattr(serialization, "async_serialize_from_host", write)


def test_the_checkpoint_before_stays_and_one_line_says_so(tmp_path, monkeypatch, capfd, caplog):
    with manager.CheckpointManager(tmp_path, keep=None, period=1) as kept:
        kept.save(1, tree(1), {"row": 1})
        kept.wait()
        full_disk(monkeypatch)
        kept.save(2, tree(2), {"row": 2})
        with pytest.raises(errors.FlanError) as stopped:
            kept.save(3, tree(3), {"row": 3})
    said = str(stopped.value)
    assert said.startswith(f"checkpoint_2 could not be written: no space left in {tmp_path} (")
    assert said.endswith("checkpoint_1 is whole: make room, and the same command goes on from there")
    assert "\n" not in said
    assert [line for line in caplog.records if line.levelno >= logging.ERROR] == []  # what Orbax's threads say of it
    monkeypatch.undo()
    with manager.CheckpointManager(tmp_path, keep=None, period=1) as again:
        restored, position = again.restore(jax.tree.map(lambda x: x, tree(0)))
        np.testing.assert_array_equal(restored["target"]["w"], tree(1)["target"]["w"])
        assert position == {"row": 1}
        again.save(2, tree(2), {"row": 2})
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_1", "checkpoint_2"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ValueError, match="something else"), disk_full.reported(manager.absolute(tmp_path), 3):
        raise ValueError("something else")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_other_files_end_a_command_in_one_line_too(capsys, number):
    with pytest.raises(SystemExit) as stopped, errors.reported():
        raise OSError(number, os.strerror(number), "/runs/1/train/metrics.jsonl")
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"flan: {os.strerror(number)}: /runs/1/train/metrics.jsonl\n"
    assert not disk_full.is_it(OSError(errno.EACCES, "Permission denied"))
