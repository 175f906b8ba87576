"""Reading one version of a knowledge base: scans in order, predicates, documents, search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date as Date
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from realm.errors import KnowledgeBaseError, UsageError
from realm.knowledge.table import near
from realm.knowledge.table import schema as sc
from realm.knowledge.table import vectors as vec
from realm.knowledge.table.filters import Where, narrowing
from realm.knowledge.table.predicates import to_sql
from realm.knowledge.table.recency import Recency
from realm.types import Document, Passage

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from realm.knowledge.table.store import Store

SCAN_ROWS = 4_096
PASSAGES = "number >= 0"
DOCUMENTS = f"number = {sc.HEADER} AND change != 'deleted'"
_PASSAGE = ["document_id", "number", "title", "text", "start", "end", "sentences"]
_DOCUMENT = [*_PASSAGE, "gap", "source", "date", "lang", "url", "change"]


@dataclass(frozen=True, slots=True)
class Match:
    """A passage that a search found."""

    passage: Passage
    score: float
    document_version: int
    """Version in which the document got its present text."""
    source: str | None
    date: Date | None
    url: str | None
    recency: float | None = None
    """log r(z) of a recency prior, which p(z|x) has besides `score`; None where there was none."""

    @property
    def logit(self) -> float:
        """What p(z|x) is the softmax of: f(x,z) + log r(z)."""
        return self.score + (self.recency or 0.0)


@dataclass(frozen=True, slots=True)
class Revision:
    """One change of one document."""

    document_id: str
    version: int
    """Version of the knowledge base that the change made: `at(version)` shows the document as it was then."""
    revision: int
    """From 1, over additions, updates and deletions."""
    time: datetime
    change: str
    """added, updated or deleted"""
    num_passages: int
    title: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the documents of one version."""

    documents: list[Document]
    total: int
    """Documents that satisfy the predicate, on all pages."""
    next: int | None
    """What the next page comes after; None where this is the last."""
    version: int


def condition(table: LanceTable, kind: str, where: Where) -> str:
    """The rows of a kind that satisfy a user's predicate; PredicateError when it is not one."""
    narrowed = narrowing(where)
    if narrowed is None:
        return kind
    columns = public_columns(table)
    if kind == DOCUMENTS:  # a header row has neither: they would be unknown, and nothing would be found
        columns = {name: columns[name] for name in columns if name not in sc.OF_PASSAGES}
    return f"({to_sql(narrowed.predicate(columns))}) AND {kind}"


def public_columns(table: LanceTable) -> dict[str, str]:
    """What a predicate on passages may name, with types; one on documents may not name `schema.OF_PASSAGES`."""
    names = [*sc.PUBLIC, *sc.metadata_columns(table.schema)]
    return {name: str(table.schema.field(name).type) for name in names}


