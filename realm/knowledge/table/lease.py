"""One writer at a time where there are no locks: a lease (Gray & Cheriton 1989, "Leases: an efficient fault-tolerant
mechanism for distributed file cache consistency") that stands in the metadata of a small Lance table.

Lance refuses a change of metadata which somebody else has changed since it was read, by committing each version under a
name that the store lets be written once. That is all that is asked of the store.

A holder adds one to `beat` every few seconds. One whose beat stood still for the length of the lease, by the clock of
him who waits, is taken for dead: no two machines' clocks are compared. One that died on the machine of him who waits is
known at once.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import KnowledgeBaseError, RealmError
from realm.knowledge.table.refused import InUseError

if TYPE_CHECKING:
    from lancedb.table import LanceTable

log = logging.getLogger("realm.knowledge")

FIELD, KEY = "writer", "realm:writer"
SECONDS = 30.0
"""Length of a lease."""
TRUSTED = 0.8
"""The part of it that its holder counts on; the rest is for clocks that don't run alike."""
BEATS = 5
"""In the length of a lease."""
_POLL = 0.05, 0.2


@dataclass(frozen=True, slots=True)
class Entry:
    """Who writes."""

    holder: str = ""
    """One hold, by a name that is used once; empty where nobody writes."""
    beat: int = 0
    who: str = ""
    """For people."""
    machine: str = ""
    pid: int = 0

    def dead(self) -> bool:
        """Whether the holder was a process of this very machine that is there no more."""
        if not self.machine or self.machine != this_machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


class Held:
    """A lease that is held. table: on the version that tells so. until: by the clock that never goes back."""

    def __init__(self, table: LanceTable, entry: Entry, address: str, until: float) -> None:
        self.table, self.entry, self.address, self.until = table, entry, address, until
        self.done = threading.Event()
        self.renewing: threading.Thread | None = None

    def check(self) -> None:
        """KnowledgeBaseError where it was not renewed in time, so that another may be writing."""
        if time.monotonic() >= self.until:
            raise KnowledgeBaseError(
                f"the hold on {self.address} was lost: it could not be renewed in time, and somebody else may be "
                "writing; nothing of this commit was written, do it again"
            )


class Lease:
    """The right to write to what lies at `address`.

    table: opens the table of the lease anew; such that its reads don't look for newer versions by themselves.
    fence: called when the lease is taken from somebody who may not know it: nothing that he has begun may be committed
    after that.
    """

    def __init__(
        self, table: Callable[[], LanceTable], address: str, fence: Callable[[], None], seconds: float | None = None
    ) -> None:
        self.table, self.address, self.fence = table, address, fence
        self.seconds = SECONDS if seconds is None else seconds

    def take(self, timeout: float) -> Held:
        """Hold it, until it is given back. InUseError when somebody else does for `timeout` seconds."""
        held = self._take(self.table(), timeout)
        held.renewing = threading.Thread(target=self._renew, args=(held,), daemon=True, name="realm-lease")
        held.renewing.start()
        return held

    def give_back(self, held: Held) -> None:
        """Let it go. Raises nothing: what was committed is committed, and the next writer only waits longer."""
        held.done.set()
        if held.renewing is not None:
            held.renewing.join()
        try:
            self._swap(held.table, Entry(beat=held.entry.beat + 1))
        except (RealmError, RuntimeError, ValueError, OSError) as error:
            log.warning("%s stays held for %g s: %s", self.address, self.seconds, type(error).__name__)

    def _take(self, table: LanceTable, timeout: float) -> Held:
        began = since = time.monotonic()
        seen = read(table)
        while True:
            found, at = read(table), time.monotonic()
            if (found.holder, found.beat) != (seen.holder, seen.beat):
                seen, since = found, at
            gone = bool(found.holder) and (found.dead() or at - since >= self.seconds)
            if gone or not found.holder:
                mine = Entry(uuid.uuid4().hex, found.beat + 1, _myself(), this_machine(), os.getpid())
                if self._swap(table, mine):
                    held = Held(table, mine, self.address, at + TRUSTED * self.seconds)
                    if gone:
                        log.warning("took over %s from %s, who writes no more", self.address, found.who)
                        self.fence()
                    return held
                continue  # somebody else was quicker
            if at - began >= timeout:
                raise InUseError(
                    f"{self.address} is being written by {found.who}: waited {timeout:g} s for it to finish; try again "
                    f"or give a longer lock_timeout (a writer that died is let go of after {self.seconds:g} s)"
                )
            time.sleep(random.uniform(*_POLL))
            table.checkout_latest()

    def _renew(self, held: Held) -> None:
        while not held.done.wait(self.seconds / BEATS):
            began, entry = time.monotonic(), replace(held.entry, beat=held.entry.beat + 1)
            try:
                if not self._swap(held.table, entry):
                    held.until = 0.0  # taken by another
                    return
            except (RealmError, RuntimeError, ValueError, OSError):
                continue  # it is tried again; `until` tells whether that was in time
            held.entry, held.until = entry, began + TRUSTED * self.seconds

    def _swap(self, table: LanceTable, entry: Entry) -> bool:
        """Put an entry in the place of the one that `table` has read; False where another stands there by now."""
        try:
            table.update_field_metadata({"path": FIELD, "metadata": {KEY: json.dumps(asdict(entry))}})
        except RuntimeError as error:
            if not conflict(error):
                raise
            table.checkout_latest()
            return read(table) == entry  # the store may have done it, and its answer was lost
        return True


def read(table: LanceTable) -> Entry:
    """The entry of the version that `table` stands on."""
    told = (table.schema.field(FIELD).metadata or {}).get(KEY.encode())
    facts: dict[str, Any] = {} if told is None else json.loads(told)
    return Entry(**facts)


def conflict(error: Exception) -> bool:
    """Whether Lance refused a commit because of another one that came first."""
    text = str(error)
    return any(words in text for words in ("Incompatible transaction", "ommit conflict", "concurrent writers"))


def this_machine() -> str:
    """Names the running system and its space of process ids; empty where that can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%dT%H:%M:%S%z')}"
