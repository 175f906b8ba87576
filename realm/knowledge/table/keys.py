"""One key a row, so that a commit finds the rows it replaces by an index, whatever the size of the table.

The key is the row's number and its document's id. Lance replaces rows by one indexed column without reading the
others; rows that are to go can't be told to it in the same commit without a scan of the whole table. So a passage that
an edit leaves without a successor is not deleted but emptied: its row keeps its key, and its number becomes GONE, which
no reading asks for. A later edit that needs the passage again takes the row over; `housekeeping` removes what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from realm.knowledge.table.schema import KEY, row_key
from realm.knowledge.table.store import raise_format

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from realm.knowledge.table.store import Store

GONE = -2
"""The number of a row that holds nothing any more."""
INDEXED = ("document_id", KEY, "version")
"""Columns with an index of their values: rows by document, rows to replace, documents that changed since a version."""
_UNINDEXED = 1_000
_EXPRESSION = "concat(cast(number as string), '#', document_id)"


def emptied(document_id: str, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    """What is left of passages that are there no more. Without a document, so that nothing finds them."""
    for number in numbers:
        yield {KEY: row_key(document_id, number), "number": GONE}


def has_keys(schema: pa.Schema) -> bool:
    return KEY in schema.names


def lay_keys(store: Store, table: LanceTable) -> None:
    """Give a table that an older version of this library made its keys; one that has them is left alone.

    A few commits, each harmless by itself. table: of `store`, held for writing.
    """
    if not has_keys(table.schema):
        with store.errors("written"):
            # Said first: a library that knows nothing of keys would write rows without any.
            raise_format(store.place)
            table.add_columns({KEY: _EXPRESSION})
            lay_indexes(table)


def lay_indexes(table: LanceTable) -> None:
    """Make those of INDEXED that are missing, for a crash may have left some out. table: held for writing."""
    from lancedb.index import BTree

    for column in INDEXED:
        if table.index_stats(f"{column}_idx") is None:
            table.create_index(column, config=BTree())


def index_keys(table: LanceTable) -> None:
    """Make the index of the keys anew where it lacks many: a merge of single columns drops what it touches from it."""
    from lancedb.index import BTree

    index = table.index_stats(f"{KEY}_idx")
    if index is None or index.num_unindexed_rows > _UNINDEXED:
        table.create_index(KEY, config=BTree(), replace=True)
