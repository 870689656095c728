"""Where what can be made again is kept."""

import os


def root(cache_dir: str | None = None) -> str:
    """Returns the cache directory: the given one; `$FLAN_JAX_CACHE`; `$XDG_CACHE_HOME/flan_jax`; `~/.cache/flan_jax`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return cache_dir or os.environ.get("FLAN_JAX_CACHE") or os.path.join(home, "flan_jax")
