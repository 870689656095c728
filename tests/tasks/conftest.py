"""What the tests of `tasks/` share: the script that renders rows for people to read."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def script():
    path = ROOT / "scripts" / "update_rendered.py"
    loading = importlib.util.spec_from_file_location(path.stem, path)
    assert loading is not None
    assert loading.loader is not None
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    return module
