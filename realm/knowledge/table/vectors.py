"""Vectors of passages in the knowledge base: one nullable column per encoder, beside the text they belong to.

A null means "not embedded yet". Because text and vector share a row and a commit, they can't disagree after a crash;
because each encoder has its own column, a new encoder fills in while the old one still answers.

Legend: N passages, D vector size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from realm.errors import DataError, MismatchError, UsageError
from realm.knowledge.table import keys
from realm.knowledge.table import schema as sc
from realm.types import Passage, Progress

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from realm.knowledge.table.store import Store

_AT_ONCE = 16_384

Kept = dict[str, dict[str, np.ndarray]]
"""Encoder fingerprint -> text hash -> vector, of passages that a write replaces."""


@dataclass(frozen=True, slots=True)
class PassageEncoder:
    """An encoder as a knowledge base sees it."""

    fingerprint: str
    """Changes when the vectors would; letters, digits and underscores."""
    encode: Callable[[Sequence[Passage]], np.ndarray]
    """N passages -> float[N, D]"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.fingerprint):
            raise UsageError(f"encoder fingerprint {self.fingerprint!r}: expected letters, digits and underscores")

    def __call__(self, passages: Sequence[Passage]) -> np.ndarray:
        """float32[N, D]; DataError on a wrong shape or a value that is not finite."""
        vector_ND = np.asarray(self.encode(passages), dtype=np.float32)
        if vector_ND.ndim != 2 or len(vector_ND) != len(passages) or vector_ND.shape[1] == 0:
            raise DataError(f"encoder {self.fingerprint} gave shape {vector_ND.shape}: expected ({len(passages)}, D)")
        finite_N = np.isfinite(vector_ND).all(axis=1)
        if not finite_N.all():
            worst = passages[int(finite_N.argmin())].id
            raise DataError(f"encoder {self.fingerprint} gave a vector that is not finite for passage {worst}")
        return vector_ND


@dataclass(frozen=True, slots=True)
class Waiting:
    """Passages of one version without a vector of some encoder."""

    passages: int
    since: datetime | None
    """When the oldest of them was written; None where there is none."""


class Cache:
    """Vectors of new passages, encoded once for each text."""

    def __init__(self, encoder: PassageEncoder | None, batch: int = 1024) -> None:
        self.encoder = encoder
        self.batch = batch
        self.vectors: dict[str, np.ndarray] = {}

    def fill(self, passages: Iterable[Passage], kept: Kept) -> None:
        """Encode what neither the cache nor the rows to be replaced have."""
        if self.encoder is None:
            return
        have = kept.get(self.encoder.fingerprint, {})
        todo = {p.text_hash: p for p in passages}
        waiting = [p for key, p in todo.items() if key not in have and key not in self.vectors]
        for at in range(0, len(waiting), self.batch):
            part = waiting[at : at + self.batch]
            self.vectors.update(zip((p.text_hash for p in part), self.encoder(part), strict=True))

    def new_columns(self, schema: pa.Schema) -> list[pa.Field]:
        """The column this encoder needs and `schema` lacks."""
        if self.encoder is None or not self.vectors:
            return []
        return column(schema, self.encoder.fingerprint, len(next(iter(self.vectors.values()))))


def column(schema: pa.Schema, encoder: str, dim: int) -> list[pa.Field]:
    """The field to add for an encoder, or none; MismatchError when its column has another size."""
    have = sc.vector_columns(schema).get(encoder)
    if have is None:
        return [pa.field(sc.VECTOR + encoder, pa.list_(pa.float32(), dim))]
    if have != dim:
        raise MismatchError(
            f"encoder {encoder} gave vectors of size {dim}, but those stored are of size {have}: "
            f"an encoder that changed needs another fingerprint"
        )
    return []


def without(schema: pa.Schema) -> pa.Schema:
    """The schema without vector columns."""
    return pa.schema([field for field in schema if not field.name.startswith(sc.VECTOR)])


def kept(table: LanceTable, ids: Sequence[str]) -> Kept:
    """The vectors of documents that are about to be replaced."""
    encoders = sc.vector_columns(table.schema)
    result: Kept = {encoder: {} for encoder in encoders}
    if not encoders or not ids:
        return result
    for at in range(0, len(ids), 4_096):
        condition = f"document_id IN ({sc.quoted(ids[at : at + 4_096])}) AND number >= 0"
        names = ["text_hash", *(sc.VECTOR + encoder for encoder in encoders)]
        for row in table.search().where(condition).select(names).to_arrow().to_pylist():
            for encoder in encoders:
                vector = row[sc.VECTOR + encoder]
                if vector is not None:
                    result[encoder][row["text_hash"]] = np.asarray(vector, dtype=np.float32)
    return result


