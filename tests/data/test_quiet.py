"""Quiet imports: chatter is dropped, a failure's is shown."""

import logging
import os

import pytest

from flan_jax.data import quiet


def test_chatter_is_held_back(capfd):
    with quiet._stderr_held_back("a_module_that_is_not_loaded"):
        os.write(2, b"chatter")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_chatter_of_a_failed_import_is_shown(capfd):
    def fail() -> None:
        with quiet._stderr_held_back("a_module_that_is_not_loaded"):
            os.write(2, b"why it failed")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    os.write(2, b", after")
    assert capfd.readouterr().err == "why it failed, after"


def test_nothing_is_held_back_once_the_module_is_loaded(capfd):
    with quiet._stderr_held_back("os"):
        os.write(2, b"said")
    assert capfd.readouterr().err == "said"


def test_what_tfds_says_of_its_own_code_is_dropped_while_it_writes(caplog):
    absl = logging.getLogger("absl")
    own = "`TensorInfo.dtype` is deprecated. Please change your code to use NumPy with the field `TensorInfo.np_dtype`"

    @quiet.tfds_writes()
    def write() -> None:
        absl.warning(own)
        absl.warning("a record is too large")

    with caplog.at_level(logging.WARNING, logger="absl"):
        write()
        write()
        absl.warning(own)
    assert [record.getMessage() for record in caplog.records] == ["a record is too large"] * 2 + [own]
