"""KnowledgeBase: the versioned, editable store of documents and their passages (the Z of Guu et al. 2020)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from realm.errors import AbsentError
from realm.knowledge.table import changes, housekeeping, near, reading, vectors
from realm.knowledge.table import schema as sc
from realm.knowledge.table.anywhere import Anywhere, place_of
from realm.knowledge.table.changes import Changes
from realm.knowledge.table.columns import OnMisfit
from realm.knowledge.table.filters import Where
from realm.knowledge.table.laying import lay
from realm.knowledge.table.listing import Version
from realm.knowledge.table.reading import Match, Page, Revision
from realm.knowledge.table.recency import Recency
from realm.knowledge.table.sourced import SourceDocuments
from realm.knowledge.table.store import Store, read_config
from realm.knowledge.table.times import AsOf, moment_of, version_at, versions
from realm.knowledge.table.upkeep import Upkeep
from realm.knowledge.table.vectors import PassageEncoder, Waiting
from realm.knowledge.table.writing import Counts, Split, Writer
from realm.types import Document, Passage, Progress

__all__ = ["Counts", "KnowledgeBase", "Match", "Page", "PassageEncoder", "Revision", "Split", "Version", "Waiting"]


class KnowledgeBase:
    """Documents and passages in a folder, or in an object store (``s3://bucket/kb``): Lance tables, and what they are.

    Make one with `create` or `open`. Reads see the newest version at each call; `at` gives a fixed one. A write is one
    commit for each batch of documents (one for `update` and `delete`), and a document is never half in it. Any number
    of processes may read; writers wait for each other.
    """

    def __init__(self, store: Store, config: Mapping[str, Any], split: Split | None, lock_timeout: float) -> None:
        self._store = store
        self._config = config
        self._writer = Writer(store, split, lock_timeout)

    # ------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls,
        path: Anywhere,
        *,
        split: Split | None = None,
        splitter: Mapping[str, Any] | None = None,
        text_search: Mapping[str, Any] | None = None,
        lock_timeout: float = 60.0,
    ) -> Self:
        """Make an empty knowledge base.

        split: makes passages of documents.
        splitter: settings (JSON values) from which `split` can be built again; kept in kb.json.
        text_search: settings of Lance's full-text index, as ``{"language": "English", "stem": True}``.
        Raises KnowledgeBaseError when the folder is not empty, UsageError for settings Lance doesn't know.
        """
        place = place_of(path)
        config = lay(place, splitter, text_search)
        return cls(Store(place), config, split, lock_timeout)

    @classmethod
    def open(
        cls, path: Anywhere, *, split: Split | None = None, as_of: AsOf | None = None, lock_timeout: float = 60.0
    ) -> Self:
        """Open a knowledge base; without `split` it can be read, and documents deleted, but not added.

        as_of: a version to look at instead of the newest, or a time (see `version_at`); then nothing can be written.
        Raises KnowledgeBaseError when there is none, or no such version.
        """
        place = place_of(path)
        config = read_config(place)
        newest = cls(Store(place), config, split, lock_timeout)
        return newest if as_of is None else newest.at(as_of)

    @staticmethod
    def splitter_of(path: Anywhere) -> dict[str, Any]:
        """The splitter settings of a knowledge base, to build `split` before opening it."""
        return dict(read_config(place_of(path))["splitter"])

    def at(self, as_of: AsOf) -> Self:
        """The knowledge base as of a version or a time (see `version_at`), for reading."""
        version = self.version_at(as_of) if isinstance(as_of, datetime) else as_of
        return type(self)(Store(self._store.place, version), self._config, None, 0.0)

    # ------------------------------------------------------------ facts

    @property
    def path(self) -> Path:
        """The folder of this machine for what is made from it: its own, or for an address one in the cache."""
        return self._store.path

    @property
    def address(self) -> str:
        """What messages and manifests name it by: its folder, or its address in an object store."""
        return self._store.address

    @property
    def splitter(self) -> dict[str, Any]:
        """Settings of the splitter, as given to `create`."""
        return dict(self._config["splitter"])

    @property
    def version(self) -> int:
        """The newest version, or the one opened."""
        return self._store.version

    @property
    def identity(self) -> tuple[int, int]:
        """Tells it from another that is laid in its place later, whose versions have the same numbers."""
        return self._store.identity

    @property
    def content_version(self) -> int:
        """The last version that changed a document; vectors and indexes that came later don't count. 0 when empty."""
        with self._store.errors("read"):
            return reading.content_version(self._store.at())

    def last_alike(self) -> int:
        """The newest version that holds the very documents of this one: what came in between brought vectors and
        indexes. For a knowledge base open as of a version; looks at the logarithm of their number."""
        with self._store.errors("read"):
            return reading.last_alike(self._store)

    def versions(self) -> list[Version]:
        """All versions that can be opened, oldest first."""
        return versions(self._store)

    def moment(self, as_of: AsOf | None = None) -> datetime:
        """What NOW() means as of a version or a time: that time, when that version was committed, or the present."""
        return moment_of(self._store, as_of)

    def version_at(self, time: datetime) -> int:
        """The newest version not later than a time; a time without a zone is local. See `times.version_at`."""
        return version_at(self._store, time)

    def __len__(self) -> int:
        """Number of documents."""
        with self._store.errors("read"):
            return int(self._store.table.count_rows(reading.DOCUMENTS))

    def num_passages(self, where: Where = None) -> int:
        """Number of passages that satisfy a predicate."""
        with self._store.errors("read"):
            table = self._store.at()
            return int(table.count_rows(reading.condition(table, reading.PASSAGES, where)))

    def columns(self) -> dict[str, str]:
        """What `where` can name, with types: document fields and metadata keys; of passages alone text and number."""
        return reading.public_columns(self._store.table)

    def encoders(self) -> dict[str, int]:
        """Fingerprints of the encoders that have vectors here, with their vector sizes."""
        return sc.vector_columns(self._store.table.schema)

    # ------------------------------------------------------------ reading

    def __contains__(self, document_id: object) -> bool:
        last = self.revision(document_id) if isinstance(document_id, str) else None
        return last is not None and last.change != "deleted"

    def get(self, document_id: str) -> Document | None:
        """A document as it was given, or None."""
        with self._store.errors("read"):
            return reading.document(self._store.at(), document_id)

    def revision(self, document_id: str) -> Revision | None:
        """The last change of a document (a deletion too), or None when it never was."""
        with self._store.errors("read"):
            return reading.header(self._store.at(), document_id)

    def history(self, document_id: str, *, limit: int | None = None, before: int | None = None) -> list[Revision]:
        """All changes of a document, oldest first; empty when it never was. Takes one look-up for each change.

        limit: only so many, the newest. before: only those of older versions than this.
        """
        with self._store.errors("read"):
            return reading.history(self._store, document_id, limit, before)

    def documents(self, where: Where = None) -> Iterator[Document]:
        """Documents of one version in order of insertion, streamed."""
        table = self._store.at()
        with self._store.errors("read"):
            yield from reading.documents(table, where)

    def page(self, where: Where = None, limit: int = 50, after: int | None = None) -> Page:
        """At most `limit` documents of one version in order of insertion, without reading those before and behind them.

        after: the `next` of the page before; ask `at` its version, so that no edit comes between two pages.
        """
        table = self._store.at()
        with self._store.errors("read"):
            return reading.page(table, where, limit, after)

    def waiting(self, encoder: str) -> Waiting:
        """The passages that have no vector of an encoder yet."""
        with self._store.errors("read"):
            return vectors.waiting(self._store.at(), encoder)

    def passages(self, where: Where = None) -> Iterator[Passage]:
        """Passages of one version, in order of document insertion and of number, streamed."""
        table = self._store.at()
        with self._store.errors("read"):
            yield from reading.passages(table, where)

    def batches(self, columns: Sequence[str], where: Where = None) -> Iterator[pa.RecordBatch]:
        """Columns of the passages, in the order of `passages`, for bulk work."""
        table = self._store.at()
        with self._store.errors("read"):
            yield from reading.scan(table, reading.condition(table, reading.PASSAGES, where), columns)

    def search_text(self, query: str, k: int = 10, where: Where = None) -> list[Match]:
        """Best k passages by BM25 over text and title, best first."""
        with self._store.errors("searched"):
            return reading.search_text(self._store.at(), query, k, where)

    def search_vectors(
        self,
        vector: np.ndarray,
        k: int = 10,
        where: Where = None,
        encoder: str | None = None,
        approximate: bool = False,
    ) -> list[Match]:
        """Best k passages by inner product with vector float[D], filtered before the search.

        encoder: whose vectors; may be left out when there is one. UsageError when there is none such.
        approximate: by the index of `index_vectors` where that is quicker; UsageError without one. Else exact.
        """
        with self._store.errors("searched"):
            return reading.search_vectors(self._store.at(), vector, k, where, encoder, approximate)

    def search_many(
        self,
        vectors: np.ndarray,
        k: int = 10,
        where: Where = None,
        encoder: str | None = None,
        recency: Recency | None = None,
    ) -> list[list[Match]]:
        """Exact `search_vectors` for vectors float[B, D], in one pass over the passages; best by `Match.logit`."""
        with self._store.errors("searched"):
            return reading.search_many(self._store.at(), vectors, k, where, encoder, recency)

    def embedded(self, encoder: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Addresses uint64[N] and vectors float32[N, D] of all embedded passages of one version, part by part.

        For a search of one's own; `matches_at` tells what stands at an address, of this version alone: open it by `at`.
        """
        table = self._store.at()
        with self._store.errors("read"):
            yield from reading.embedded(table, None, encoder)

    def matches_at(self, addresses: np.ndarray, scores: np.ndarray) -> list[list[Match]]:
        """The passages at addresses uint64[B, K] that `embedded` gave of this version; scores: float[B, K], theirs."""
        with self._store.errors("read"):
            return reading.matches_at(self._store.at(), addresses, scores)

    def changes(self, since: int, encoder: str) -> Changes | None:
        """What edits changed after a version, and an encoder's vectors of it; None where that is much."""
        with self._store.errors("read"):
            return changes.since(self._store.at(), since, encoder)

    def addresses(self, documents: Sequence[str]) -> np.ndarray:
        """uint64[N]: where the passages of some documents stand in this version (see `embedded`)."""
        with self._store.errors("read"):
            return changes.addresses(self._store.at(), documents)

    def stored_vectors(self, encoder: str, text_hashes: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """The vectors of an encoder by text hash, float32[D] each, of these texts alone if given."""
        with self._store.errors("read"):
            return vectors.stored(self._store.at(), encoder, text_hashes)

    def vectors_of(self, matches: Sequence[Match], encoder: str) -> dict[str, np.ndarray]:
        """The vectors of passages that a search of this version found, by text hash; without those that have none."""
        with self._store.errors("read"):
            return reading.vectors_of(self._store.at(), matches, encoder)

    def unembedded(self, encoder: str, where: Where = None) -> tuple[np.ndarray, list[str]]:
        """Addresses uint64[N] (see `matches_at`) and text hashes of the passages that have no vector of an encoder."""
        table = self._store.at()
        with self._store.errors("read"):
            return vectors.missing(table, reading.condition(table, reading.PASSAGES, where), encoder)

    # ------------------------------------------------------------ writing

    def add(
        self, documents: Iterable[Document], *, encoder: PassageEncoder | None = None, progress: Progress | None = None
    ) -> Counts:
        """Add documents; DataError when one is there already.

        Documents are streamed and committed in batches: when it raises, earlier batches are in, the faulty one is not.
        encoder: gives the new passages their vectors in the same commit.
        """
        return self._writer.write(documents, "add", encoder, progress)

    def update(
        self, document: Document, *, encoder: PassageEncoder | None = None, expected: int | None = None
    ) -> Counts:
        """Replace a document, in one commit. Passages whose text stays keep their vectors, whatever their number.

        expected: the version of the document that it was edited from (`Revision.version`); ChangedError, and nothing
        written, when somebody changed it since. DataError when it isn't there. Nothing is written when nothing differs.
        """
        return self._writer.write([document], "update", encoder, expected=expected)

    def upsert(
        self,
        documents: Iterable[Document],
        *,
        encoder: PassageEncoder | None = None,
        progress: Progress | None = None,
        on_misfit: OnMisfit | None = None,
    ) -> Counts:
        """Add what is new, update what differs, leave the rest: running it again does nothing, and resumes an ingest.

        DataError: an id twice with different content in one call, or metadata that doesn't fit without `on_misfit`.
        """
        return self._writer.write(documents, "upsert", encoder, progress, on_misfit=on_misfit)

    def kept_in_step(self, source: str) -> SourceDocuments:
        """The documents that come from a source, for `syncing`. UsageError as of a version."""
        self._store.check_writable()
        return SourceDocuments(self._store, self._writer, source)

    def delete(self, ids: str | Iterable[str], *, expected: int | None = None) -> Counts:
        """Delete documents, in one commit; their history stays. DataError when one isn't there. expected: of a single
        one, as for `update`."""
        return self._writer.delete([ids] if isinstance(ids, str) else list(ids), expected=expected)

    def restore(self, document_id: str, as_of: AsOf, *, encoder: PassageEncoder | None = None) -> Counts:
        """Make a document again what it was as of a version or a time (see `version_at`), also one that is deleted now.

        One commit, and a revision like any edit: "updated", or "added" where it was deleted. Nothing is written when
        nothing differs. The vectors that its passages had come back with them, of every encoder that is still here;
        `encoder` makes those that are missing. AbsentError when the document was not there then.
        """
        self._store.check_writable()
        then = self.at(as_of)
        document = then.get(document_id)
        if document is None:
            raise AbsentError(f"no document {document_id!r} in version {then.version} of {self.address} to restore")
        if document == self.get(document_id):
            return Counts(unchanged=1, version=self.version)
        # Vectors are committed after a text: the last version that shows this one has the most of them.
        later = [change.version for change in self.history(document_id) if change.version > then.version]
        with self._store.errors("read"):
            known = vectors.kept(self._store.at(min(later, default=self.version + 1) - 1), [document_id])
        return self._writer.write([document], "upsert", encoder, known=known)

    def embed_missing(
        self,
        encoder: PassageEncoder,
        *,
        batch: int = 256,
        commit_every: int | None = None,
        progress: Progress | None = None,
        documents: Sequence[str] | None = None,
    ) -> int:
        """Embed the passages that have no vector from this encoder; the number embedded. Goes on where it stopped:
        vectors are committed every `commit_every` passages (None: see `vectors.Pace`). documents: theirs alone."""
        pace = vectors.Pace(batch, commit_every)
        done = vectors.embed_missing(self._store, encoder, self._writer.timeout, pace, progress, documents)
        if done and self._writer.tidies:
            self._writer.tidy_behind(done)
        return done

    def forget_encoder(self, encoder: str) -> None:
        """Drop the vectors of an encoder from this version on. UsageError when there are none."""
        with self._store.writing(self._writer.timeout) as table, self._store.errors("written"):
            name, _ = vectors.choose(table.schema, encoder)
            table.drop_columns([name])

    def index_vectors(self, encoder: str | None = None) -> dict[str, Any]:
        """Make the index of approximate search over an encoder's vectors, or make it anew; facts about it. Edits are
        seen without it: rows that came later are searched one by one until `compact`, or this, takes them in."""
        with self._store.writing(self._writer.timeout) as table, self._store.errors("indexed"):
            return near.build(table, encoder)

    def compact(self) -> int:
        """Merge files and bring the indexes up to date; the new version. History stays."""
        self._store.check_writable()
        self._store.place.tidy(thorough=True)
        with self._store.writing(self._writer.timeout) as table, self._store.errors("compacted"):
            return housekeeping.compact(table)

    @property
    def upkeep(self) -> Upkeep:
        """Housekeeping while it is in use, and letting old versions go."""
        return Upkeep(self._writer)
