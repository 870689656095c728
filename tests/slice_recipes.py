"""The recipes that are for a slice of a pod, by the line in their heads that says so."""

import re

from flan_jax import config

RECIPES = config.shipped_gin_dir() / "recipes"
# Name -> slice, such as v3:8x8.
SLICES = {
    path.stem: found.group(1)
    for path in sorted(RECIPES.glob("*.gin"))
    if (found := re.search(r"^# Slice: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
}