def scan(
    table: LanceTable, rows: str, columns: Sequence[str], positions: np.ndarray | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows in order of insertion of the document and of number, as batches of at most SCAN_ROWS rows.

    `table` must be pinned to a version. Edits leave rows out of order on disk: then the order is sorted first (16 bytes
    a row) and rows are fetched by their addresses.

    positions: only the documents at these, sorted.
    """
    keys = table.search().where(rows).select(["position", "number"]).with_row_id(True).to_batches(65_536)
    parts = [
        (batch["position"].to_numpy(), batch["number"].to_numpy(), batch["_rowid"].to_numpy())
        for batch in keys
        if batch.num_rows
    ]
    if not parts:
        return
    position_N, number_N, address_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    del parts
    if positions is not None:
        wanted_N = np.isin(position_N, positions)
        position_N, number_N, address_N = position_N[wanted_N], number_N[wanted_N], address_N[wanted_N]
    order_N = np.lexsort((number_N, position_N))
    del position_N, number_N
    if positions is None and (np.diff(order_N) == 1).all():
        del order_N, address_N
        for batch in table.search().where(rows).select(list(columns)).to_batches(SCAN_ROWS):
            for at in range(0, batch.num_rows, SCAN_ROWS):
                yield batch.slice(at, SCAN_ROWS)
        return
    address_N = address_N[order_N]
    for at in range(0, len(address_N), SCAN_ROWS):
        wanted = address_N[at : at + SCAN_ROWS]
        found = table.take_row_ids(wanted.tolist()).select(list(columns)).with_row_id().to_arrow()
        by_address = np.argsort(found["_rowid"].to_numpy())
        place = by_address[np.searchsorted(found["_rowid"].to_numpy(), wanted, sorter=by_address)]
        yield from found.select(list(columns)).take(pa.array(place)).combine_chunks().to_batches()


def passages(table: LanceTable, where: Where) -> Iterator[Passage]:
    """Passages in order."""
    for batch in scan(table, condition(table, PASSAGES, where), _PASSAGE):
        for row in batch.to_pylist():
            yield sc.passage_of(row)


def document(table: LanceTable, document_id: str) -> Document | None:
    """A document rebuilt from its rows."""
    metadata = list(sc.metadata_columns(table.schema))
    columns = [*_DOCUMENT, *metadata]
    found = table.search().where(f"document_id IN ({sc.quoted([document_id])})").select(columns).to_arrow().to_pylist()
    found.sort(key=lambda row: row["number"])
    if not found or found[0]["change"] == "deleted":
        return None
    return sc.document_of(found[0], found[1:], metadata)


def documents(table: LanceTable, where: Where) -> Iterator[Document]:
    """Documents in order of insertion. Only one document is held at a time, and one batch of rows.

    The predicate is asked of the header rows, so that a document is never cut down to the passages that satisfy it.
    """
    metadata = list(sc.metadata_columns(table.schema))
    columns = [*_DOCUMENT, *metadata]
    positions = None
    if where is not None:
        heads = table.search().where(condition(table, DOCUMENTS, where)).select(["position"]).to_arrow()
        positions = np.sort(heads["position"].to_numpy())
    held: list[dict[str, Any]] = []
    for batch in scan(table, f"number >= 0 OR ({DOCUMENTS})", columns, positions):
        for row in batch.to_pylist():
            if row["number"] == sc.HEADER and held:
                yield sc.document_of(held[0], held[1:], metadata)
                held = []
            held.append(row)
    if held:
        yield sc.document_of(held[0], held[1:], metadata)


def page(table: LanceTable, where: Where, limit: int, after: int | None) -> Page:
    """At most `limit` documents in order of insertion, after the position `after`."""
    heads = table.search().where(condition(table, DOCUMENTS, where)).select(["position", "document_id"]).to_arrow()
    position_N = heads["position"].to_numpy()
    order_N = np.argsort(position_N, kind="stable")
    begin = 0 if after is None else int(np.searchsorted(position_N[order_N], after, side="right"))
    chosen_L = order_N[begin : begin + limit]
    ids = heads["document_id"].take(pa.array(chosen_L)).to_pylist()
    last = int(position_N[chosen_L[-1]]) if len(chosen_L) and begin + limit < len(order_N) else None
    return Page(_whole(table, ids), len(order_N), last, int(table.version))


def _whole(table: LanceTable, ids: Sequence[str]) -> list[Document]:
    """Documents that are there, by their ids, in the order of these."""
    if not ids:
        return []
    metadata = list(sc.metadata_columns(table.schema))
    columns = [*_DOCUMENT, *metadata]
    rows_of: dict[str, list[dict[str, Any]]] = {document_id: [] for document_id in ids}
    for row in table.search().where(f"document_id IN ({sc.quoted(ids)})").select(columns).to_arrow().to_pylist():
        rows_of[row["document_id"]].append(row)
    found = (sorted(rows, key=lambda row: row["number"]) for rows in rows_of.values())
    return [sc.document_of(head, rest, metadata) for head, *rest in found]


def header(table: LanceTable, document_id: str) -> Revision | None:
    """The last change of a document in this version, deletion included."""
    columns = ["version", "revision", "updated_at", "change", "num_passages", "title"]
    rows = f"document_id IN ({sc.quoted([document_id])}) AND number = {sc.HEADER}"
    for row in table.search().where(rows).select(columns).to_arrow().to_pylist():
        return Revision(
            document_id, row["version"], row["revision"], row["updated_at"], row["change"], row["num_passages"],
            row["title"] or "",
        )  # fmt: skip
    return None


def history(store: Store, document_id: str, limit: int | None, before: int | None) -> list[Revision]:
    """All changes of a document, oldest first; see `KnowledgeBase.history`."""
    changes: list[Revision] = []
    version = store.version if before is None else min(store.version, before - 1)
    while version >= 1 and (limit is None or len(changes) < limit):
        try:
            last = header(store.at(version), document_id)
        except KnowledgeBaseError:
            if not changes:
                raise
            break  # older versions were compacted away
        if last is None:
            break
        changes.append(last)
        version = last.version - 1
        if last.revision == 1:
            break
    return changes[::-1]


def content_version(table: LanceTable) -> int:
    """The newest version written on a header, deletions included."""
    heads = table.search().where(f"number = {sc.HEADER}").select(["version"]).to_batches(65_536)
    return max((int(batch["version"].to_numpy().max()) for batch in heads if batch.num_rows), default=0)


def last_alike(store: Store) -> int:
    """The newest version with the content version of the one that `store` shows; it only grows with the version."""
    this = store.at()
    first, content = int(this.version), content_version(this)
    low, step, newest = first, 1, store.newest
    while low + step <= newest and content_version(store.at(low + step)) == content:
        low, step = low + step, 2 * step
    high = min(low + step, newest + 1)  # not alike, or not there
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if content_version(store.at(middle)) == content else (low, middle)
    return low


FOUND = [*_PASSAGE, "version", "source", "date", "url"]
"""Columns that make a `Match`."""
_VECTORS_AT_ONCE = 16_384


def search_text(table: LanceTable, query: str, k: int, where: Where) -> list[Match]:
    """BM25 over text plus BM25 over title; rows that the index doesn't hold yet are searched as well."""
    from lancedb.query import BooleanQuery, MatchQuery, Occur

    _check_k(k)
    if not query.strip():
        return []
    # The two scores are added: a passage is found by its body and by its document's title together.
    match = [MatchQuery(query, column) for column in ("text", "title")]  # type: ignore[call-arg]  # pydantic defaults
    terms = BooleanQuery([(Occur.SHOULD, part) for part in match])
    rows = condition(table, PASSAGES, where)
    search = table.search(terms, query_type="fts").where(rows, prefilter=True)
    found = search.select([*FOUND, "_score"]).limit(k).to_arrow()
    return [match_of(row, row["_score"]) for row in found.to_pylist()]


def search_vectors(
    table: LanceTable, vector: np.ndarray, k: int, where: Where, encoder: str | None, approximate: bool = False
) -> list[Match]:
    """Inner-product search over the passages that an encoder has embedded: exact, or by its index."""
    _check_k(k)
    name, dim = vec.choose(table.schema, encoder)
    rows = condition(table, PASSAGES, where)
    query = table.search(vec.query_vector(vector, dim), vector_column_name=name).distance_type("dot")
    lists = near.lists_to_probe(table, name, rows, narrowing(where) is not None) if approximate else None
    if lists is None:
        query, rows = query.bypass_vector_index(), f"{rows} AND {name} IS NOT NULL"
    else:
        query = near.probe(query, lists)
    found = query.where(rows, prefilter=True).select([*FOUND, "_distance"]).limit(k).to_arrow()
    if lists is not None and found.num_rows < k:  # the lists that were probed hold no more
        return search_vectors(table, vector, k, where, encoder)
    return [match_of(row, 1.0 - row["_distance"]) for row in found.to_pylist()]  # Lance's "dot" distance is 1 - product


def search_many(
    table: LanceTable, vector_BD: np.ndarray, k: int, where: Where, encoder: str | None, recency: Recency | None = None
) -> list[list[Match]]:
    """`search_vectors` for B queries at once: every vector is read once, whatever B is. Best first by `Match.logit`."""
    _check_k(k)
    _, dim = vec.choose(table.schema, encoder)
    query_BD = np.stack([np.asarray(vec.query_vector(vector, dim), np.float32) for vector in vector_BD])
    score_BE: np.ndarray = np.zeros((len(query_BD), 0), np.float32)
    prior_BE: np.ndarray = np.zeros((len(query_BD), 0))
    address_BE: np.ndarray = np.zeros((len(query_BD), 0), np.uint64)
    for address_N, vector_ND, prior_N in _embedded(table, where, encoder, recency):
        of_each = [np.broadcast_to(of, (len(query_BD), len(of))) for of in (address_N, prior_N)]
        score_BE = np.concatenate([score_BE, query_BD @ vector_ND.T], axis=1)
        address_BE, prior_BE = (
            np.concatenate([have, new], axis=1) for have, new in zip((address_BE, prior_BE), of_each, strict=True)
        )
        if score_BE.shape[1] > k:
            best_BK = np.argpartition(-(score_BE + prior_BE), k - 1, axis=1)[:, :k]
            score_BE, prior_BE, address_BE = (
                np.take_along_axis(of, best_BK, axis=1) for of in (score_BE, prior_BE, address_BE)
            )
    order_BK = np.lexsort((address_BE, -(score_BE + prior_BE)), axis=1)
    found = matches_at(table, *(np.take_along_axis(of, order_BK, axis=1) for of in (address_BE, score_BE)))
    return found if recency is None else [[with_recency(match, recency) for match in mine] for mine in found]


def with_recency(match: Match, recency: Recency) -> Match:
    """The same passage with its log r(z)."""
    return replace(match, recency=recency.log_prior(match.date))


def embedded(table: LanceTable, where: Where, encoder: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Addresses uint64[N] and vectors float32[N, D] of the passages that an encoder has embedded, part by part.

    An address holds for this version alone.
    """
    for address_N, vector_ND, _ in _embedded(table, where, encoder, None):
        yield address_N, vector_ND


def _embedded(
    table: LanceTable, where: Where, encoder: str | None, recency: Recency | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`embedded`, and log r(z) float64[N], zeros without a recency prior."""
    name, dim = vec.choose(table.schema, encoder)
    rows = f"{condition(table, PASSAGES, where)} AND {name} IS NOT NULL"
    columns = [name] if recency is None else [name, "date"]
    for batch in table.search().where(rows).select(columns).with_row_id(True).to_batches(_VECTORS_AT_ONCE):
        vector_ND = batch[name].flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, dim)
        prior_N = np.zeros(batch.num_rows) if recency is None else recency.log_priors(batch["date"])
        yield batch["_rowid"].to_numpy(), vector_ND, prior_N


def vectors_of(table: LanceTable, matches: Sequence[Match], encoder: str) -> dict[str, np.ndarray]:
    """The stored vectors float32[D] of passages that were found, by text hash; those without one are left out."""
    if encoder not in sc.vector_columns(table.schema):
        return {}
    wanted = {match.passage.text_hash for match in matches}
    ids = sorted({match.passage.document_id for match in matches})
    return {key: vector for key, vector in vec.kept(table, ids)[encoder].items() if key in wanted}


def matches_at(table: LanceTable, address_BK: np.ndarray, score_BK: np.ndarray) -> list[list[Match]]:
    """What stands at addresses that a search of this version chose."""
    if not address_BK.size:
        return [[] for _ in address_BK]
    wanted = np.unique(address_BK).tolist()
    found = table.take_row_ids(wanted).select(FOUND).with_row_id().to_arrow().to_pylist()
    by_address = {row["_rowid"]: row for row in found}
    return [
        [match_of(by_address[address], score) for address, score in zip(addresses, scores, strict=True)]
        for addresses, scores in zip(address_BK.tolist(), score_BK.tolist(), strict=True)
    ]


def match_of(row: dict[str, Any], score: float) -> Match:
    """A passage from the columns FOUND of its row."""
    return Match(sc.passage_of(row), float(score), row["version"], row["source"], row["date"], row["url"])


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"k={k}: expected at least 1")
