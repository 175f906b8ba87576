"""The Lance table under a knowledge base: opening, versions, the writers' lock, errors in our words.

LanceDB does the hard part (atomic commits, versions, scans, indexes); this file is the only one that opens it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pyarrow as pa

from realm.errors import ArtefactError, KnowledgeBaseError, RealmError, UsageError
from realm.files import disk_is_full, read_json, write_json, write_refused
from realm.knowledge.table.flushing import files_of, flush_new
from realm.knowledge.table.listing import Listing

if TYPE_CHECKING:
    from lancedb.table import LanceTable

TABLE = "passages"
_WRITING = frozenset({"locked for writing", "written", "compacted", "indexed", "tidied"})
CONFIG = "kb.json"
FORMAT = "realm knowledge base"
FORMAT_VERSION = 2
READABLE = (1, 2)
"""Version 1 had no keys of rows, see `keys`; the first edit lays them."""
METADATA_CACHE = 16 << 20
"""Bytes. Every version leaves 0.06 MB there that nobody asks for again: with Lance's own limit, 1 GiB, a process that
follows edits seems to leak. What Lance counts as 16 MiB is 28 in memory; 260 edits fill it."""
INDEX_CACHE = 1 << 30
"""Bytes. Every version leaves 0.005 MB there too, and Lance's own limit is 6 GiB. Lance caches no entry that is larger
than the limit; of ten million passages the largest would be the text index's list of them, about 120 MB by its form."""


class InUseError(KnowledgeBaseError):
    """Another writer holds the lock."""


class NoVersionError(KnowledgeBaseError):
    """A version that never was, or is no longer kept."""


class CanNotWriteError(KnowledgeBaseError):
    """The operating system lets nobody write here now; what is there can be read."""


class DiskFullError(CanNotWriteError):
    """No room for what is to be written; nothing of it is committed."""


class ReadOnlyError(CanNotWriteError):
    """The file system is mounted read-only, or this user may not write to it."""


