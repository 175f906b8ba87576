"""Which source a document is kept in step with, and what that source last gave.

Three columns of a document's header row, in the commit of its text, so that no crash parts them: the source, the file
in it, and the fingerprint of the document as it was given. Their names begin with an underscore, as no metadata key
may; they are laid when the first source is kept in step. An edit by hand leaves them: then the document differs from
what was given and stays as it was edited, or deleted, until the source gives something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from realm.errors import PresentError
from realm.knowledge.table import schema as sc
from realm.types import Document

if TYPE_CHECKING:
    from lancedb.table import LanceTable

SOURCE, FILE, GIVEN = "_origin", "_origin_file", "_given"
COLUMNS = (SOURCE, FILE, GIVEN)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where documents come from.

    source: what is kept in step. files: document id -> file in it.
    """

    source: str
    files: Mapping[str, str]

    def columns(self, document: Document) -> dict[str, str]:
        """What the header row of a document says of it."""
        return {SOURCE: self.source, FILE: self.files[document.id], GIVEN: sc.document_hash(document)}


@dataclass(frozen=True, slots=True)
class Held:
    """A document that came from a source, as it stands in the knowledge base."""

    document_id: str
    file: str
    given: str
    edited: bool
    """Changed or deleted by hand since it was given."""
    deleted: bool


def new_columns(schema: pa.Schema) -> list[pa.Field]:
    """The columns that `schema` lacks."""
    return [pa.field(name, pa.string()) for name in COLUMNS if name not in schema.names]


def present(schema: pa.Schema) -> list[str]:
    """The columns that `schema` has."""
    return [name for name in COLUMNS if name in schema.names]


def kept(header: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an edit by hand leaves of them."""
    return {name: header[name] for name in COLUMNS if header is not None and name in header}


def changes(
    by_id: Mapping[str, Document], headers: Mapping[str, Mapping[str, Any]], origin: Origin
) -> tuple[dict[str, str], list[str]]:
    """Document id -> "added" or "updated", and the ids of which only the origin has to be written.

    PresentError when a document is there that came from elsewhere, unless it is nobody's and equal: then it is taken
    over, which lets what was ingested before be kept in step.
    """
    changed: dict[str, str] = {}
    taken_over: list[str] = []
    for id_, document in by_id.items():
        header, given = headers.get(id_), sc.document_hash(document)
        owner, same = (header or {}).get(SOURCE), header is not None and header["document_hash"] == given
        if header is None or header["change"] == "deleted":
            if not (header and owner == origin.source and header[GIVEN] == given):  # else it was deleted by hand
                changed[id_] = "added"
        elif owner not in (origin.source, None) or (owner is None and not same):
            raise PresentError(
                f"document {id_!r} of {origin.source} is there already and comes from {owner or 'elsewhere'}: "
                f"{_advice(owner)}"
            )
        elif owner is not None and header[GIVEN] != given and not same:
            changed[id_] = "updated"
        elif any(header.get(name) != value for name, value in origin.columns(document).items()):
            taken_over.append(id_)
    return changed, taken_over


def _advice(owner: str | None) -> str:
    if owner is not None:
        return "an id has one source; rename one of the two, or leave one source out"
    return "rename it or delete that one; a folder that was ingested before is ingested once more without --sync first"


def held(table: LanceTable, source: str) -> Iterator[Held]:
    """The documents of a source, those deleted by hand among them, in no order, streamed."""
    if SOURCE not in table.schema.names:
        return
    rows = f"number = {sc.HEADER} AND {SOURCE} = {sc.quoted([source])}"
    columns = ["document_id", FILE, GIVEN, "document_hash", "change"]
    for batch in table.search().where(rows).select(columns).to_batches(16_384):
        values = (batch[name].to_pylist() for name in columns)
        for id_, file, given, now, change in zip(*values, strict=True):
            deleted = change == "deleted"
            yield Held(id_, file, given, deleted or now != given, deleted)


def origin_rows(documents: Sequence[Document], origin: Origin) -> pa.Table:
    """The columns alone, with the keys of the rows they belong to."""
    columns = [origin.columns(document) for document in documents]
    return pa.table(
        {
            sc.KEY: pa.array([sc.row_key(document.id, sc.HEADER) for document in documents], pa.string()),
            **{name: pa.array([row[name] for row in columns], pa.string()) for name in COLUMNS},
        }
    )
