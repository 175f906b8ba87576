"""Freed memory stays while training, and goes afterwards."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest
import torch

from realm.training.memory import kept_memory

NUMBERS = 1 << 24
"""64 MiB of them."""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps to its own rules")


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_what_is_freed_is_taken_again_and_given_back_at_the_end() -> None:
    before = held()
    with kept_memory():
        for _ in range(10):  # the edges of aligned blocks settle
            torch.ones(NUMBERS)
        first = faults()
        for _ in range(5):
            torch.ones(NUMBERS)
        assert faults() - first < 1000, "each would be 16,384 pages, mapped anew"
        assert held() - before > 2 * NUMBERS
    assert held() - before < 2 * NUMBERS


def test_it_ends_where_the_block_fails() -> None:
    with pytest.raises(ValueError, match="here"), kept_memory():
        torch.ones(NUMBERS)
        raise ValueError("here")
    before = held()
    torch.ones(NUMBERS)
    assert held() - before < 2 * NUMBERS
