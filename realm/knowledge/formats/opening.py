"""Bytes of a file, decompressed, line by line: what every reader begins with."""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from realm.knowledge.formats.places import InProportion
from realm.knowledge.formats.records import Problem, Record

Records = Iterator[Record | Problem]

MAX_RECORD = 1 << 28
"""Bytes of the longest record that is read: one document must fit in memory."""


def open_bytes(path: Path) -> IO[bytes]:
    """A file, decompressed when its name says so; reading raises OSError where it holds far more than it could."""
    if path.suffix == ".gz":
        return io.BufferedReader(InProportion(gzip.open(path, "rb"), path.stat().st_size), 1 << 18)
    if path.suffix == ".bz2":
        return io.BufferedReader(InProportion(bz2.open(path, "rb"), path.stat().st_size), 1 << 18)
    return open(path, "rb")


def read_whole(path: Path, most: int) -> bytes | None:
    """All of a file; None where it holds more than `most` bytes."""
    parts, size = [], 0
    with open_bytes(path) as stream:
        while part := stream.read(1 << 20):
            size += len(part)
            if size > most:
                return None
            parts.append(part)
    return b"".join(parts)


def byte_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line with its end); None for a line longer than `MAX_RECORD`, which is passed over."""
    with open_bytes(path) as stream:
        number = 0
        while line := stream.readline(MAX_RECORD):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) < MAX_RECORD or line.endswith(b"\n"):
                yield number, line
                continue
            while (more := stream.readline(MAX_RECORD)) and not more.endswith(b"\n"):
                pass
            yield number, None
