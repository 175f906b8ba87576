"""The place that a path or an address names."""

from __future__ import annotations

from pathlib import Path

from realm.addresses import address_of
from realm.knowledge.table.objects import ObjectStore
from realm.knowledge.table.places import Folder, Place

Anywhere = str | Path | Place
"""A path, an address, or what it stands for."""


def place_of(path: Anywhere) -> Place:
    """The place that a path or an address names. UsageError for an address that is none."""
    if not isinstance(path, str | Path):
        return path
    address = address_of(path)
    return Folder(Path(path).absolute()) if address is None else ObjectStore(address)
