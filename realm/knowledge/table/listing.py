"""The versions of a store with their times, remembered: none ever changes, and listing takes a millisecond each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from lancedb.table import LanceTable


@dataclass(frozen=True, slots=True)
class Version:
    """One commit. Not every number changes a document: indexes and vectors are commits too."""

    version: int
    time: datetime


class Listed(Protocol):
    """What a listing asks of a store."""

    @property
    def version(self) -> int: ...

    @property
    def identity(self) -> tuple[int, int]: ...

    def at(self, version: int | None = None) -> LanceTable: ...

    def errors(self, what: str) -> AbstractContextManager[None]: ...


class _Known(NamedTuple):
    identity: tuple[int, int]
    """Which of the knowledge bases that stood at one place."""
    versions: list[Version]


class Listing:
    """What was listed last. Threads may share it: at worst two list the same."""

    def __init__(self) -> None:
        self._known: _Known | None = None

    def all(self, store: Listed) -> list[Version]:
        """All versions that can be opened, oldest first, listed anew."""
        identity = store.identity
        with store.errors("read"):
            listed = store.at().list_versions()
        newest = store.version
        found = (Version(v["version"], v["timestamp"].astimezone()) for v in listed if v["version"] <= newest)
        self._known = _Known(identity, sorted(found, key=lambda version: version.version))
        return list(self._known.versions)

    def around(self, store: Listed, time: datetime, behind: int) -> tuple[Sequence[Version], bool]:
        """The versions from the first to some that are later than `time`, `behind` at least; and whether that is from
        memory, so that some of them may have been cleaned up since. All of them, listed anew, where there are fewer:
        only then can what came since be among them."""
        known = self._known
        if known is not None and known.identity == store.identity:
            listed = known.versions
            later = next((number for number, version in enumerate(listed) if version.time > time), len(listed))
            if listed and (listed[-1].version == store.version or later + behind <= len(listed)):
                return listed, True
        return self.all(store), False
