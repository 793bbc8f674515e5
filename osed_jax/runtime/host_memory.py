"""Memory of the host, which a training step on a CPU takes and frees again."""

import ctypes
import importlib.util
import os
from importlib import metadata

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt, in glibc's malloc.h


def keep() -> None:
    """Keeps freed memory for the next step, if JAX computes on the CPU; call it before imports.

    glibc hands large blocks back to the kernel as soon as they are freed. A training step takes
    and frees hundreds of megabytes, so without this the kernel clears hundreds of thousands of
    pages in each step (docs/reference/performance.md has the figures). Whatever is not glibc stays
    as it is, and so do machines with a GPU or TPU, where many threads load images.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or _has_accelerator():
        return
    mallopt(_TRIM_THRESHOLD, -1)  # what is free stays
    mallopt(_MMAP_MAX, 0)  # no block in a mapping of its own, which ends when it is freed
    mallopt(_ARENA_MAX, 1)  # one heap for all threads; the heaps of threads are unmapped when empty


def _has_accelerator() -> bool:
    """Whether JAX would look for a GPU or TPU; told without importing it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms != "cpu"
    plugins = metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
