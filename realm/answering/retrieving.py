"""Passages of a living knowledge base for queries: what was edited is found at the next question.

Legend: B queries, N passages, D vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from realm.answering.choosing import DEEPER, Search, choose, spread
from realm.answering.constraints import Constraints
from realm.answering.fused import beside_words
from realm.answering.held import HeldVectors, How, search_version
from realm.answering.layers import Version
from realm.answering.past import PastSearch
from realm.answering.tokens import BLANK, cloze_tokens, pad, passage_tokens
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.filters import Filter
from realm.knowledge.table.store import CanNotWriteError, InUseError
from realm.knowledge.table.times import AsOf
from realm.models.backbone import pieces
from realm.models.encoders import DenseEncoder
from realm.types import Evidence, Passage, Progress, Tokens


class Found(NamedTuple):
    """What a search of one version gave."""

    matches: list[list[Match]]
    """For each query, best first."""
    version: int
    now: datetime | None = None
    """What NOW() meant and ages were counted from; None where nothing hung on it."""


class DenseRetrieval:
    """An encoder, and how much of a query and a passage it was trained to see."""

    def __init__(
        self, encoder: DenseEncoder, *, max_query_tokens: int, max_passage_tokens: int, words: float | None = None
    ) -> None:
        """words: the temperature of BM25 beside the vectors; None for vectors alone."""
        self.words = words
        self.encoder = encoder.eval()
        self.tokenizer = encoder.tokenizer
        self.max_query_tokens, self.max_passage_tokens = max_query_tokens, max_passage_tokens
        self._named: tuple[list[tuple[int, int]], str] | None = None
        self._prepared: tuple[Version, KnowledgeBase] | None = None
        self._refused: Version | None = None
        self.held = HeldVectors()
        self.past = PastSearch()

    @property
    def passage_encoder(self) -> PassageEncoder:
        """What `KnowledgeBase.embed_missing` and `update` need: passages to vectors, and whose they are."""

        def encode(passages: Sequence[Passage]) -> np.ndarray:
            with torch.inference_mode():
                tokens = passage_tokens(self.tokenizer, passages, self.max_passage_tokens)
                return np.asarray(self.encoder.encode_passages(tokens).float().cpu().numpy())

        return PassageEncoder(f"{self._fingerprint()}_{self.max_passage_tokens}", encode)

    def _fingerprint(self) -> str:
        """The encoder's, which reads every parameter: made again only when one of them was written to."""
        state = [(parameter.data_ptr(), parameter._version) for parameter in self.encoder.parameters()]
        if self._named is None or self._named[0] != state:
            self._named = state, self.encoder.fingerprint()
        return self._named[1]

    def prepare(self, kb: KnowledgeBase, progress: Progress | None = None) -> int:
        """Embed the passages that have no vector of this encoder yet; returns how many. After an edit, a handful."""
        return kb.embed_missing(self.passage_encoder, progress=progress)

    def hold(self, kb: KnowledgeBase) -> None:
        """Embed what is missing and have the vectors in memory where they fit, so that the first question finds them
        there. Without it the second question does."""
        encoder = self.passage_encoder
        now = self._prepared_version(kb, encoder)
        if encoder.fingerprint in now.encoders() and not self.held.reach(now, encoder.fingerprint):
            self.held.hold(now, encoder.fingerprint)

    def hold_in_memory(self, kb: KnowledgeBase, check: Callable[[], None]) -> int:
        """The same where nothing can be written: the vectors that the present version lacks are made in memory, as its
        first question would; the version. check: called before each batch, may raise to end it."""

        def encode(passages: Sequence[Passage]) -> np.ndarray:
            check()
            return np.asarray(encoder(passages))

        encoder, version = self.passage_encoder, kb.version
        self._refused = (kb.path, kb.identity, version, encoder.fingerprint)
        self.past.open(kb, version, PassageEncoder(encoder.fingerprint, encode))
        return version

    def query_tokens(self, *queries: str) -> Tokens:
        """[CLS] query [SEP], cut to the longest query of training. A blank is masked as in training."""
        cls, sep, rows = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, []
        for query in queries:
            if len(BLANK.findall(query)) == 1:
                rows.append(cloze_tokens(self.tokenizer, query, 1, self.max_query_tokens)[0].ids[0].tolist())
            else:
                rows.append([cls, *pieces(self.tokenizer, [query])[0][: self.max_query_tokens - 2], sep])
        return pad(rows, self.tokenizer.pad_token_id)

    def remark(self, query: str) -> str:
        """What of a query is not seen, in words: what is over the length of training, and what is unknown; else ""."""
        ids = pieces(self.tokenizer, [query])[0]
        room, unknown = self.max_query_tokens - 2, ids.count(self.tokenizer.unk_token_id)
        if len(ids) > room:
            return f"of the question's {len(ids):,} word pieces the first {room} are read, as in training"
        if 2 * unknown >= len(ids):
            return f"the model knows {len(ids) - unknown} of the question's {len(ids)} word pieces: another language?"
        return ""

    @torch.inference_mode()
    def query_vectors(self, *queries: str) -> Tensor:
        """Float[B, D]"""
        return self.encoder.encode_queries(self.query_tokens(*queries))

    def search(
        self,
        query: str,
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | None = None,
    ) -> list[Match]:
        """The k passages with the highest inner product, and BM25 added where the model was trained so. where: a
        predicate on the documents. as_of: a version or a time, see `KnowledgeBase.version_at`. constraints: what else
        they keep to."""
        return self.search_many([query], kb, k, where, as_of, constraints).matches[0]

    def search_many(
        self,
        queries: Sequence[str],
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | None = None,
    ) -> Found:
        """`search` for several queries: they are encoded together, and the vectors are read once. All see one
        version, and from the second time on its vectors are searched in memory, where they fit; see `HeldVectors`."""
        constraints = constraints or Constraints()
        vector_BD = self.query_vectors(*queries).float().cpu()
        encoder = self.passage_encoder
        now = (constraints.now or kb.moment(as_of)) if constraints.needs_now(where) else None
        how = How(constraints.recency(now), constraints.approximate)
        by_vectors, here = self._searching(kb, as_of, encoder, how)

        def vectors(matches: Sequence[Match]) -> dict[str, np.ndarray]:
            known = here.vectors_of(matches, encoder.fingerprint)
            unknown = {match.passage.text_hash: match.passage for match in matches}
            unknown = {key: passage for key, passage in unknown.items() if key not in known}
            return {**known, **dict(zip(unknown, encoder([*unknown.values()]), strict=True))} if unknown else known

        def search_near(numbers: Sequence[int], k: int, among: Filter) -> list[list[Match]]:
            return by_vectors(vector_BD[list(numbers)], k, among)

        search: Search = search_near
        if self.words is not None:
            more: dict[str, Any] = {"temperature": self.words, "recency": how.recency}
            search = beside_words(search, here.search_text, queries, vector_BD.numpy(), vectors, **more)
        among = constraints.filter(where, now)
        return Found(choose(search, vector_BD, k, among, constraints, vectors), here.version, now)

    def _searching(
        self, kb: KnowledgeBase, as_of: AsOf | None, encoder: PassageEncoder, how: How
    ) -> tuple[Callable[[Tensor, int, Filter], list[list[Match]]], KnowledgeBase]:
        """A search of one version, and the knowledge base open at it."""
        if as_of is None:
            # Where nothing can be written now, what lacks a vector is embedded in memory, as of a version that was.
            with suppress(CanNotWriteError, InUseError):
                here = self._prepared_version(kb, encoder)
                name = encoder.fingerprint
                return lambda vector_BD, k, among: search_version(here, self.held, vector_BD, k, among, name, how), here
        version = kb.version if as_of is None else kb.version_at(as_of) if isinstance(as_of, datetime) else as_of

        def search(vector_BD: Tensor, k: int, among: Filter) -> list[list[Match]]:
            return self.past.search(kb, version, vector_BD, k, among, encoder, how.recency)

        return search, kb.at(version)

    def _prepared_version(self, kb: KnowledgeBase, encoder: PassageEncoder) -> KnowledgeBase:
        """The newest version, every passage of which has a vector. Looked for once: a version does not change, and of
        the next one only what was edited can lack any."""
        while True:
            this = (kb.path, kb.identity, kb.version, encoder.fingerprint)
            before = self._prepared  # once: another thread may put a later version there
            if before is not None and before[0] == this:
                return before[1]
            now, documents = kb.at(this[2]), None
            if self.held.reach(now, this[3]):
                self._prepared = this, now
                return now
            if before is not None and _is_before(before[0], this) and this[3] in now.encoders():
                changes = now.changes(before[0][2], this[3])
                if changes is not None and not changes.waiting:
                    self._prepared = this, now
                    return now
                documents = None if changes is None else changes.documents
            if self._refused == this:
                raise CanNotWriteError(f"{kb.address}: found no way to write the vectors of version {this[2]}")
            try:
                embedded = kb.embed_missing(encoder, documents=documents)
            except CanNotWriteError:  # it may have encoded much: not again for each question
                self._refused = this
                raise
            # Somebody else may write meanwhile: a version counts that was found complete and is still the newest.
            if embedded == 0 and kb.version == this[2]:
                self._prepared = this, now


