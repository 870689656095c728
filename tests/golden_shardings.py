"""Where every parameter of every preset lies, as text: `python -m tests.golden_shardings > tests/golden/shardings.txt`.

One line a parameter: its path, its shape, which mesh axes split each dimension ('-' for none). The mesh is 4 x 8 x 4, which
no preset divides in full: T5.1.1-small has 6 heads.
"""

import jax

from flan_jax import sharding
from flan_jax.models import api, presets

MESH = {"data": 4, "fsdp": 8, "model": 4}


def config_of(preset: str) -> api.Config:
    """The preset with stacked layers; 'small' is T5.1.1's."""
    if preset in presets.T5_1_1:
        return presets.t5_config(preset, scan_layers=True)
    return presets.decoder_only_config(preset, scan_layers=True)


PRESETS = (*presets.T5_1_1, *presets.DECODER_ONLY)


def lines(preset: str) -> list[str]:
    """The parameters of one preset."""
    config = config_of(preset)
    shapes, axes = api.abstract_params(config), api.logical_axes(config)
    flat, tree = jax.tree_util.tree_flatten_with_path(shapes)
    found = []
    for (path, leaf), names in zip(flat, tree.flatten_up_to(axes), strict=True):
        parts = ["-" if part is None else str(part) for part in sharding.spec(names, leaf.shape, MESH)]
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append(f"  {where} {'x'.join(map(str, leaf.shape))} {' '.join(parts)}")
    return found


def text() -> str:
    """The whole file."""
    return "\n".join("\n".join([preset, *lines(preset)]) for preset in PRESETS) + "\n"


if __name__ == "__main__":
    print(text(), end="")
