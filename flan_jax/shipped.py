"""Where the files that ship beside the code are: `gin/` and `tasks/` stand at the top of a checkout and inside an
installed package, so they are looked up in both places."""

import pathlib


def directory(name: str) -> pathlib.Path:
    """Returns the shipped folder `name` (`gin`, `tasks/templates`) of this installation or checkout."""
    package = pathlib.Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
