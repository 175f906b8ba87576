"""Metadata as columns of the table: which ones documents need, and what doesn't fit.

A column has one type from the first commit on that fills it. Within a batch that brings a new one, the type (and the
spelling of the key) that most of its documents have decides, so that one odd record doesn't choose for all others.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from realm.errors import DataError
from realm.knowledge.table.schema import VECTOR, metadata_columns
from realm.types import Document

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_TYPES: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_NUMBERS = (pa.int64(), pa.float64())


class Misfit(NamedTuple):
    """What keeps a document's metadata out of the table."""

    found: str
    expected: str


OnMisfit = Callable[[Document, Misfit], None]


def new_columns(documents: Sequence[Document], schema: pa.Schema) -> list[pa.Field]:
    """Metadata columns that `documents` need and `schema` lacks. DataError when a value doesn't fit its column.

    An int goes into a float column as a float; no other type is converted.
    """
    columns = _Columns(schema)
    for document in documents:
        misfit = columns.take(document)
        if misfit is not None:
            raise DataError(
                f"document {document.id!r}: found {misfit.found}, expected {misfit.expected}; mend it or rename the key"
            )
    return [pa.field(name, kind) for name, kind in columns.fresh.items()]


def fitting(documents: Sequence[Document], schema: pa.Schema) -> tuple[list[Document], list[tuple[Document, Misfit]]]:
    """The documents of a batch that go into a table of this schema together, and the others with what is wrong."""
    together = _Columns(schema)
    if all(together.take(document) is None for document in documents):
        return list(documents), []
    wanted = pa.schema([*schema, *_most_have(documents, schema)])
    kept, misfits = [], []
    for document in documents:
        misfit = _Columns(wanted).take(document)
        if misfit is None:
            kept.append(document)
        else:
            misfits.append((document, misfit))
    return kept, misfits


class _Columns:
    """The columns of a table and those that documents need besides."""

    def __init__(self, schema: pa.Schema) -> None:
        self.known = metadata_columns(schema)
        self.fresh: dict[str, pa.DataType] = {}
        self._folded = {name.lower(): name for name in schema.names}  # SQL names don't tell cases apart

    def take(self, document: Document) -> Misfit | None:
        """Make room for a document's metadata; what doesn't fit, if something doesn't."""
        for key, value in document.metadata.items():
            kind = _TYPES.get(type(value))
            if kind is None:
                return Misfit(f"metadata {key!r} that is a {type(value).__name__}", "str, int, float or bool")
            if key not in self.known and key not in self.fresh:
                misfit = _misnamed(key) or self._clash(key)
                if misfit is not None:
                    return misfit
                self._folded[key.lower()] = key
                self.fresh[key] = kind
                continue
            have = self.known.get(key) or self.fresh[key]
            if kind == have or (kind == pa.int64() and have == pa.float64()):
                continue
            if key in self.fresh and kind in _NUMBERS and have in _NUMBERS:
                self.fresh[key] = pa.float64()
                continue
            return Misfit(
                f"metadata {key!r} that is {_short(value)} ({kind})",
                f"one type in every document, and the column holds {have}",
            )
        return None

    def _clash(self, key: str) -> Misfit | None:
        taken = self._folded.get(key.lower())
        if taken is None:
            return None
        return Misfit(f"the metadata key {key!r}, which names the same column as {taken!r}", "one spelling, or another")


def _misnamed(key: str) -> Misfit | None:
    if not _NAME.match(key):
        found = f"the metadata key {key!r}, which can't name a column"
        return Misfit(found, "a letter, then letters, digits and underscores")
    if key.startswith(VECTOR):
        return Misfit(f"the metadata key {key!r}, which begins with {VECTOR!r}", "another name")
    return None


def _most_have(documents: Sequence[Document], schema: pa.Schema) -> list[pa.Field]:
    """The new columns of a batch as most of the documents that have them want them."""
    taken = {name.lower() for name in schema.names}
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[pa.DataType]] = defaultdict(Counter)
    for document in documents:
        for key, value in document.metadata.items():
            kind = _TYPES.get(type(value))
            if kind is not None and key.lower() not in taken and _misnamed(key) is None:
                spelled[key.lower()][key] += 1
                kinds[key.lower()][kind] += 1
    fields = []
    for folded, count in kinds.items():
        if pa.float64() in count:  # whole numbers go along with the others
            count[pa.float64()] += count.pop(pa.int64(), 0)
        fields.append(pa.field(spelled[folded].most_common(1)[0][0], count.most_common(1)[0][0]))
    return fields


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
