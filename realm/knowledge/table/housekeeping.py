"""Keeping a table quick to read: small files folded together, indexes brought up to date, old versions let go.

Every edit is a file of its own (Lance calls it a fragment), and what looks for a few rows opens them all. Lance's own
compaction rewrites whole fragments of up to a million rows and the indexes with them, which takes long and much disk;
so the newest fragments are folded into one as soon as there are some dozens, as in a log-structured merge tree
(O'Neil, Cheng, Gawlick & O'Neil 1996): a fragment goes in when what is folded with it is about as large, so a row is
moved as many times as the logarithm of what comes after it. Each of these is one commit, which leaves every row as it
was, and a reader on another version sees nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from realm.errors import UsageError
from realm.knowledge.table import near
from realm.knowledge.table import schema as sc
from realm.knowledge.table.keys import GONE, has_keys, lay_indexes

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from realm.knowledge.table.places import Place

MANY_FRAGMENTS = 32
SMALL = 1024
"""Rows up to which a fragment is always folded."""
UNINDEXED = 10_000
"""Rows that an index which is searched may lack, besides a tenth of what it has."""
GRACE = timedelta(minutes=10)
"""Versions younger than this are never let go: somebody may be reading them."""
_FOR_EVER = timedelta(days=36_500)
_MEANWHILE = timedelta(seconds=60)
"""Lance counts ages from the moment it comes to clean up."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was let go."""

    versions: int
    bytes: int | None
    """None where it can't be told, as in an object store."""


def tidy(table: LanceTable) -> bool:
    """Do what is worth its time now; whether anything was. Old versions stay. table: held for writing."""
    if _lacks_index(table):
        _optimize(table, _FOR_EVER)
        return True
    if _small_fragments(table) <= MANY_FRAGMENTS:
        return False
    if not fold(table):
        _optimize(table, _FOR_EVER)
    return True


def is_worth_tidying(table: LanceTable) -> bool:
    """Whether `tidy` would do anything; nobody need be held up to know it."""
    return _small_fragments(table) > MANY_FRAGMENTS or _lacks_index(table)


def fold(table: LanceTable) -> bool:
    """Fold the newest fragments into one, in one commit; whether there were two or more. Reads the rows' addresses."""
    found = table.search().select(["number"]).with_row_id(True).to_batches(65_536)
    counts: dict[int, int] = {}
    for batch in found:
        fragments, sizes = np.unique(batch["_rowid"].to_numpy() >> np.uint64(32), return_counts=True)
        for fragment, size in zip(fragments.tolist(), sizes.tolist(), strict=True):
            counts[fragment] = counts.get(fragment, 0) + size
    first, rows, number = None, 0, 0
    for fragment in sorted(counts, reverse=True):
        if counts[fragment] > max(SMALL, 2 * rows):
            break
        first, rows, number = fragment, rows + counts[fragment], number + 1
    if first is None or number < 2:
        return False
    table.update(where=f"_rowid >= {first << 32}", values_sql={"number": "number"})
    return True


def compact(table: LanceTable) -> int:
    """Merge files, remove rows that hold nothing, bring the indexes up to date; the new version. Old versions stay, and
    with them the files that they alone need: compacting takes room. table: held for writing."""
    if has_keys(table.schema):
        lay_indexes(table)
        if table.count_rows(f"number = {GONE}"):
            table.delete(f"number = {GONE}")
    _optimize(table, _FOR_EVER, leftovers=True)
    return int(table.version)


def reclaim(table: LanceTable, place: Place, older_than: timedelta | None, keep_versions: int | None) -> Reclaimed:
    """Let old versions go, and the files that they alone need.

    older_than: those made longer ago than this. keep_versions: all but so many, the newest. With both, what either
    keeps stays. Never let go are the newest version and those of the last GRACE: somebody may be reading them.
    table: held for writing. place: of the knowledge base. UsageError with neither, for a number below 1 and for a
    negative time.
    """
    if older_than is None and keep_versions is None:
        raise UsageError("found neither an age nor a number of versions to keep: expected one; nothing was removed")
    if keep_versions is not None and keep_versions < 1:
        raise UsageError(f"found keep_versions={keep_versions}: expected at least 1")
    if older_than is not None and older_than < timedelta(0):
        raise UsageError(f"found older_than={older_than}: expected no negative time")
    age = max(_age_to_keep(table, older_than, keep_versions), GRACE)
    versions, size = len(table.list_versions()), place.size()
    _optimize(table, age, leftovers=True)
    left = place.size()
    freed = None if size is None or left is None else max(0, size - left)
    return Reclaimed(max(0, versions - len(table.list_versions())), freed)


def _age_to_keep(table: LanceTable, older_than: timedelta | None, keep_versions: int | None) -> timedelta:
    age = older_than or timedelta(0)
    if keep_versions is not None:
        newest = sorted(table.list_versions(), key=lambda version: version["version"])[-keep_versions:]
        oldest = min(version["timestamp"] for version in newest).astimezone(UTC)  # a clock may have been set back
        age = max(age, datetime.now(UTC) - oldest + _MEANWHILE)
    return age


def _optimize(table: LanceTable, keep: timedelta, leftovers: bool = False) -> None:
    """Compact, index, and let go versions older than `keep`; by itself Lance would take a week.

    leftovers: with the files of writes that came to nothing (killed, no room). Lance keeps these for a week, lest
    somebody is still writing them; that nobody is, the lock says.
    """
    near.make_ready(table)
    table.optimize(cleanup_older_than=keep, delete_unverified=leftovers)


def _lacks_index(table: LanceTable) -> bool:
    unindexed = _unindexed(table)
    return unindexed > UNINDEXED and unindexed > table.count_rows() // 10


def _unindexed(table: LanceTable) -> int:
    """Rows that the index of the texts lacks, or one of vectors: what comes later, and the whole of every fragment some
    of whose rows were embedded since. They are searched one by one until they are taken in."""
    columns = {index.name: index.columns[0] for index in table.list_indices()}
    searched = [name for name, column in columns.items() if name == "text_idx" or column.startswith(sc.VECTOR)]
    stats = [table.index_stats(name) for name in searched]
    return max((int(found.num_unindexed_rows) for found in stats if found is not None), default=0)


def _small_fragments(table: LanceTable) -> int:
    stats: Any = table.stats()
    return int(stats["fragment_stats"]["num_small_fragments"])
