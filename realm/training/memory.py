"""Memory that training keeps from step to step, instead of giving it back and being given it anew."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of mallopt(3), and what they are set to when nobody says otherwise."""
TRIM_THRESHOLD, MMAP_MAX = 128 * 1024, 65536


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the C library keep what is freed while the block runs, and give it back afterwards.

    Every step takes and frees the same large tensors. glibc maps each of them anew, and the system clears its pages one
    by one, which is up to half of a small model's step on a CPU. What is kept is what a step needs at its peak and what
    lies between. Without glibc nothing happens.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, MMAP_MAX)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        library.malloc_trim(0)


def _glibc() -> Any | None:
    try:
        library = ctypes.CDLL(None)
        found = [getattr(library, name) for name in ("mallopt", "malloc_trim")]
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no such handle
        return None
    return library if all(found) else None
