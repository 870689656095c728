"""Memory of the host, where the host is also the device."""

import ctypes
import importlib.metadata
import importlib.util
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
    """Where JAX will compute on the CPU, makes the C library keep freed memory for the next allocation.

    A step's temporaries are otherwise mapped, zeroed by the kernel page by page, and unmapped again: 0.8 million page
    faults and 5 s of the kernel's time for each T5.1.1-small step of 8 s (docs/LOG.md). The process then keeps its peak
    memory until it ends, as on an accelerator. One arena, because memory freed in one thread's arena is of no use to
    another's; which is why this comes before JAX starts its threads.

    Returns:
      Whether it was done: not where JAX has an accelerator to choose, and not without glibc.
    """
    import jax

    platforms = jax.config.jax_platforms
    accelerated = importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    if platforms != "cpu" if platforms else accelerated:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])
