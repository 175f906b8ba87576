"""The Lance table under a knowledge base: opening, versions, holding it for writing.

LanceDB does the hard part (atomic commits, versions, scans, indexes). This file alone opens the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from realm.errors import KnowledgeBaseError, UnavailableError, UsageError
from realm.knowledge.table.anywhere import place_of
from realm.knowledge.table.listing import Listing
from realm.knowledge.table.places import CONFIG, TABLE, Hold, Place, explained
from realm.knowledge.table.refused import CanNotWriteError, DiskFullError, InUseError, NoVersionError, ReadOnlyError

if TYPE_CHECKING:
    from lancedb.table import LanceTable

__all__ = [
    "CONFIG",
    "TABLE",
    "CanNotWriteError",
    "DiskFullError",
    "InUseError",
    "NoVersionError",
    "ReadOnlyError",
    "Store",
    "raise_format",
    "read_config",
]

FORMAT = "realm knowledge base"
FORMAT_VERSION = 2
READABLE = (1, 2)
"""Version 1 had no keys of rows, see `keys`; the first edit lays them."""


POOL_BYTES = 2 << 30
"""What Lance may hold at most while it joins and sorts. Its own limit is 300 MB, which 200 MB of vectors go over when
they are committed to a million passages (seen: "Resources exhausted ... SortPreservingMergeExec")."""
os.environ.setdefault("LANCE_MEM_POOL_SIZE", str(POOL_BYTES))


class Store:
    """One Lance table in a folder or in an object store. Readers take no lock; writers wait for each other.

    version: None follows the newest commit, a number pins that one.
    """

    def __init__(self, place: Place | Path, version: int | None = None) -> None:
        self.place = place_of(place) if isinstance(place, Path) else place
        self.listing = Listing()
        self._hold: Hold | None = None
        self._opened: tuple[int, LanceTable] | None = None
        with self.errors("opened"):
            self._database = self.place.connect()
            self.table: LanceTable = self._database.open_table(TABLE)  # type: ignore[assignment]
        self.pinned = version is not None
        if version is not None:
            self._checkout(self.table, version)

    @staticmethod
    def create(place: Place, schema: pa.Schema) -> None:
        """Lay an empty table."""
        with explained(place, "laid"):
            place.connect().create_table(TABLE, schema=schema)

    @property
    def path(self) -> Path:
        """The folder of this machine that holds what is made from it, see `Place.folder`."""
        return self.place.folder

    @property
    def address(self) -> str:
        """What messages name it by."""
        return self.place.address

    @property
    def version(self) -> int:
        with self.errors("read"):
            return int(self.table.version)

    @property
    def identity(self) -> tuple[int, int]:
        """Tells it from another that is laid in its place later, whose versions have the same numbers."""
        with self.errors("read"):
            return self.place.identity

    @property
    def newest(self) -> int:
        """The newest version there is, also where this stands on an older one."""
        with self.errors("read"):
            return int(self._database.open_table(TABLE).version)

    def at(self, version: int | None = None) -> LanceTable:
        """A handle on one version (by default the present one): what a reading of several steps stands on."""
        if self.pinned and version is None:
            return self.table
        wanted = self.version if version is None else version
        opened = self._opened  # once: another thread may put a later one there
        if opened is not None and opened[0] == wanted:
            return opened[1]
        with self.errors("read"):
            table: LanceTable = self._database.open_table(TABLE)  # type: ignore[assignment]
        self._checkout(table, wanted)
        if version is None and self.place.keeps_handles:
            self._opened = wanted, table
        return table

    def _checkout(self, table: LanceTable, version: int) -> None:
        try:
            table.checkout(version)
        except (ValueError, RuntimeError, OSError, OverflowError, TypeError) as error:  # the last for 65 bits
            told = self.place.explain(error, "read")
            if isinstance(told, UnavailableError):
                raise told from told.__cause__
            newest = max((entry["version"] for entry in self._database.open_table(TABLE).list_versions()), default=0)
            raise NoVersionError(
                f"{self.address} has no version {version}: expected one that versions() lists, the newest is {newest}"
            ) from error

    def errors(self, what: str) -> AbstractContextManager[None]:
        """Turn what Lance raises into a one-line error, see `Place.explain`."""
        return explained(self.place, what)

    def check_place(self) -> None:
        """CanNotWriteError where nothing would be let be written now."""
        with suppress(InUseError), self.writing(0.0):
            pass

    def check_writable(self) -> None:
        """UsageError when this is a past version."""
        if self.pinned:
            raise UsageError(f"{self.address} is open as of version {self.version}: open it without as_of to write")

    @contextmanager
    def writing(self, timeout: float) -> Iterator[LanceTable]:
        """The newest version, held for writing: no other process or thread writes until the block ends, see
        `Place.held`."""
        self.check_writable()
        with self.place.held(timeout) as self._hold:
            yield self.place.to_write(self.table)

    def check_held(self) -> None:
        """To be asked before a commit that tells its own number: KnowledgeBaseError where somebody else may write."""
        if self._hold is not None:
            self._hold.check()


def read_config(place: Place) -> dict[str, Any]:
    """What the description says; KnowledgeBaseError when there is no knowledge base that this library reads."""
    config = place.read_config()
    if config.get("format") != FORMAT:
        raise KnowledgeBaseError(f"{place.address}: {CONFIG} does not describe a {FORMAT}: check the path")
    if config.get("format_version") not in READABLE:
        raise KnowledgeBaseError(
            f"{place.address} is a {FORMAT} of format version {config.get('format_version')}: "
            f"this library reads versions {READABLE[0]} to {READABLE[-1]}"
        )
    return config


def raise_format(place: Place) -> None:
    """Let the description say that the knowledge base is of FORMAT_VERSION; it is held for writing."""
    config = read_config(place)
    if config["format_version"] != FORMAT_VERSION:
        place.write_config(config | {"format_version": FORMAT_VERSION})