def attach(data: pa.Table, schema: pa.Schema, kept: Kept, fresh: Cache) -> pa.Table:
    """Add the vector columns of `schema` to rows: kept where the text is the same, fresh where it was encoded."""
    hashes = data["text_hash"].to_pylist()
    columns = {name: data[name] for name in data.schema.names}
    for encoder, dim in sc.vector_columns(schema).items():
        sources: list[Mapping[str, np.ndarray]] = [kept.get(encoder, {})]
        if fresh.encoder is not None and fresh.encoder.fingerprint == encoder:
            sources.append(fresh.vectors)
        vector_ND = np.zeros((len(hashes), dim), dtype=np.float32)
        null_N = np.ones(len(hashes), dtype=bool)
        for source in sources:
            for row, key in enumerate(hashes):
                if key is not None and key in source:
                    vector_ND[row], null_N[row] = source[key], False
        columns[sc.VECTOR + encoder] = fixed_size(vector_ND, null_N)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def fixed_size(vector_ND: np.ndarray, null_N: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """float32[N, D] as an Arrow column."""
    flat = pa.array(np.ascontiguousarray(vector_ND, dtype=np.float32).reshape(-1))
    mask = None if null_N is None or not null_N.any() else pa.array(null_N)
    return pa.FixedSizeListArray.from_arrays(flat, vector_ND.shape[1], mask=mask)


class Pace(NamedTuple):
    """How many passages at once."""

    batch: int
    """are encoded"""
    commit_every: int | None
    """are committed, or 256 MiB of them; None is 16,384, or an eighth of them all: each commit writes a column anew"""


def embed_missing(
    store: Store,
    encoder: PassageEncoder,
    timeout: float,
    pace: Pace,
    progress: Progress | None,
    documents: Sequence[str] | None = None,
) -> int:
    """Fill the vectors that an encoder has not made yet; see KnowledgeBase.embed_missing."""
    if documents is not None and not documents:
        return 0
    store.check_writable()
    name = sc.VECTOR + encoder.fingerprint
    done = 0
    while True:
        table = store.at()
        condition = "number >= 0" + (f" AND {name} IS NULL" if name in table.schema.names else "")
        condition += "" if documents is None else f" AND document_id IN ({sc.quoted(documents)})"
        with store.errors("read"):
            total = done + table.count_rows(condition)
            if total == done:
                return done
            store.check_place()  # before hours of encoding
            reader = table.search().where(condition).select(list(_PASSAGE)).to_batches(batch_size=pace.batch)
        commit_every = pace.commit_every or max(_COMMIT_EVERY, total // _COMMITS)
        size = 0
        waiting: list[tuple[list[tuple[str, int]], np.ndarray]] = []
        for found in reader:
            for at in range(0, found.num_rows, pace.batch):
                part = found.slice(at, pace.batch)
                vector_ND = encoder([sc.passage_of(row) for row in part.to_pylist()])
                places = zip(part["document_id"].to_pylist(), part["number"].to_pylist(), strict=True)
                waiting.append((list(places), vector_ND))
                size += vector_ND.nbytes
                if size >= _COMMIT_BYTES or sum(len(places) for places, _ in waiting) >= commit_every:
                    done += _commit(store, int(table.version), encoder, waiting, timeout)
                    waiting, size = [], 0
                if progress is not None:
                    progress(min(total, done + sum(len(places) for places, _ in waiting)), total)
        if waiting:
            done += _commit(store, int(table.version), encoder, waiting, timeout)


_PASSAGE = ("document_id", "number", "title", "text", "start", "end", "sentences")
_COMMIT_EVERY, _COMMITS = 16_384, 8
_COMMIT_BYTES = 256 << 20
"""Of vectors, at most: Lance holds them twice while it joins them to their rows, in `store.POOL_BYTES`."""


def _commit(
    store: Store,
    read_at: int,
    encoder: PassageEncoder,
    waiting: Sequence[tuple[Sequence[tuple[str, int]], np.ndarray]],
    timeout: float,
) -> int:
    """Vectors of (document id, number) in the version `read_at`; how many are committed.

    The rows stay where they are and Lance writes their column anew, for the whole of every fragment they lie in.
    """
    vector_ND = np.concatenate([vectors for _, vectors in waiting])
    places = [place for part, _ in waiting for place in part]
    with store.writing(timeout) as table, store.errors("written"):
        keys.lay_keys(store, table)
        # A passage whose document was edited while it was encoded gets no stale vector: it is left for the next round.
        edited = set(changed_since(table, read_at))
        stay = [at for at, (document_id, _) in enumerate(places) if document_id not in edited]
        if not stay:
            return 0
        fields = column(table.schema, encoder.fingerprint, vector_ND.shape[1])
        if fields:
            table.add_columns(fields)
        names = pa.array([sc.row_key(*places[at]) for at in stay], pa.string())
        data = pa.table({sc.KEY: names, sc.VECTOR + encoder.fingerprint: fixed_size(vector_ND[stay])})
        store.check_held()
        table.merge_insert(sc.KEY).when_matched_update_all().execute(data)
        keys.index_keys(table)
    return len(stay)


def changed_since(table: LanceTable, version: int, limit: int | None = None) -> list[str]:
    """Ids of the documents that changed after a version, deleted ones among them."""
    heads = table.search().where(f"number = {sc.HEADER} AND version > {version}").select(["document_id"])
    found = heads if limit is None else heads.limit(limit)
    ids: list[str] = found.to_arrow()["document_id"].to_pylist()
    return ids


def waiting(table: LanceTable, encoder: str) -> Waiting:
    """How many passages an encoder has not embedded yet, and since when."""
    name = sc.VECTOR + encoder
    rows = "number >= 0" + (f" AND {name} IS NULL" if name in table.schema.names else "")
    times = table.search().where(rows).select(["updated_at"]).to_arrow()["updated_at"]
    return Waiting(len(times), pc.min(times).as_py())


def stored(table: LanceTable, encoder: str, wanted: Collection[str] | None) -> dict[str, np.ndarray]:
    """Vectors by text hash; where some are wanted, hashes are read of all passages and vectors of these alone."""
    name = sc.VECTOR + encoder
    if name not in table.schema.names or (wanted is not None and not wanted):
        return {}
    search = table.search().where(f"number >= 0 AND {name} IS NOT NULL")
    found: dict[str, np.ndarray] = {}
    if wanted is None:
        for batch in search.select(["text_hash", name]).to_batches(_AT_ONCE):
            found.update(_by_hash(batch, name))
        return found
    wanted, addresses = set(wanted), []
    for batch in search.select(["text_hash"]).with_row_id(True).to_batches(_AT_ONCE):
        pairs = zip(batch["text_hash"].to_pylist(), batch["_rowid"].to_pylist(), strict=True)
        addresses += [address for key, address in pairs if key in wanted]
    for at in range(0, len(addresses), _AT_ONCE):
        rows = table.take_row_ids(addresses[at : at + _AT_ONCE]).select(["text_hash", name]).to_arrow()
        for batch in rows.to_batches():
            found.update(_by_hash(batch, name))
    return found


def _by_hash(batch: pa.RecordBatch, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if batch.num_rows:
        vector_ND = batch[name].flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
        yield from zip(batch["text_hash"].to_pylist(), vector_ND.copy(), strict=True)  # the batch's own goes with it


def missing(table: LanceTable, rows: str, encoder: str) -> tuple[np.ndarray, list[str]]:
    """Addresses uint64[N] and text hashes of the rows that an encoder has not embedded."""
    name = sc.VECTOR + encoder
    rows += f" AND {name} IS NULL" if name in table.schema.names else ""
    found = table.search().where(rows).select(["text_hash"]).with_row_id(True).to_arrow()
    return found["_rowid"].to_numpy(), found["text_hash"].to_pylist()


def choose(schema: pa.Schema, encoder: str | None) -> tuple[str, int]:
    """(column, size) of an encoder; UsageError when it isn't there or None doesn't say which."""
    have = sc.vector_columns(schema)
    if encoder is None and len(have) == 1:
        encoder = next(iter(have))
    if encoder is None or encoder not in have:
        names = ", ".join(have) or "none"
        raise UsageError(
            f"no vectors of encoder {encoder or '(not named)'}: there are those of {names}; see embed_missing"
        )
    return sc.VECTOR + encoder, have[encoder]


def query_vector(vector: Any, dim: int) -> list[float]:
    """A query vector checked against the column."""
    value_D = np.asarray(vector, dtype=np.float32)
    if value_D.shape != (dim,):
        raise UsageError(f"query vector of shape {value_D.shape}: expected ({dim},)")
    return [float(x) for x in value_D]
