"""Freed memory goes back to the system, after edits too."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dots
import pytest

from realm.knowledge.base import KnowledgeBase
from realm.service import background
from realm.service.memory import give_back
from realm.types import Document

STATUS = Path("/proc/self/status")
MIB = 1 << 20

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")


def held() -> int:
    """Bytes of this process in memory."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


@contextmanager
def freed_between(blocks: int = 2048, size: int = 64 << 10) -> Iterator[None]:
    """Much that is freed below a block that lives on, so that the C library can't shrink its heap by itself."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    places = [libc.malloc(size) for _ in range(blocks)]
    for place in places:
        ctypes.memset(place, 1, size)
    *freed, kept = places
    for place in freed:
        libc.free(place)
    yield
    libc.free(kept)


def test_what_is_freed_goes_back() -> None:
    give_back()
    with freed_between():
        before = held()
        give_back()
        assert before - held() > 100 * MIB


def test_edits_give_it_back_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([Document("d", "", "one.")])
    for seconds, back in ((0.0, True), (3600.0, False)):
        monkeypatch.setattr(background, "GIVE_BACK_SECONDS", seconds)
        upkeep = background.Upkeep(kb)
        with freed_between():
            before = held()
            upkeep.edited()
            upkeep.close()
            assert (before - held() > 100 * MIB) is back
