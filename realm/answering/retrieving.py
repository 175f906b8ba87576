"""Passages of a living knowledge base for a query: what was edited is found at the next question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from realm.answering.tokens import BLANK, cloze_tokens, pad, passage_tokens
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.models.backbone import pieces
from realm.models.encoders import DenseEncoder
from realm.types import Passage, Progress, Tokens


class DenseRetrieval:
    """An encoder, and how much of a query and a passage it was trained to see."""

    def __init__(self, encoder: DenseEncoder, *, max_query_tokens: int, max_passage_tokens: int) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = encoder.tokenizer
        self.max_query_tokens, self.max_passage_tokens = max_query_tokens, max_passage_tokens

    @property
    def passage_encoder(self) -> PassageEncoder:
        """What `KnowledgeBase.embed_missing` and `update` need: passages to vectors, and whose they are."""

        def encode(passages: Sequence[Passage]) -> np.ndarray:
            with torch.inference_mode():
                tokens = passage_tokens(self.tokenizer, passages, self.max_passage_tokens)
                return np.asarray(self.encoder.encode_passages(tokens).float().cpu().numpy())

        return PassageEncoder(f"{self.encoder.fingerprint()}_{self.max_passage_tokens}", encode)

    def prepare(self, kb: KnowledgeBase, progress: Progress | None = None) -> int:
        """Embed the passages that have no vector of this encoder yet; returns how many. After an edit, a handful."""
        return kb.embed_missing(self.passage_encoder, progress=progress)

    def query_tokens(self, query: str) -> Tokens:
        """[CLS] query [SEP]. A blank is masked as in training."""
        if len(BLANK.findall(query)) == 1:
            return cloze_tokens(self.tokenizer, query, 1, self.max_query_tokens)[0]
        ids = pieces(self.tokenizer, [query])[0][: self.max_query_tokens - 2]
        return pad([[self.tokenizer.cls_token_id, *ids, self.tokenizer.sep_token_id]], self.tokenizer.pad_token_id)

    @torch.inference_mode()
    def query_vector(self, query: str) -> Tensor:
        """Float[1, D]"""
        return self.encoder.encode_queries(self.query_tokens(query))

    def search(
        self, query: str, kb: KnowledgeBase, k: int = 5, where: str | None = None, as_of: int | None = None
    ) -> list[Match]:
        """The k passages with the highest inner product. where: a predicate on the documents. as_of: a version."""
        query_D = self.query_vector(query)[0].float().cpu().numpy()
        encoder = self.passage_encoder
        if as_of is None:
            self.prepare(kb)
            if encoder.fingerprint not in kb.encoders():  # not a single passage to embed
                return []
            return kb.search_vectors(query_D, k, where, encoder.fingerprint)
        return _search_past(kb, as_of, query_D, k, where, encoder)


def _search_past(
    kb: KnowledgeBase, version: int, query_D: np.ndarray, k: int, where: str | None, encoder: PassageEncoder
) -> list[Match]:
    """Search an older version, which can't be written: what has changed since is embedded here, in memory."""
    past = kb.at(version)
    known = kb.stored_vectors(encoder.fingerprint)
    best: list[tuple[float, Passage]] = []
    for passages in _batched(past.passages(where), 1024):
        fresh = [passage for passage in passages if passage.text_hash not in known]
        vectors = dict(zip((p.text_hash for p in fresh), encoder(fresh), strict=True)) if fresh else {}
        score_N = np.stack([(vectors if p.text_hash in vectors else known)[p.text_hash] for p in passages]) @ query_D
        best = sorted([*best, *zip(score_N.tolist(), passages, strict=True)], key=lambda pair: -pair[0])[:k]
    return [past.match(passage, score) for score, passage in best]


def _batched(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    while batch := list(islice(passages, size)):
        yield batch
