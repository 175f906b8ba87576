"""Adding, updating and deleting documents: each is wholly in a commit or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from realm.errors import (
    AbsentError,
    ChangedError,
    DataError,
    KnowledgeBaseError,
    PresentError,
    UnavailableError,
    UsageError,
)
from realm.files import fingerprint
from realm.knowledge.table import housekeeping, keys, origins
from realm.knowledge.table import schema as sc
from realm.knowledge.table import vectors as vec
from realm.knowledge.table.columns import OnMisfit, fitting, new_columns
from realm.knowledge.table.origins import Origin
from realm.knowledge.table.store import InUseError, Store
from realm.types import Document, Passage, Progress

if TYPE_CHECKING:
    from lancedb.table import LanceTable

log = logging.getLogger("realm.knowledge")

Split = Callable[[Sequence[Document]], list[list[Passage]]]
"""Documents to their passages, in order."""

Mode = Literal["add", "update", "upsert"]

BATCH_DOCUMENTS = 16_384
BATCH_CHARACTERS = 32_000_000
_IDS_PER_QUERY = 4_096


@dataclass(frozen=True, slots=True)
class Counts:
    """What a write did, in documents, and the version of the knowledge base after it."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    version: int = 0


@dataclass(slots=True)
class Writer:
    """Writes to one knowledge base.

    split: makes passages; None when the knowledge base was opened for reading.
    timeout: seconds to wait for another writer.
    tidies: whether it looks after each write whether the table wants tidying; else somebody calls `tidy`.
    """

    store: Store
    split: Split | None
    timeout: float
    tidies: bool = True

    def write(
        self,
        documents: Iterable[Document],
        mode: Mode,
        encoder: vec.PassageEncoder | None = None,
        progress: Progress | None = None,
        known: vec.Kept | None = None,
        on_misfit: OnMisfit | None = None,
        expected: int | None = None,
    ) -> Counts:
        """Stream documents in. Commits every BATCH_DOCUMENTS documents or BATCH_CHARACTERS characters.

        known: vectors for passages that the rows to be replaced have none for.
        on_misfit: told of a document whose metadata doesn't fit, which is then left out; None makes it an error.
        expected: of one document alone, see `check_unchanged`.
        When it raises, the batches before the faulty one are committed, and that one is not.
        """
        self.store.check_writable()
        total = Counts(version=self.store.version)
        seen: set[int] = set()
        for batch in batches(documents, seen):
            if on_misfit is not None:
                batch, misfits = fitting(batch, self.store.at().schema)
                for document, misfit in misfits:
                    on_misfit(document, misfit)
            done = self.write_batch(batch, mode, encoder, known, expected=expected)
            total = Counts(total.added + done.added, total.updated + done.updated, total.unchanged + done.unchanged)
            if progress is not None:
                progress(total.added + total.updated + total.unchanged, None)
        if self.tidies and (total.added or total.updated):
            self.tidy_behind(total.added + total.updated)
        return replace(total, version=self.store.version)

    def write_batch(
        self,
        documents: Sequence[Document],
        mode: Mode,
        encoder: vec.PassageEncoder | None = None,
        known: vec.Kept | None = None,
        origin: Origin | None = None,
        expected: int | None = None,
    ) -> Counts:
        """`write` for documents of one commit, each id once.

        origin: the source that they are kept in step with; then `origins.changes` decides and not `mode`.
        """
        by_id = {document.id: document for document in documents}
        passages: dict[str, list[Passage]] = {}
        fresh = vec.Cache(encoder)

        def prepare(table: LanceTable) -> tuple[dict[str, str], dict[str, dict[str, Any]], vec.Kept]:
            with self.store.errors("read"):
                headers = read_headers(table, list(by_id))
            check_unchanged(headers, by_id, expected)
            changes = _changes(by_id, headers, mode) if origin is None else origins.changes(by_id, headers, origin)[0]
            missing = [by_id[i] for i in changes if i not in passages]
            passages.update(zip((d.id for d in missing), self._split(missing), strict=True))
            with self.store.errors("read"):
                kept = vec.kept(table, [i for i in changes if i in headers])
            for name in kept:
                kept[name] = {**(known or {}).get(name, {}), **kept[name]}
            fresh.fill((p for i in changes for p in passages[i]), kept)
            return changes, headers, kept

        # Splitting and encoding are slow, so they are done before the lock is taken, and again only for the documents
        # that somebody else has changed meanwhile.
        planned_at = self.store.version
        plan = prepare(self.store.at(planned_at))
        with self.store.writing(self.timeout) as table:
            keys.lay_keys(self.store, table)
            if table.version != planned_at:
                plan = prepare(table)
            changes, headers, kept = plan
            counts = Counts(
                sum(change == "added" for change in changes.values()),
                sum(change == "updated" for change in changes.values()),
                len(documents) - len(changes),
                version=table.version,
            )
            if not changes:
                return counts
            fields = new_columns([by_id[i] for i in changes], table.schema) + fresh.new_columns(table.schema)
            fields += [] if origin is None else origins.new_columns(table.schema)
            # Everything that can be refused is refused before anything is written.
            schema = pa.schema([*table.schema, *fields])
            version = table.version + bool(fields) + 1
            time = sc.now()
            rows = []
            for offset, (id_, change) in enumerate(changes.items()):
                old = headers.get(id_)
                position = (version << 32) + offset if old is None or old["change"] == "deleted" else old["position"]
                stamp = sc.Stamp(version, old["revision"] + 1 if old else 1, position, change, time)
                head, *rest = sc.rows(by_id[id_], passages[id_], stamp)
                rows += [head | (origin.columns(by_id[id_]) if origin else origins.kept(old)), *rest]
                rows += keys.emptied(id_, range(len(rest), old["num_passages"] if old else 0))
            data = vec.attach(sc.table_of(rows, vec.without(schema)), schema, kept, fresh)
            with self.store.errors("written"):
                if fields:
                    table.add_columns(fields)
                self._commit(table, data, version, any(i in headers for i in changes))
            return replace(counts, version=table.version)

    def take_over(self, documents: Sequence[Document], origin: Origin) -> None:
        """Write down where documents come from that are there and stay as they are; no revision of any of them."""
        by_id = {document.id: document for document in documents}
        with self.store.writing(self.timeout) as table, self.store.errors("written"):
            keys.lay_keys(self.store, table)
            _, ids = origins.changes(by_id, read_headers(table, list(by_id)), origin)
            if ids:
                if fields := origins.new_columns(table.schema):
                    table.add_columns(fields)
                data = origins.origin_rows([by_id[i] for i in ids], origin)
                self.store.check_held()
                table.merge_insert(sc.KEY).when_matched_update_all().execute(data)

    def delete(self, ids: Sequence[str], source: str | None = None, expected: int | None = None) -> Counts:
        """Take documents away, all in one commit. DataError, and nothing done, when one isn't there.

        source: only those that still come from it, and what is not there is passed over.
        expected: of one document alone, see `check_unchanged`.
        """
        ids = list(dict.fromkeys(ids))
        with self.store.writing(self.timeout) as table, self.store.errors("written"):
            keys.lay_keys(self.store, table)
            headers = read_headers(table, ids)
            check_unchanged(headers, ids, expected)
            if source is not None:
                of_it = [i for i in ids if i in headers and headers[i].get(origins.SOURCE) == source]
                ids = [i for i in of_it if headers[i]["change"] != "deleted"]
            absent = [i for i in ids if i not in headers or headers[i]["change"] == "deleted"]
            if absent:
                raise AbsentError(
                    f"no document {_some(absent)} to delete: expected ids that are there; nothing was deleted"
                )
            if not ids:
                return Counts(version=table.version)
            version, time = table.version + 1, sc.now()
            rows = [
                sc.tombstone(i, sc.Stamp(version, headers[i]["revision"] + 1, headers[i]["position"], "deleted", time))
                | (origins.kept(headers[i]) if source is None else {})
                for i in ids
            ]
            for i in ids:
                rows += keys.emptied(i, range(headers[i]["num_passages"]))
            self._commit(table, sc.table_of(rows, table.schema), version, True)
        if self.tidies:
            self.tidy_behind()
        return Counts(deleted=len(ids), version=self.store.version)

    def _commit(self, table: LanceTable, data: pa.Table, version: int, replaces: bool) -> None:
        """One commit of rows that are stamped with `version`. KnowledgeBaseError where another writer came between, as
        only one can who took the hold for lost in the moment of the commit."""
        self.store.check_held()
        made = _commit(table, data, replaces)
        if made != version and not _holds(self.store.at(version), data):
            raise KnowledgeBaseError(
                f"{self.store.address}: what was to be version {version} became version {made}, because another writer "
                f"came between: look at the documents of both (`realm docs history`) and edit them again"
            )

    def tidy_behind(self, changed: int = 1) -> None:
        """`tidy` after a commit: what is committed has not failed because the housekeeping did, which the next write
        tries again."""
        try:
            self.tidy(changed)
        except (KnowledgeBaseError, UnavailableError) as error:
            log.warning("housekeeping is put off: %s", error)

    def tidy(self, changed: int = 1) -> bool:
        """`housekeeping.tidy`, where it is worth its time and nobody else writes; whether anything was done.

        changed: documents or passages just written; where looking costs, it is done after many or every so often.
        """
        self.store.place.tidy()
        with self.store.errors("tidied"):
            passed_over = self.store.version % self.store.place.look_every >= max(1, changed)
            if passed_over or not housekeeping.is_worth_tidying(self.store.table):
                return False
        with suppress(InUseError), self.store.writing(0.0) as table, self.store.errors("tidied"):
            return housekeeping.tidy(table)
        return False

    def _split(self, documents: Sequence[Document]) -> list[list[Passage]]:
        if not documents:
            return []
        if self.split is None:
            raise UsageError(
                f"{self.store.address} was opened without its splitter: expected split=, built from kb.splitter, to "
                "write"
            )
        result = self.split(documents)
        if len(result) != len(documents):
            raise DataError(f"the splitter gave {len(result)} lists for {len(documents)} documents: expected one each")
        return result


