"""Versions by time: which one a moment of the past means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from realm.errors import KnowledgeBaseError, RealmError, UsageError
from realm.knowledge.table import schema as sc
from realm.knowledge.table.listing import Version

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from realm.knowledge.table.store import Store

AsOf = int | datetime
"""A version, or a time; a time without a zone is the machine's local one."""

_COMMITS_BEFORE = 2
"""Commits between the stamp on a write's documents and the commit that holds them: new columns, then the rows."""


def read_as_of(text: str) -> AsOf:
    """A version (digits), or a time in ISO 8601: 2024-05-01T09:30+02:00, a day or a month (its first moment).

    Without a zone it is local time. UsageError when it is neither.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    try:
        return datetime.fromisoformat(f"{text}-01" if re.fullmatch(r"[0-9]{4}-[0-9]{2}", text) else text)
    except ValueError:
        raise UsageError(
            f"found as_of={text!r}: expected a version as 7, or a time as 2024-05-01 or 2024-05-01T09:30+02:00"
        ) from None


def versions(store: Store) -> list[Version]:
    """All versions that can be opened, oldest first. Takes about a millisecond for each."""
    return store.listing.all(store)


def version_at(store: Store, time: datetime) -> int:
    """The newest version none of whose commits is later than a time; a time without a zone is local.

    A version counts from its commit on, or from the time that its documents carry (`Revision.time`), which is a
    little earlier. Where the machine's clock was set back between two versions, those made until it caught up count
    from the moment that it was set back from: so no version is given that holds an edit with a later time on it.
    UsageError before the first version and in the future. Takes about a millisecond for each version, and next to
    nothing once a later version than that time was seen.
    """
    try:
        time = time.astimezone()
    except (OverflowError, ValueError, OSError) as error:
        raise UsageError(f"found as_of={time}: expected a time that a calendar has ({error})") from None
    listed, remembered = store.listing.around(store, time, _COMMITS_BEFORE)
    if not remembered:
        return _last_within(store, listed, time)
    try:
        found = _last_within(store, listed, time)
        store.at(found)
    except RealmError:  # cleaned up since, or not to be told from memory
        return _last_within(store, versions(store), time)
    return found


def _last_within(store: Store, listed: Sequence[Version], time: datetime) -> int:
    if not listed:
        raise KnowledgeBaseError(f"{store.address} has no version that can be opened: expected at least one")
    if time > max(sc.now(), *(version.time for version in listed)):
        raise UsageError(f"found as_of={time.isoformat()}: expected a time that has been, it is {_now_told()} now")
    within = num_within(listed, time)
    # A document's stamp is older than the commit that holds it: the time that a history shows must find its version.
    ahead = within
    while ahead < min(within + _COMMITS_BEFORE, len(listed)):
        stamp = _stamp(store.at(listed[ahead].version), listed[ahead].version)
        ahead += 1
        if stamp is not None and stamp > time:
            break
        within = within if stamp is None else ahead
    if within == 0:
        raise UsageError(
            f"found as_of={time.isoformat()}: expected a time from the first version on, {listed[0].time.isoformat()}"
        )
    return listed[within - 1].version


def moment_of(store: Store, as_of: AsOf | None) -> datetime:
    """What NOW() means as of a version or a time; see `KnowledgeBase.moment`."""
    if as_of is None:
        return sc.now().astimezone()
    if isinstance(as_of, datetime):
        return as_of if as_of.tzinfo is not None else as_of.astimezone()
    found = next((version.time for version in versions(store) if version.version == as_of), None)
    if found is None:
        store.at(as_of)  # tells which versions there are
        raise KnowledgeBaseError(f"{store.address} has no time of version {as_of}: expected one that versions() lists")
    return found


def num_within(listed: Sequence[Version], time: datetime) -> int:
    """How many of the first versions were committed by a time; it ends at the first that is later, so that one which a
    clock set back lets look older than what came before it does not count before that."""
    return next((number for number, version in enumerate(listed) if version.time > time), len(listed))


def _now_told() -> str:
    return sc.now().astimezone().isoformat(timespec="seconds")


def _stamp(table: LanceTable, version: int) -> datetime | None:
    """The time on the documents that a version brought; None where it brought none. One commit has one stamp."""
    rows = f"number = {sc.HEADER} AND version = {version}"
    found = table.search().where(rows).select(["updated_at"]).limit(1).to_arrow()["updated_at"].to_pylist()
    return found[0] if found else None
