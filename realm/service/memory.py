"""Giving freed memory back to the system.

Questions and edits free blocks of many sizes in many threads, and the C library keeps them for later. What lies between
blocks that live on is of little use to others, so a server's memory creeps up though it holds no more than before.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

import pyarrow as pa


def give_back() -> None:
    """Whole free pages of all threads, and what Arrow keeps. Takes milliseconds; does nothing of the first where the C
    library is not glibc (malloc_trim(3))."""
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError, TypeError):  # another C library; Windows has no such handle
        ctypes.CDLL(None).malloc_trim(0)
