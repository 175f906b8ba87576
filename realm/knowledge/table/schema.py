"""How documents and passages lie in the table: one row a passage, and one header row a document.

The header row (number = HEADER) holds what belongs to the document alone: its fingerprint, the kind of its last
change, the text after its last passage. It stays as a tombstone when the document is deleted, so that history can be
walked backwards, and it lets a document without passages exist. Document fields are repeated on every passage so that
one predicate filters passages without a join, and so that one edit of a document is one commit of one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa

from realm.errors import DataError
from realm.files import fingerprint
from realm.types import Document, Passage

HEADER = -1
VECTOR = "vector_"
KEY = "_key"
"""The column of what `row_key` makes; see `keys`."""

CORE = pa.schema(
    [
        ("document_id", pa.string()),
        ("number", pa.int32()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("gap", pa.string()),  # text before this passage that is in none; on the header, the text after the last one
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("sentences", pa.list_(pa.int32())),  # start, end, start, end, ...
        ("text_hash", pa.string()),
        ("source", pa.string()),
        ("date", pa.date32()),
        ("lang", pa.string()),
        ("url", pa.string()),
        ("position", pa.int64()),  # order of insertion; kept by edits
        ("version", pa.int64()),
        ("revision", pa.int32()),
        ("updated_at", pa.timestamp("us", tz="UTC")),
        ("change", pa.string()),  # added | updated | deleted; header only, as are the next two
        ("num_passages", pa.int32()),
        ("document_hash", pa.string()),
        (KEY, pa.string()),
    ]
)
FIELDS = ("title", "source", "date", "lang", "url")
PUBLIC = ("document_id", *FIELDS, "text", "number", "version", "revision", "updated_at")
"""Columns that a predicate is told about, besides metadata."""
OF_PASSAGES = ("text", "number")
"""Those of them that passages have and documents have not."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a commit writes on the rows of one document."""

    version: int
    revision: int
    position: int
    change: str
    time: datetime


def metadata_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Columns that came from metadata keys, with their types. No key begins with an underscore, as `origins` do."""
    return {f.name: f.type for f in schema if f.name not in CORE.names and not f.name.startswith((VECTOR, "_"))}


def vector_columns(schema: pa.Schema) -> dict[str, int]:
    """Encoder fingerprint -> vector size."""
    return {f.name.removeprefix(VECTOR): f.type.list_size for f in schema if f.name.startswith(VECTOR)}


def row_key(document_id: str, number: int) -> str:
    """The key of a row; the number stands first, so that no id is taken for another."""
    return f"{number}#{document_id}"


def document_hash(document: Document) -> str:
    """Fingerprint of all fields, so that equal hashes mean that nothing has to be written."""
    fields = (document.id, *(getattr(document, name) for name in FIELDS), document.text)
    parts = ["\0" if value is None else f"={value}" for value in fields]
    for key in sorted(document.metadata):
        value = document.metadata[key]
        parts += [key, type(value).__name__, str(value)]
    return fingerprint(*parts)


def check_passages(document: Document, passages: Sequence[Passage]) -> None:
    """The promises a splitter makes, on which `document_text` rests."""
    for expected, passage in enumerate(passages):
        if passage.document_id != document.id or passage.number != expected:
            raise DataError(
                f"the splitter gave passage {passage.document_id!r}#{passage.number} for document {document.id!r}: "
                f"expected number {expected}"
            )
        if document.text[passage.start : passage.end] != passage.text:
            raise DataError(f"the splitter gave passage {passage.id}: expected text[{passage.start}:{passage.end}]")
    if any(after.start < before.start for before, after in pairwise(passages)):
        raise DataError(f"the splitter gave the passages of document {document.id!r} out of order")


def rows(document: Document, passages: Sequence[Passage], stamp: Stamp) -> list[dict[str, Any]]:
    """The header and the passages of one document, as rows without vectors."""
    check_passages(document, passages)
    shared: dict[str, Any] = {
        "document_id": document.id,
        **{name: getattr(document, name) for name in FIELDS},
        "position": stamp.position,
        "version": stamp.version,
        "revision": stamp.revision,
        "updated_at": stamp.time,
        **document.metadata,
    }
    end = 0
    result = []
    for passage in passages:
        result.append(
            shared
            | {
                KEY: row_key(document.id, passage.number),
                "number": passage.number,
                "title": passage.title,
                "text": passage.text,
                "gap": document.text[end : passage.start],
                "start": passage.start,
                "end": passage.end,
                "sentences": [at for span in passage.sentences for at in span],
                "text_hash": passage.text_hash,
            }
        )
        end = max(end, passage.end)
    header = {
        KEY: row_key(document.id, HEADER),
        "number": HEADER,
        "gap": document.text[end:],
        "change": stamp.change,
        "num_passages": len(passages),
        "document_hash": document_hash(document),
    }
    return [shared | header, *result]


def tombstone(document_id: str, stamp: Stamp) -> dict[str, Any]:
    """What is left of a deleted document."""
    return {
        KEY: row_key(document_id, HEADER),
        "document_id": document_id,
        "number": HEADER,
        "position": stamp.position,
        "version": stamp.version,
        "revision": stamp.revision,
        "updated_at": stamp.time,
        "change": stamp.change,
        "num_passages": 0,
    }


def table_of(row_dicts: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table; DataError when a text is not valid Unicode."""
    listed = list(row_dicts)
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in listed]
        if pa.types.is_float64(field.type):
            values = [None if value is None else float(value) for value in values]
        try:
            columns.append(pa.array(values, field.type))
        except UnicodeEncodeError as error:
            raise DataError(_blame(listed, field.name, str(error))) from error
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(f"column {field.name!r}: {error}: the value can't be stored as {field.type}") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _blame(listed: Sequence[Mapping[str, Any]], column: str, reason: str) -> str:
    for row in listed:
        try:
            str(row.get(column)).encode()
        except UnicodeEncodeError:
            return f"document {row['document_id']!r}: {column} is not valid Unicode ({reason}): repair lone surrogates"
    return f"column {column!r} is not valid Unicode: {reason}"


def passage_of(row: Mapping[str, Any]) -> Passage:
    """A passage from its row."""
    flat = row["sentences"] or []
    return Passage(
        row["document_id"], row["number"], row["title"] or "", row["text"], row["start"], row["end"],
        tuple(zip(flat[::2], flat[1::2], strict=True)),
    )  # fmt: skip


def document_of(header: Mapping[str, Any], passages: Sequence[Mapping[str, Any]], metadata: Iterable[str]) -> Document:
    """A document from its rows; `passages` in order of number."""
    parts, end = [], 0
    for row in passages:
        parts.append(row["gap"])
        parts.append(row["text"][max(0, end - row["start"]) :])  # a splitter may let passages overlap
        end = max(end, row["end"])
    parts.append(header["gap"])
    return Document(
        id=header["document_id"],
        title=header["title"] or "",
        text="".join(parts),
        source=header["source"],
        date=header["date"],
        lang=header["lang"],
        url=header["url"],
        metadata={name: header[name] for name in metadata if header[name] is not None},
    )


def now() -> datetime:
    """The time that a commit is stamped with."""
    return datetime.now(UTC)


def quoted(ids: Iterable[str]) -> str:
    """Ids as SQL string literals."""
    return ", ".join("'" + i.replace("'", "''") + "'" for i in ids)
