"""Seconds and peak memory of a piece of work, in the environment of a peer: nothing here is realm's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What the work gave; its seconds, and the most bytes above what was held before (None where nobody counts)."""
    before = None
    try:
        CLEAR.write_text("5")
        before = _field("VmRSS")
    except OSError:
        pass
    began = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    return result, {"seconds": seconds, "peak_bytes": None if before is None else _field("VmHWM") - before}


def _field(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
