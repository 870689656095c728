"""Reads tests/golden: what the real t5x computed (see tests/golden/README.md)."""

import functools
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.models import api, presets

FOLDER = Path(__file__).parent / "golden"


def config(**overrides: Any) -> api.T5Config:
    """The model that the numbers were computed with."""
    return presets.t5_config("tiny", vocab_size=256, **{"dropout_rate": 0.0, **overrides})


def decoder_only_config(**overrides: Any) -> api.DecoderOnlyConfig:
    """The model of the numbers in `deconly`; its prefixes are bidirectional unless `prefix_lm` is False."""
    return presets.decoder_only_config(
        "t5x_tiny", vocab_size=256, **{"dropout_rate": 0.0, "prefix_lm": True, **overrides}
    )


def tree(path: Path, prefix: str = "") -> dict[str, Any]:
    """An npz of arrays named by joined paths, as a nested dict."""
    root: dict[str, Any] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            if name.startswith(prefix):
                *parents, leaf = name.removeprefix(prefix).split("/")
                node = root
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[leaf] = jnp.asarray(arrays[name])
    return root


def params(family: str = "") -> dict[str, Any]:
    """Parameters of the encoder-decoder, or of `family`: a folder of FOLDER."""
    return tree(FOLDER / family / "params.npz")


def batch(kind: str, family: str = "") -> dict[str, Any]:
    return tree(FOLDER / family / f"batch_{kind}.npz")


@functools.cache
def summary() -> dict[str, Any]:
    return json.loads((FOLDER / "summary.json").read_text())


def expected(name: str, family: str = "") -> np.ndarray:
    """The numbers kept of a result; compare them with `sampled(...)` of ours."""
    with np.load(FOLDER / family / "samples.npz") as arrays:
        return arrays[name]


def sampled(value: Any) -> np.ndarray:
    """The same numbers of our result, an array or a nested dict."""
    return _flat(value)[:: summary()["stride"]]


def _flat(value: Any) -> np.ndarray:
    if not isinstance(value, dict):
        return np.asarray(value).ravel()
    named = _named(value, "")
    return np.concatenate([named[name] for name in sorted(named)])


def _named(node: dict[str, Any], prefix: str) -> dict[str, np.ndarray]:
    found = {}
    for name, child in node.items():
        found.update(_named(child, f"{prefix}{name}/") if isinstance(child, dict) else {prefix + name: _flat(child)})
    return found


def full(name: str) -> Path:
    """A file of the full set, which is too large to keep here; skips the test where `../shared` is not there."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "goldens"
    if not folder.is_dir():
        pytest.skip("no ../shared/goldens beside this checkout")
    return folder / name


@functools.cache
def full_summary() -> dict[str, Any]:
    """Every scalar of the full set."""
    return json.loads(full("summary.json").read_text())
