"""Quiet imports: chatter is dropped, a failure's is shown."""

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
