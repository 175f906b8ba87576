"""Peak memory of one piece of work in this process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
T = TypeVar("T")


def peak_of(work: Callable[[], T], *, tidy: bool = True) -> tuple[T, int | None]:
    """What the work gave, and the most bytes that it held above what was resident before; None where Linux doesn't
    count. What was freed before is handed back first, so that it isn't taken from there.

    tidy: look for what is garbage, too, which takes some tenths of a second.
    """
    if tidy:
        gc.collect()
    if sys.platform != "linux" or not _forget_peak():
        return work(), None
    before = _field("VmRSS")
    result = work()
    return result, max(0, _field("VmHWM") - before)


def _forget_peak() -> bool:
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _field(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
