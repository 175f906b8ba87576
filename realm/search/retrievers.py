"""Queries to hits with a dense encoder and an index that may be older than the encoder.

Legend: B queries, K hits, F fetched, E excluded rows, N rows, D vector size, U distinct rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realm.errors import MismatchError, UsageError
from realm.search.embed import BATCH_TOKENS, embed_rows
from realm.search.topk import NO_SCORE, top
from realm.types import NO_ROW, Encoder, Hits, Index, PassageSource, Tokens


@dataclass(frozen=True)
class LiveRerank:
    """Fetch more than is wanted by stale vectors, embed that anew, keep the best.

    Makes a stale index nearly as good as a fresh one, for `factor * k` encodings a query (Izacard et al. 2022,
    section 2.4, "over-retrieve with reranking").
    """

    source: PassageSource
    max_tokens: int
    factor: int = 4
    batch_tokens: int = BATCH_TOKENS


class DenseRetriever:
    """The nearest passages of a query by inner product. `index` may be replaced between two calls (refresh).

    tokenize: text to the encoder's query input; needed only to be called with text, as a `Retriever`.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        *,
        tokenize: Callable[[Sequence[str]], Tokens] | None = None,
        rerank: LiveRerank | None = None,
    ) -> None:
        """MismatchError: the encoder's vectors have another size than the index's."""
        if rerank is not None and rerank.factor < 1:
            raise UsageError(f"rerank.factor is {rerank.factor}: expected at least 1")
        self.encoder = encoder
        self._tokenize = tokenize
        self._rerank = rerank
        self._index = index
        self.index = index

    @property
    def index(self) -> Index:
        return self._index

    @index.setter
    def index(self, index: Index) -> None:
        if index.dim != self.encoder.dim:
            raise MismatchError(f"the index holds vectors of {index.dim}, the encoder gives {self.encoder.dim}")
        if self._rerank is not None and len(index) != len(self._rerank.source):
            raise MismatchError(f"the index holds {len(index)} rows, the snapshot {len(self._rerank.source)}")
        self._index = index

    def __call__(
        self, queries: Sequence[str], k: int, exclude: Tensor | None = None, allowed: Tensor | None = None
    ) -> Hits:
        if self._tokenize is None:
            raise UsageError("this retriever has no tokenizer: make it with `tokenize`, or call `search` with tokens")
        if not len(queries):
            return self.search_vectors(torch.zeros((0, self.encoder.dim)), k)
        return self.search(self._tokenize(queries), k, exclude, allowed)

    @torch.no_grad()
    def search(self, queries: Tokens, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> Hits:
        """Best k rows for tokenised queries; the rest as in `Index.search`."""
        query_BD = self.encoder.encode_queries(queries.to(self.encoder.device))
        return self.search_vectors(query_BD, k, exclude, allowed)

    @torch.no_grad()
    def search_vectors(
        self, query_BD: Tensor, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None
    ) -> Hits:
        """Best k rows for queries that are embedded already; no gradient flows into the choice."""
        query_BD = query_BD.detach()
        if self._rerank is None or not len(query_BD):
            return self._index.search(query_BD, k, exclude, allowed)
        stale = self._index.search(query_BD, k * self._rerank.factor, exclude, allowed)
        return self._live(query_BD, stale.rows, k, self._rerank)

    def _live(self, query_BD: Tensor, row_BF: Tensor, k: int, setting: LiveRerank) -> Hits:
        # Ascending rows (NO_ROW first), so that equal scores give the lower row first, as an index does.
        row_BF = row_BF.sort(dim=1).values
        row_U, place_BF = row_BF.unique(return_inverse=True)
        real_U = row_U != NO_ROW
        vector_UD = torch.zeros((len(row_U), self.encoder.dim), device=query_BD.device)
        if real_U.any():
            vector_UD[real_U] = embed_rows(
                self.encoder,
                setting.source,
                row_U[real_U],
                max_tokens=setting.max_tokens,
                batch_tokens=setting.batch_tokens,
            ).to(query_BD.device)
        score_BF = torch.einsum("bd,bfd->bf", query_BD.float(), vector_UD[place_BF])
        score_BK, at_BK = top(score_BF.masked_fill(row_BF == NO_ROW, NO_SCORE), k)
        return Hits(row_BF.gather(1, at_BK).masked_fill(score_BK == NO_SCORE, NO_ROW), score_BK)
