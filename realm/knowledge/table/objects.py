"""A knowledge base in an object store. Lance alone talks to the store, so whatever it reads and writes there is served,
with the environment variables and the credentials that it knows.

Beside the table of passages lie two small ones. ``kb`` is written last when a knowledge base is laid: what it is, which
in a folder is kb.json, stands in its metadata, and its rows are the files of the folders that are kept with it.
``writer`` holds the lease of him who writes.
"""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from filelock import FileLock

from realm.errors import KnowledgeBaseError, RealmError
from realm.files import fingerprint, staged_folder
from realm.knowledge.table import object_errors
from realm.knowledge.table.lease import FIELD, Lease
from realm.knowledge.table.places import (
    FRESH,
    INDEX_CACHE,
    METADATA_CACHE,
    TABLE,
    Hold,
    Place,
    explained,
)

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import LanceTable

ABOUT, WRITER = "kb", "writer"
MANY_LEASES, OLD = 64, timedelta(minutes=10)
"""Each leaves two versions of its table. Those that are old nobody reads, or waits by, any more."""
_DESCRIPTION, _NAME, _CONTENT = "realm:kb", "name", "content"


class ObjectStore:
    """A knowledge base at an address."""

    keeps_handles, look_every = True, 8

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._connections: dict[tuple[bool, bool], lancedb.DBConnection] = {}
        self._config: dict[str, Any] | None = None
        self._leases = 0

    # ------------------------------------------------------------ its tables

    def connect(self) -> lancedb.DBConnection:
        """One connection for all that stand on this place: each would shake hands with the store anew."""
        return self._connected(fresh=True, brisk=False)

    def _connect_still(self) -> lancedb.DBConnection:
        """Whose tables stay on the version that was read, until they are told to look for another. What is asked of it
        is small, and it is asked first: so it finds out soon that nobody answers."""
        return self._connected(fresh=False, brisk=True)

    def _connected(self, fresh: bool, brisk: bool) -> lancedb.DBConnection:
        import lancedb

        with self._lock:
            if (fresh, brisk) not in self._connections:
                self._connections[fresh, brisk] = lancedb.connect(
                    self.address,
                    read_consistency_interval=FRESH if fresh else None,
                    session=lancedb.Session(INDEX_CACHE, metadata_cache_size_bytes=METADATA_CACHE),
                    storage_options=object_errors.patience(os.environ, brisk=brisk),
                )
            return self._connections[fresh, brisk]

    def _open(self, name: str) -> LanceTable:
        table: LanceTable = self._connect_still().open_table(name)  # type: ignore[assignment]
        return table

    def _tables(self) -> list[str]:
        return list(self._connect_still().list_tables().tables)

    # ------------------------------------------------------------ what it is

    def is_laid(self) -> bool:
        return self._described() is not None

    def read_config(self) -> dict[str, Any]:
        found = self._described()
        if found is None:
            raise KnowledgeBaseError(
                f"no knowledge base at {self.address}: make one with `realm ingest`, or check the address"
            )
        return dict(found)

    def _described(self) -> dict[str, Any] | None:
        """Read once: it changes with the format alone, which an object store has had in one version only."""
        if self._config is None:
            with explained(self, "opened"):
                database = self._connect_still()
                try:
                    table = database.open_table(ABOUT)
                except ValueError as error:
                    if f"Table '{ABOUT}' was not found" in str(error):
                        return None
                    raise
                told = (table.schema.field(_NAME).metadata or {}).get(_DESCRIPTION.encode(), b"{}")
                self._config = json.loads(told)
        return self._config

    def write_config(self, config: Mapping[str, Any]) -> None:
        with explained(self, "written"):
            table = self._open(ABOUT)
            table.update_field_metadata({"path": _NAME, "metadata": {_DESCRIPTION: json.dumps(config)}})
        self._config = dict(config)

    @property
    def identity(self) -> tuple[int, int]:
        """Read once, too: who follows a knowledge base that is removed and laid anew has to open it anew."""
        return int(str(self.read_config().get("identity", "0")), 16), 0

    @property
    def folder(self) -> Path:
        """In the cache; named by the identity, too, so that nothing is taken for another's."""
        from realm.knowledge.fetching import cache_folder

        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.address.partition("://")[2])[-60:].strip("-.")
        return cache_folder() / "knowledge-bases" / f"{name}-{fingerprint(self.address, str(self.identity))}"

    @contextmanager
    def laying(self, config: Mapping[str, Any]) -> Iterator[Place]:
        with explained(self, "laid"):
            database = self._connect_still()
            there = set(self._tables())
            if ABOUT in there or there - {TABLE, WRITER} or (TABLE in there and WRITER not in there):
                raise KnowledgeBaseError(
                    f"{self.address} is there already and not empty: open it, or give another address"
                )
            if WRITER not in there:
                try:
                    database.create_table(WRITER, schema=pa.schema([pa.field(FIELD, pa.string())]))
                except ValueError as error:  # somebody else lays one here, too: the lease tells who comes first
                    if "already exists" not in str(error):
                        raise
        with self.held(60.0) as hold:
            with explained(self, "laid"):
                if ABOUT in self._tables():
                    raise KnowledgeBaseError(f"{self.address} was made by somebody else just now: open it")
                if TABLE in self._tables():  # of a laying that was killed
                    database.drop_table(TABLE)
            yield self
            with explained(self, "laid"):
                hold.check()
                described = dict(config) | {"identity": uuid.uuid4().hex[:16]}
                name = pa.field(_NAME, pa.string(), metadata={_DESCRIPTION: json.dumps(described)})
                database.create_table(ABOUT, schema=pa.schema([name, pa.field(_CONTENT, pa.large_binary())]))
        self._config = described

    # ------------------------------------------------------------ writing

    @contextmanager
    def held(self, timeout: float) -> Iterator[Hold]:
        """By a lease, see `lease`. What Lance has committed is in the store: there is nothing to flush."""
        lease = Lease(lambda: self._open(WRITER), self.address, self._fence)
        with explained(self, "locked for writing"):
            hold = lease.take(timeout)
        try:
            yield hold
        finally:
            lease.give_back(hold)
            self._leases += 1

    def _fence(self) -> None:
        """Let nothing that the writer before has begun be committed: Lance refuses every commit that was begun before a
        version was restored, and this restores the newest."""
        if TABLE not in self._tables():
            return
        table = self._open(TABLE)
        kept = int(table.version)
        while True:
            table.checkout(kept)
            table.restore()
            if int(table.version) == kept + 1:
                return
            kept = int(table.version) - 1  # he committed in this very moment: that is what is to be kept

    # ------------------------------------------------------------ folders kept with it

    def kept(self, name: str) -> Path | None:
        """Brought into `folder` once."""
        here = self.folder / name
        if here.exists():
            return here
        with explained(self, "read"):
            rows = self._open(ABOUT).search().where(f"starts_with({_NAME}, '{name}/')")
            found = rows.select([_NAME, _CONTENT]).to_arrow().to_pylist()
        if not found:
            return None
        here.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(here.with_name(f".{name}.lock")):  # another process may begin at the same moment
            if here.exists():
                return here
            with staged_folder(here) as staged:
                for row in found:
                    place = staged / row[_NAME].removeprefix(f"{name}/")
                    if staged.resolve() not in place.resolve().parents:
                        raise KnowledgeBaseError(f"{self.address} holds a file {row[_NAME]!r}: expected one of {name}/")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(row[_CONTENT])
        return here

    @contextmanager
    def keep(self, name: str) -> Iterator[Path]:
        with TemporaryDirectory(prefix="realm-") as temporary:
            yield Path(temporary)
            files = sorted(file for file in Path(temporary).rglob("*") if file.is_file())
            names = [f"{name}/{file.relative_to(temporary).as_posix()}" for file in files]
            rows = {_NAME: pa.array(names), _CONTENT: pa.array([f.read_bytes() for f in files], pa.large_binary())}
        with explained(self, "written"):
            merge = self._open(ABOUT).merge_insert(_NAME)
            merge.when_matched_update_all().when_not_matched_insert_all().execute(pa.table(rows))

    # ------------------------------------------------------------ errors

    def to_write(self, table: LanceTable) -> LanceTable:
        with explained(self, "opened"):
            found: LanceTable = self._connected(fresh=False, brisk=False).open_table(TABLE)  # type: ignore[assignment]
        return found

    def tidy(self, thorough: bool = False) -> None:
        """Let old versions of the lease go: to find the newest, Lance lists them all, a thousand at once."""
        if thorough or self._leases >= MANY_LEASES:
            self._leases = 0
            with explained(self, "tidied"):
                self._open(WRITER).optimize(cleanup_older_than=OLD)

    def size(self) -> int | None:
        return None

    def explain(self, error: Exception, what: str) -> RealmError:
        return object_errors.explain(error, what, self.address)
