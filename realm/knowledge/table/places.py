"""Where a knowledge base lies, and what differs between a folder and an object store: how its description and its
folders are kept, who holds it for writing, and what an error of Lance means. The rest is one code for both.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import filelock
import pyarrow as pa

from realm.errors import ArtefactError, KnowledgeBaseError, RealmError
from realm.files import disk_is_full, read_json, staged_folder, write_json, write_refused
from realm.knowledge.table.flushing import Names, files_of, flush_new
from realm.knowledge.table.refused import DiskFullError, InUseError, ReadOnlyError

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import LanceTable

TABLE = "passages"
CONFIG = "kb.json"
WRITING = frozenset({"laid", "locked for writing", "written", "compacted", "indexed", "tidied"})
METADATA_CACHE = 16 << 20
"""Bytes. Every version leaves 0.06 MB there that nobody asks for again: with Lance's own limit, 1 GiB, a process that
follows edits seems to leak. What Lance counts as 16 MiB is 28 in memory; 260 edits fill it."""
INDEX_CACHE = 1 << 30
"""Bytes. Every version leaves 0.005 MB there too, and Lance's own limit is 6 GiB. Lance caches no entry that is larger
than the limit; of ten million passages the largest would be the text index's list of them, about 120 MB by its form."""
FRESH = timedelta(0)
"""Every read looks for a newer commit, so an open reader sees an edit at its next question."""


class Hold(Protocol):
    """A knowledge base held for writing."""

    def check(self) -> None:
        """To be asked before a commit: KnowledgeBaseError where the hold was lost meanwhile."""


class Place(Protocol):
    """A folder, or an address of an object store."""

    @property
    def address(self) -> str:
        """What messages and manifests name it by."""

    @property
    def folder(self) -> Path:
        """The folder of this machine that holds what is made from the knowledge base: snapshots and the like."""

    @property
    def keeps_handles(self) -> bool:
        """Whether what was opened of a version may be used again: not where another may be laid in its place."""

    @property
    def look_every(self) -> int:
        """Of so many versions one is looked at for whether the table wants tidying."""

    @property
    def identity(self) -> tuple[int, int]:
        """Tells it from another that is laid in its place later, whose versions have the same numbers."""

    def connect(self) -> lancedb.DBConnection:
        """To its tables; every read sees the newest commit."""

    def is_laid(self) -> bool:
        """Whether there is a knowledge base."""

    def read_config(self) -> dict[str, Any]:
        """What its description says, unchecked. KnowledgeBaseError when there is none."""

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Describe it anew, whole or not at all; it is held for writing."""

    def laying(self, config: Mapping[str, Any]) -> AbstractContextManager[Place]:
        """A place where its tables are to be laid; when the block ends without an error it is a knowledge base that
        `config` describes. KnowledgeBaseError when something is there already."""

    def held(self, timeout: float) -> AbstractContextManager[Hold]:
        """Held for writing: nobody else writes until the block ends, and then what was committed is safe.

        timeout: seconds to wait for another writer; InUseError after that.
        """

    def kept(self, name: str) -> Path | None:
        """A folder that is kept with the knowledge base, on this machine; None where there is none yet."""

    def keep(self, name: str) -> AbstractContextManager[Path]:
        """A folder to fill, kept with the knowledge base when the block ends without an error."""

    def to_write(self, table: LanceTable) -> LanceTable:
        """The newest version of the table, for him who holds it: `table`, or a handle that stays where it is, so that
        it asks for less, and what it commits is refused when the hold was lost and taken over."""

    def tidy(self, thorough: bool = False) -> None:
        """Clear away what writing leaves besides versions of the table, where it is much; `thorough`: in any case."""

    def size(self) -> int | None:
        """Bytes of all files, or None where that can't be told."""

    def explain(self, error: Exception, what: str) -> RealmError:
        """What Lance raised, in one line. what: what could not be done, a participle."""


@contextmanager
def explained(place: Place, what: str) -> Iterator[None]:
    """Turn what Lance raises into an error of ours, see `Place.explain`."""
    try:
        yield
    except RealmError:
        raise
    except (ValueError, RuntimeError, OSError, pa.ArrowException) as error:
        told = place.explain(error, what)
        raise told from told.__cause__ or error