class Store:
    """One Lance table in a folder. Readers take no lock; writers take one between processes.

    version: None follows the newest commit, a number pins that one.
    """

    def __init__(self, path: Path, version: int | None = None) -> None:
        import lancedb

        self.path = path
        self.listing = Listing()
        with self.errors("opened"):
            # Interval 0: every read looks for a newer commit, so an open reader sees an edit at its next question.
            session = lancedb.Session(INDEX_CACHE, metadata_cache_size_bytes=METADATA_CACHE)
            self._database = lancedb.connect(str(path), read_consistency_interval=timedelta(0), session=session)
            self.table: LanceTable = self._database.open_table(TABLE)  # type: ignore[assignment]
        self.pinned = version is not None
        if version is not None:
            self._checkout(self.table, version)

    @staticmethod
    def create(path: Path, schema: pa.Schema) -> None:
        """Lay an empty table."""
        import lancedb

        lancedb.connect(str(path)).create_table(TABLE, schema=schema)

    @property
    def version(self) -> int:
        with self.errors("read"):
            return int(self.table.version)

    @property
    def identity(self) -> tuple[int, int]:
        """Tells it from another that is laid in its place later, whose versions have the same numbers."""
        with self.errors("read"):
            found = (self.path / CONFIG).stat()
        return found.st_ino, found.st_mtime_ns

    @property
    def newest(self) -> int:
        """The newest version there is, also where this stands on an older one."""
        with self.errors("read"):
            return int(self._database.open_table(TABLE).version)

    def at(self, version: int | None = None) -> LanceTable:
        """A handle on one version (by default the present one): what a reading of several steps stands on."""
        if self.pinned and version is None:
            return self.table
        with self.errors("read"):
            table: LanceTable = self._database.open_table(TABLE)  # type: ignore[assignment]
        self._checkout(table, self.version if version is None else version)
        return table

    def _checkout(self, table: LanceTable, version: int) -> None:
        try:
            table.checkout(version)
        except (ValueError, RuntimeError, OSError, OverflowError, TypeError) as error:  # the last for 65 bits
            newest = max((entry["version"] for entry in self._database.open_table(TABLE).list_versions()), default=0)
            raise NoVersionError(
                f"{self.path} has no version {version}: expected one that versions() lists, the newest is {newest}"
            ) from error

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn what Lance raises into a one-line KnowledgeBaseError."""
        try:
            yield
        except RealmError:
            raise
        except (ValueError, RuntimeError, OSError, pa.ArrowException) as error:
            text = str(error)
            if disk_is_full(error):
                raise DiskFullError(
                    f"the disk is full while writing {self.path}: free some space and do it again; "
                    f"everything committed is still there"
                ) from error
            if write_refused(error) and what in _WRITING:
                raise ReadOnlyError(
                    f"{self.path} can't be written ({_reason(error)}): questions can be asked, nothing can be changed; "
                    f"expected a file system and a user that may write"
                ) from error
            first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            raise KnowledgeBaseError(f"the knowledge base {self.path} could not be {what}: {first[:300]}") from error

    def check_place(self) -> None:
        """CanNotWriteError where the operating system would let nothing be written now."""
        with suppress(InUseError), self.writing(0.0):
            pass

    def check_writable(self) -> None:
        """UsageError when this is a past version."""
        if self.pinned:
            raise UsageError(f"{self.path} is open as of version {self.version}: open it without as_of to write")

    @contextmanager
    def writing(self, timeout: float) -> Iterator[LanceTable]:
        """The newest version, held for writing: no other process or thread writes until the block ends.

        The lock is the operating system's (flock), so it goes when its holder dies, however it dies.
        What the block wrote is on the disk when it has ended, so an acknowledged edit outlives a power cut. So is
        what it committed before it failed: the next edit stands on it, and flushes only its own.
        """
        self.check_writable()
        owner = self.path / ".lock.json"
        lock = filelock.FileLock(self.path / ".lock", timeout=timeout)
        with self.errors("locked for writing"):
            try:
                lock.acquire(poll_interval=0.01)  # an edit that waits for another one waits little longer
            except filelock.Timeout as error:
                raise InUseError(
                    f"{self.path} is being written by {_holder(owner)}: waited {timeout:g} s for it to finish; "
                    f"try again or give a longer lock_timeout"
                ) from error
        try:
            with self.errors("locked for writing"):
                owner.write_text(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S")}))
                # Of the table alone: snapshots beside it are large, and made by others without this lock.
                folder = self.path / f"{TABLE}.lance"
                before = files_of(folder)
            try:
                yield self.table
            except BaseException:
                with suppress(OSError):
                    flush_new(folder, before)
                raise
            with self.errors("written"):
                flush_new(folder, before)
        finally:
            lock.release()


def _reason(error: Exception) -> str:
    found = getattr(error, "strerror", None)
    return str(found or "the operating system refuses it").lower()


def _holder(owner: Path) -> str:
    try:
        facts: Any = json.loads(owner.read_text())
        return f"process {facts['pid']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def read_config(path: Path) -> dict[str, Any]:
    """What kb.json says; KnowledgeBaseError when `path` is no knowledge base that this library reads."""
    if not path.exists():
        raise KnowledgeBaseError(f"no knowledge base at {path}: make one with `realm ingest`, or check the path")
    try:
        config = read_json(path / CONFIG)
    except ArtefactError as error:
        raise KnowledgeBaseError(f"{path} is not a knowledge base ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise KnowledgeBaseError(f"{path / CONFIG} does not describe a {FORMAT}: check the path")
    if config.get("format_version") not in READABLE:
        raise KnowledgeBaseError(
            f"{path} is a {FORMAT} of format version {config.get('format_version')}: "
            f"this library reads versions {READABLE[0]} to {READABLE[-1]}"
        )
    return config


def raise_format(path: Path) -> None:
    """Let kb.json say that the knowledge base is of FORMAT_VERSION; it is held for writing."""
    config = read_config(path)
    if config["format_version"] != FORMAT_VERSION:
        write_json(path / CONFIG, config | {"format_version": FORMAT_VERSION})
