"""What of a source may be read: files of its own, that end, and are not larger inside than out beyond all measure."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any, Protocol

from realm.files import MANIFEST
from realm.knowledge.formats.records import Problem
from realm.knowledge.table.store import CONFIG

MOST_TIMES = 250
"""How often a compressed file may hold its own size; text of people seldom reaches 20, what is made to harm 1,000."""
ALWAYS = 1 << 26
"""Bytes that any file may hold, however small it is."""
_NOTES = 1 << 20
"""Bytes of the longest file that is looked at for being a note of ours."""


def refusal(path: Path, root: Path) -> Problem | None:
    """Why a file is not read: its real place is outside the folder `root`, or it has no end. None where it may be read,
    and where it can't be found, which reading it says better."""
    try:
        real = path.resolve(strict=True)
        regular = stat.S_ISREG(real.stat().st_mode)
        inside = real == root.resolve() or real.is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # the latter for links that go in a circle, until Python 3.12
        return None
    if not inside:
        return Problem(str(path), "link", "a link that leaves the folder", "files of its own; give the other, too")
    if not regular:
        return Problem(str(path), "file", "a pipe, a socket or a device", "a file")
    return None


def is_ours(folder: Path) -> bool:
    """Whether a folder is something that this library made (a knowledge base, a run, a model): no text to be read."""
    if (folder / CONFIG).is_file():
        return True
    return any("realm_version" in _note(folder / name) for name in (MANIFEST, "run.json"))


def _note(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _NOTES:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def expands(held: int, size: int) -> bool:
    """Whether a file of `size` bytes that holds `held` is made to fill a memory or a disk."""
    return held > ALWAYS and held > MOST_TIMES * size


class Readable(Protocol):
    """A decompressed stream."""

    def readinto(self, buffer: Any, /) -> int | None: ...
    def close(self) -> None: ...


class InProportion(io.RawIOBase):
    """A decompressed stream that raises OSError as soon as it `expands`."""

    def __init__(self, stream: Readable, size: int) -> None:
        """size: of the compressed file, in bytes."""
        super().__init__()
        self._stream, self._size, self._given = stream, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._stream.readinto(buffer) or 0
        self._given += count
        if expands(self._given, self._size):
            raise OSError(f"it holds more than {MOST_TIMES} times its {self._size:,} bytes")
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
