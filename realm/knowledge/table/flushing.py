"""What a commit wrote, brought to the disk before it is acknowledged: Lance leaves that to the operating system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from realm.files import flush

Names = dict[Path, frozenset[str]]


def files_of(folder: Path) -> Names:
    """The names of the files in each folder below `folder`, itself among them."""
    return {Path(root): frozenset(names) for root, _, names in os.walk(folder)}


def flush_new(folder: Path, before: Mapping[Path, frozenset[str]]) -> Names:
    """Flush what was not there `before`: files first, then the folders that name them. What is there now.

    Lance never writes to a file again, so new names are all there is to look for. Raises OSError.
    """
    now = files_of(folder)
    for place, names in now.items():
        new = names - before.get(place, frozenset())
        for name in new:
            with suppress(FileNotFoundError):  # a file of a write that came to nothing, cleared away meanwhile
                flush(place / name)
        if place not in before:
            flush(place.parent)
        if new:
            flush(place)
    return now
