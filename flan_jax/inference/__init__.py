"""Asking a model: `load` opens a trained one; decoding, scoring and the rest are modules of this package."""

import os
from typing import Any


def load(path: str | os.PathLike[str], **options: Any) -> Any:
    """Opens a run's MODEL_DIR or one of its checkpoints as a `generate.Generator`; see `saved.load`."""
    from flan_jax.inference import saved

    return saved.load(path, **options)