def check_unchanged(headers: Mapping[str, Mapping[str, Any]], ids: Iterable[str], expected: int | None) -> None:
    """ChangedError when the last change of a document is not `expected`, the version that its writer had read."""
    for id_ in ids if expected is not None else ():
        header = headers.get(id_)
        if header is not None and header["version"] != expected:
            how = "deleted" if header["change"] == "deleted" else "changed"
            raise ChangedError(
                f"document {id_!r} was {how} in version {header['version']}: expected its version {expected}; "
                f"read it again and edit that"
            )


def _changes(by_id: Mapping[str, Document], headers: Mapping[str, Mapping[str, Any]], mode: Mode) -> dict[str, str]:
    """Document id -> "added" or "updated"; unchanged ones are left out."""
    changes = {}
    for id_, document in by_id.items():
        header = headers.get(id_)
        exists = header is not None and header["change"] != "deleted"
        if exists and mode == "add":
            raise PresentError(f"document {id_!r} is there already: use update or upsert to change it")
        if not exists and mode == "update":
            raise AbsentError(f"no document {id_!r} to update: use add or upsert to bring it in")
        if not exists:
            changes[id_] = "added"
        elif header is not None and header["document_hash"] != sc.document_hash(document):
            changes[id_] = "updated"
    return changes


