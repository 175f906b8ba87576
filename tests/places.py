"""Places where writing fails as it does in life: a disk that is full, a file system that is mounted read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BLOCK = 4096


def _mount(*arguments: str | Path) -> None:
    """Skips where this user may not mount."""
    if shutil.which("mount") is None:
        pytest.skip("no mount on this system")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")


@contextmanager
def _unmounted(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """A small disk of its own, to be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, free: int = 0) -> None:
        """Leave `free` bytes, in whole blocks."""
        filler = os.open(self._filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            while True:
                os.write(filler, bytes(_BLOCK))
        except OSError:
            pass
        finally:
            os.close(filler)
        os.truncate(self._filler, self._filler.stat().st_size - free // _BLOCK * _BLOCK)

    def free(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, size: str = "8m") -> Iterator[Disk]:
    """A disk in memory, mounted at `folder`."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    with _unmounted(folder):
        yield Disk(folder)


@contextmanager
def mounted_read_only(folder: Path) -> Iterator[None]:
    """The folder, mounted over itself so that nobody can write to it."""
    _mount("--bind", folder, folder)
    with _unmounted(folder):
        _mount("-o", "remount,ro,bind", folder)
        yield
