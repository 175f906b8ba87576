"""The place that a path or an address names."""

from __future__ import annotations

from pathlib import Path

from realm.addresses import address_of
from realm.knowledge.table.places import Folder, Place

Anywhere = str | Path | Place
"""A path, an address, or what it stands for."""


def place_of(path: Anywhere) -> Place:
    """The place that a path or an address names. UsageError for an address that is none."""
    if not isinstance(path, str | Path):
        return path
    address = address_of(path)
    if address is None:
        return Folder(Path(path).absolute())
    # Late: a knowledge base in a folder needs nothing of the object store, and a test looks.
    from realm.knowledge.table.objects import ObjectStore

    return ObjectStore(address)
