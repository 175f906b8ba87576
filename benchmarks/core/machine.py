"""What was measured on, and what else ran there meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "torch", "transformers", "tokenizers", "bm25s", "lancedb")
"""Those that realm itself stands on; those of the peers come with the peers."""


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_bytes() -> int | None:
    """What could be taken without swapping, where the system says it."""
    place = Path("/proc/meminfo")
    lines = place.read_text().splitlines() if place.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def processor() -> str:
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """JSON values."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Of Python, of realm and of every named distribution that is installed."""
    import realm

    found = {"python": platform.python_version(), "realm": realm.__version__}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Load:
    """How busy the machine was with anything but this process and its finished children, since this was made."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()
        self._averages = [_average()]

    def look(self) -> None:
        """One more sample of the load average."""
        self._averages.append(_average())

    def facts(self) -> dict[str, Any]:
        """JSON values. `busy_with_others`: cores that others kept busy, on average; None where nobody counts."""
        self.look()
        told: dict[str, Any] = {
            "load_average": {
                "first": self._averages[0],
                "highest": max(self._averages),
                "last": self._averages[-1],
            }
        }
        busy, elapsed = _busy_seconds(), time.perf_counter() - self._begun
        others = None
        if busy is not None and self._busy is not None and elapsed > 0:
            others = round(max(0.0, (busy - self._busy) - (_own_seconds() - self._own)) / elapsed, 2)
        return {**told, "busy_with_others": others, "seconds": round(elapsed, 1)}


def _average() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _own_seconds() -> float:
    return sum(os.times()[:4])


def _busy_seconds() -> float | None:
    """Of all cores and all processes: user, nice, system, interrupts and what a host took away."""
    place = Path("/proc/stat")
    if not place.exists():
        return None
    numbers = [int(word) for word in place.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(numbers[:3] + numbers[5:]) / os.sysconf("SC_CLK_TCK")
