"""What edits changed since a version: found by indexes, so that it costs what was changed and not what there is.

Every change of a document, a deletion too, writes its version on the document's header row. So the headers with a later
version name the documents, and their rows say what they hold now. What else makes a version (vectors, indexes, rows
moved by housekeeping) changes no text.

Legend: M passages, D vector size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from realm.knowledge.table import schema as sc
from realm.knowledge.table import vectors as vec
from realm.knowledge.table.reading import FOUND, Match, match_of

if TYPE_CHECKING:
    from lancedb.table import LanceTable

MANY = 4_096
"""Documents, or passages; with more it is better to read everything anew."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The documents that changed between two versions, and what an encoder has of them in the later one."""

    documents: list[str]
    """Also those that are deleted now."""
    matches: list[Match]
    """Their passages, score 0."""
    vector_MD: np.ndarray
    waiting: int
    """How many of their passages the encoder has not embedded; these are not in `matches`."""


def since(table: LanceTable, version: int, encoder: str) -> Changes | None:
    """What changed after `version`, as of the version that `table` is pinned to; None where that is MANY.

    UsageError where the encoder has no vectors.
    """
    name, dim = vec.choose(table.schema, encoder)
    ids = vec.changed_since(table, version, limit=MANY + 1)
    if len(ids) > MANY:
        return None
    if not ids:
        return Changes([], [], np.zeros((0, dim), np.float32), 0)
    rows = f"document_id IN ({sc.quoted(ids)}) AND number >= 0"
    found = table.search().where(rows).select([*FOUND, name]).limit(MANY + 1).to_arrow()
    if found.num_rows > MANY:
        return None
    embedded = found.filter(found[name].is_valid())
    flat = embedded[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matches = [match_of(row, 0.0) for row in embedded.drop_columns([name]).to_pylist()]
    waiting = found.num_rows - len(matches)
    return Changes(ids, matches, np.array(flat, np.float32).reshape(len(matches), dim), waiting)


def addresses(table: LanceTable, documents: Sequence[str]) -> np.ndarray:
    """uint64[M]: where the passages of some documents stand in the version that `table` is pinned to."""
    if not documents:
        return np.zeros(0, np.uint64)
    rows = f"document_id IN ({sc.quoted(documents)}) AND number >= 0"
    found: np.ndarray = table.search().where(rows).select(["number"]).with_row_id(True).to_arrow()["_rowid"].to_numpy()
    return found
