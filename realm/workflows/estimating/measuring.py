"""How a figure is measured, and the machine's own: products, reads, cores, memory."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from realm.training.optim import BertAdam

BUDGET_SECONDS = 0.1
"""What one measurement may take, unless a single repeat takes longer."""


def seconds_of(work: Callable[[], object], device: torch.device, budget: float = BUDGET_SECONDS) -> float:
    """Median time of a call; the first one is not counted unless it alone breaks the budget."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken[1:]) < budget / 2:
        started = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - started)
        if sum(taken) > budget:
            break
    return statistics.median(taken[1:] or taken)


def once(work: Callable[[], object]) -> float:
    """Seconds of a call that can't be repeated."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Growth:
    """Seconds by the number of rows: a straight line between two that were measured, the last one goes on."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def linear(cls, call: float, row: float) -> Growth:
        """So much for a call, and for each row."""
        return cls((0, 1), (call, call + row))

    @property
    def row(self) -> float:
        """Seconds of each row beyond the largest number measured."""
        (*_, least, most), (*_, fast, slow) = self.rows, self.seconds
        return (slow - fast) / (most - least)

    def at(self, rows: float) -> float:
        for least, most, fast, slow in zip(self.rows, self.rows[1:], self.seconds, self.seconds[1:], strict=False):
            if rows <= most:
                return fast + (slow - fast) * max(0.0, rows - least) / (most - least)
        return self.seconds[-1] + (rows - self.rows[-1]) * self.row


def rate_above(items: float, seconds: float, fixed: float) -> float:
    """Items a second, without what the same work costs with next to none of them."""
    return items / max(seconds - fixed, seconds / 4)


def product_rate(rows: int, inner: int, columns: int, device: torch.device) -> float:
    """Floating-point operations a second of a matrix product."""
    a, b = torch.ones(rows, inner, device=device), torch.ones(inner, columns, device=device)
    return 2.0 * rows * inner * columns / seconds_of(lambda: torch.mm(a, b), device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second of reading memory once."""
    numbers = torch.ones(1 << 25, device=device)
    return 4.0 * len(numbers) / seconds_of(numbers.sum, device)


def hash_rate() -> float:
    """Bytes a second of SHA-256."""
    block = bytes(1 << 24)
    return len(block) / seconds_of(lambda: hashlib.sha256(block).digest(), torch.device("cpu"))


def update_seconds(device: torch.device) -> float:
    """Seconds of the optimizer for one parameter."""
    parameter = nn.Parameter(torch.zeros(1 << 21, device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = BertAdam([{"params": [parameter]}], lr=1e-4)
    return seconds_of(optimizer.step, device) / parameter.numel()


# ---------------------------------------------------------------- the machine


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of torch's, within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resident() -> int:
    """Resident memory of this process in bytes; 0 where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory; a container's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text().strip() if limit.exists() else "max"
        return min(total, int(text)) if text.isdigit() else total
    except (OSError, ValueError):
        return None