def _commit(table: LanceTable, data: pa.Table, replaces: bool) -> int:
    """One commit: rows in, each in the place of the row with its key; its version.

    replaces: whether there may be such rows. A row without a vector (a document's own, a passage not embedded yet) is
    what LanceDB calls a bad vector: from 10 numbers on it refuses one unless told to keep it as null.
    """
    if not replaces:
        return int(table.add(data, on_bad_vectors="null").version)
    merge = table.merge_insert(sc.KEY).when_matched_update_all().when_not_matched_insert_all()
    return int(merge.execute(data, on_bad_vectors="null").version)


def _holds(table: LanceTable, data: pa.Table) -> bool:
    """Whether the documents that were to be written stand in a version, as after a store that did what it was asked and
    whose answer was lost: Lance then asks again."""
    heads = data.filter(pc.equal(data["number"], sc.HEADER)).select(["document_id", "version", "document_hash"])
    found = read_headers(table, heads["document_id"].to_pylist())
    return all(
        found.get(head["document_id"], {}).get("version") == head["version"]
        and found[head["document_id"]]["document_hash"] == head["document_hash"]
        for head in heads.to_pylist()
    )


def read_headers(table: LanceTable, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Header rows by document id, tombstones among them; absent ids are left out."""
    columns = [
        "document_id",
        "change",
        "version",
        "revision",
        "position",
        "document_hash",
        "num_passages",
        *origins.present(table.schema),
    ]
    found = {}
    if table.count_rows() == 0:
        return {}
    for at in range(0, len(ids), _IDS_PER_QUERY):
        condition = f"document_id IN ({sc.quoted(ids[at : at + _IDS_PER_QUERY])}) AND number = {sc.HEADER}"
        for row in table.search().where(condition).select(columns).to_arrow().to_pylist():
            found[row["document_id"]] = row
    return found


def batches(documents: Iterable[Document], seen: set[int]) -> Iterator[list[Document]]:
    """Documents in batches, an exact repetition of one left out. DataError when two differ under one id.

    `seen` holds 64-bit hashes of ids and contents and not the strings, to stay small over millions of documents.
    """
    batch: list[Document] = []
    size = 0
    for document in documents:
        if not document.id:
            raise DataError(f"a document has an empty id (title {document.title[:80]!r}): expected an id of its own")
        name, content = _number(fingerprint(document.id)), _number(sc.document_hash(document))
        if name in seen:
            if name ^ content in seen:
                continue
            raise DataError(
                f"document id {document.id!r} comes twice with different content: give each document its own id, "
                f"or drop one; documents of earlier batches are committed"
            )
        seen.add(name)
        seen.add(name ^ content)
        batch.append(document)
        size += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _number(hexadecimal: str) -> int:
    return int(hexadecimal, 16)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(repr(i) for i in ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
