"""Work that is done line by line: what a stopped process wrote is there when the next one asks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realm.errors import ArtefactError


class Journal:
    """A file of JSON objects, a line each. A line that a killed process left half written is dropped."""

    def __init__(self, path: Path) -> None:
        """Opened or begun. ArtefactError where a line that was whole is none any more."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        self.entries: list[dict[str, Any]] = [*self._read(whole)]
        if len(whole) < len(data):
            with open(path, "r+b") as stream:
                stream.truncate(len(whole))

    def _read(self, whole: bytes) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(whole.split(b"\n"), start=1):
            try:
                if line:
                    yield json.loads(line)
            except ValueError as error:
                raise ArtefactError(f"{self.path} is damaged in line {number}: remove it to begin again") from error

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry; it is on the disk when this returns."""
        with open(self.path, "ab") as stream:
            stream.write((json.dumps(entry) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.entries.append(entry)