class Folder:
    """A knowledge base in a folder of this machine."""

    keeps_handles, look_every = False, 1

    def __init__(self, path: Path) -> None:
        self.folder = path
        self._flushed: tuple[str, Names] = "", {}
        """The last writing through this place that was flushed, by its mark, and the files that were there then."""

    @property
    def address(self) -> str:
        return str(self.folder)

    @property
    def identity(self) -> tuple[int, int]:
        with explained(self, "read"):
            found = (self.folder / CONFIG).stat()
        return found.st_ino, found.st_mtime_ns

    def connect(self) -> lancedb.DBConnection:
        import lancedb

        session = lancedb.Session(INDEX_CACHE, metadata_cache_size_bytes=METADATA_CACHE)
        return lancedb.connect(str(self.folder), read_consistency_interval=FRESH, session=session)

    def is_laid(self) -> bool:
        return (self.folder / CONFIG).exists()

    def read_config(self) -> dict[str, Any]:
        if not self.folder.exists():
            raise KnowledgeBaseError(
                f"no knowledge base at {self.folder}: make one with `realm ingest`, or check the path"
            )
        try:
            found = read_json(self.folder / CONFIG)
        except ArtefactError as error:
            raise KnowledgeBaseError(f"{self.folder} is not a knowledge base ({error})") from error
        return found if isinstance(found, dict) else {}

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_json(self.folder / CONFIG, dict(config))

    @contextmanager
    def laying(self, config: Mapping[str, Any]) -> Iterator[Place]:
        path = self.folder
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise KnowledgeBaseError(f"{path} is there already and not empty: open it, or give another path")
        with staged_folder(path) as staged:
            yield Folder(staged)
            write_json(staged / CONFIG, dict(config))

    @contextmanager
    def held(self, timeout: float) -> Iterator[Hold]:
        """The lock is the operating system's (flock), so it goes when its holder dies, however it dies.

        What the block wrote is on the disk when it has ended, so an acknowledged edit outlives a power cut. So is
        what it committed before it failed, as the next edit stands on it. What nobody flushed, because its writer was
        killed before it could, the next writer flushes, whole.
        """
        owner = self.folder / ".lock.json"
        lock = filelock.FileLock(self.folder / ".lock", timeout=timeout)
        with explained(self, "locked for writing"):
            try:
                lock.acquire(poll_interval=0.01)  # an edit that waits for another one waits little longer
            except filelock.Timeout as error:
                raise InUseError(
                    f"{self.folder} is being written by {_holder(owner)}: waited {timeout:g} s for it to finish; "
                    f"try again or give a longer lock_timeout"
                ) from error
        try:
            with explained(self, "locked for writing"):
                # Of the table alone: snapshots beside it are large, and made by others without this lock.
                table, last = self.folder / f"{TABLE}.lance", _mark(owner)
                mine, names = self._flushed
                before = {} if last == _UNFLUSHED else names if last and last == mine else files_of(table)
                facts = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S")}
                owner.write_text(json.dumps(facts))
            try:
                yield _ForEver()
            except BaseException:
                with suppress(OSError):
                    self._flush(table, before, owner, facts)
                raise
            with explained(self, "written"):
                self._flush(table, before, owner, facts)
        finally:
            lock.release()

    def _flush(self, table: Path, before: Names, owner: Path, facts: Mapping[str, Any]) -> None:
        mark, names = uuid.uuid4().hex, flush_new(table, before)
        with suppress(OSError):  # what was committed has not failed for that; the next writer flushes it once more
            owner.write_text(json.dumps({**facts, "flushed": mark}))
            self._flushed = mark, names

    def kept(self, name: str) -> Path | None:
        folder = self.folder / name
        return folder if folder.exists() else None

    def keep(self, name: str) -> AbstractContextManager[Path]:
        return staged_folder(self.folder / name)

    def to_write(self, table: LanceTable) -> LanceTable:
        return table

    def tidy(self, thorough: bool = False) -> None:
        return

    def size(self) -> int | None:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def explain(self, error: Exception, what: str) -> RealmError:
        if disk_is_full(error):
            return DiskFullError(
                f"the disk is full while writing {self.folder}: free some space and do it again; "
                f"everything committed is still there"
            )
        if write_refused(error) and what in WRITING:
            return ReadOnlyError(
                f"{self.folder} can't be written ({_reason(error)}): questions can be asked, nothing can be changed; "
                f"expected a file system and a user that may write"
            )
        return KnowledgeBaseError(f"the knowledge base {self.folder} could not be {what}: {first_line(error)}")


class _ForEver:
    """A hold that can't be lost."""

    def check(self) -> None:
        return


def first_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]


def _reason(error: Exception) -> str:
    found = getattr(error, "strerror", None)
    return str(found or "the operating system refuses it").lower()


_UNFLUSHED = "unflushed"


def _mark(owner: Path) -> str:
    """Of the last writing, which it left when all of it was flushed; _UNFLUSHED where it left none, "" where there was
    no writing."""
    try:
        return str(json.loads(owner.read_text())["flushed"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return _UNFLUSHED


def _holder(owner: Path) -> str:
    try:
        facts: Any = json.loads(owner.read_text())
        return f"process {facts['pid']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
