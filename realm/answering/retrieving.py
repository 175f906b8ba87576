"""Passages of a living knowledge base for queries: what was edited is found at the next question.

Legend: B queries, N passages, D vector size.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from realm.answering.held import HeldVectors, Version, search_version
from realm.answering.past import PastSearch
from realm.answering.tokens import BLANK, cloze_tokens, pad, passage_tokens
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.times import AsOf
from realm.models.backbone import pieces
from realm.models.encoders import DenseEncoder
from realm.types import Evidence, Passage, Progress, Tokens


class Found(NamedTuple):
    """What a search of one version gave."""

    matches: list[list[Match]]
    """For each query, best first."""
    version: int


class DenseRetrieval:
    """An encoder, and how much of a query and a passage it was trained to see."""

    def __init__(self, encoder: DenseEncoder, *, max_query_tokens: int, max_passage_tokens: int) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = encoder.tokenizer
        self.max_query_tokens, self.max_passage_tokens = max_query_tokens, max_passage_tokens
        self._named: tuple[list[tuple[int, int]], str] | None = None
        self._prepared: tuple[Version, KnowledgeBase] | None = None
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
        self, query: str, kb: KnowledgeBase, k: int = 5, where: str | None = None, as_of: AsOf | None = None
    ) -> list[Match]:
        """The k passages with the highest inner product. where: a predicate on the documents. as_of: a version or a
        time, see `KnowledgeBase.version_at`."""
        return self.search_many([query], kb, k, where, as_of).matches[0]

    def search_many(
        self,
        queries: Sequence[str],
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
    ) -> Found:
        """`search` for several queries: they are encoded together, and the vectors are read once. All see one
        version, and from the second time on its vectors are searched in memory, where they fit; see `HeldVectors`."""
        vector_BD = self.query_vectors(*queries).float().cpu()
        encoder = self.passage_encoder
        if as_of is not None:
            version = kb.version_at(as_of) if isinstance(as_of, datetime) else as_of
            return Found(self.past.search(kb, version, vector_BD, k, where, encoder), version)
        now = self._prepared_version(kb, encoder)
        return Found(search_version(now, self.held, vector_BD, k, where, encoder.fingerprint), now.version)

    def _prepared_version(self, kb: KnowledgeBase, encoder: PassageEncoder) -> KnowledgeBase:
        """The newest version, every passage of which has a vector. Looked for once: a version does not change."""
        while True:
            this = (kb.path, kb.identity, kb.version, encoder.fingerprint)
            if self._prepared is not None and self._prepared[0] == this:
                return self._prepared[1]
            # Somebody else may write meanwhile: a version counts that was found complete and is still the newest.
            if kb.embed_missing(encoder) == 0 and kb.version == this[2]:
                self._prepared = this, kb.at(this[2])


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
    )