def _is_before(earlier: Version, later: Version) -> bool:
    """Whether these are two versions of one knowledge base, for one encoder, in this order."""
    return (*earlier[:2], earlier[3]) == (*later[:2], later[3]) and earlier[2] < later[2]


def search_words(
    query: str,
    kb: KnowledgeBase,
    k: int = 5,
    where: str | None = None,
    as_of: AsOf | None = None,
    constraints: Constraints | None = None,
) -> Found:
    """The k best passages by BM25 of one version; UsageError for constraints that need vectors."""
    constraints = constraints or Constraints()
    constraints.check_by_words()
    now = (constraints.now or kb.moment(as_of)) if constraints.needs_now(where) else None
    here, among = kb.at(kb.version if as_of is None else as_of), constraints.filter(where, now)
    if not constraints.limited:
        return Found([here.search_text(query, k, among)], here.version, now)
    search, depth = partial(here.search_text, query), DEEPER * k
    return Found([spread(search, search(depth, among), depth, k, among, constraints)], here.version, now)


def evidence_from(
    match: Match, prior: float, posterior: float, utility: float, span: tuple[int, int] | None
) -> Evidence:
    """A retrieved passage as what an answer rests on. prior, posterior: p(z|x) and p(z|x,y). utility: RU, NaN where
    there is no null passage. span: of the answer, in characters of the passage."""
    return Evidence(
        passage=match.passage,
        document_version=match.document_version,
        score=match.score,
        prior=prior,
        posterior=posterior,
        retrieval_utility=utility,
        span=span,
        source=match.source,
        date=match.date,
        url=match.url,
        recency=match.recency,
    )
