"""Which passages a step of pre-training reads: the proposals of an index that is older than the parameters (Guu et al.
2020, section 3.3), and what a recipe may do about them.

Legend: B queries, C proposed passages, K passages that are read, D vector size.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from realm import objectives
from realm.types import NO_ROW, Hits, Index, MaskedBatch, PassageSource, Tokens, TrainableEncoder


class Lexical(Protocol):
    """Proposes passages by the words of queries."""

    def __call__(self, query: Tokens, k: int, exclude: Tensor | None = None) -> Hits: ...


class Proposed(NamedTuple):
    rows_BK: Tensor
    """Long[B, K] on the CPU, distinct; NO_ROW where there was no further passage."""
    source_hit_B: Tensor | None
    """True where the passage the sentence came from would have been among them; None if X is not Z."""
    changed: Tensor
    """Share of the proposals that re-ranking with live parameters replaced."""
    index_BK: Tensor
    """Float[B, K]: the index's score of each; NaN where it was not the index that proposed it for its score."""


class Proposer:
    """A stale index, the parameters that made it, and how its hits become the passages of a step."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        corpus: PassageSource,
        index: Index,
        index_encoder: TrainableEncoder | None = None,
        *,
        num_passages: int,
        max_passage_tokens: int,
        over_retrieve: int = 1,
        explore: int = 0,
        explore_depth: int = 200,
        lexical: Lexical | None = None,
        num_lexical: int = 0,
    ) -> None:
        """
        encoder: the live parameters, for re-ranking. index: vectors of `corpus` by `index_encoder`.
        num_passages: K. over_retrieve: fetch this many times K and keep the best by live parameters.
        explore: so many of the K are drawn from the first `explore_depth` of the index instead of its top, each example
            by its own seed; batches without seeds (a probe's) are read without.
        num_lexical: so many of the K are the best of `lexical` that the index did not propose, in training alone.
        """
        self.encoder, self.corpus = encoder, corpus
        self.index, self.index_encoder = index, index_encoder or stale_copy(encoder)
        self.num_passages, self.max_passage_tokens = num_passages, max_passage_tokens
        self.over_retrieve, self.explore, self.explore_depth = over_retrieve, explore, explore_depth
        self.lexical, self.num_lexical = lexical, num_lexical if lexical is not None else 0

    @torch.no_grad()
    def __call__(self, query_BD: Tensor, batch: MaskedBatch) -> Proposed:
        """query_BD: by live parameters. The index is asked with its own ones."""
        training = batch.seeds is not None
        explore, num_lexical = (self.explore, self.num_lexical) if training else (0, 0)
        best, fetched = self.num_passages - explore - num_lexical, self.num_passages * self.over_retrieve
        stale_BD = self.index_encoder.encode_queries(batch.query.to(query_BD.device))
        depth = max(fetched, self.explore_depth) if explore else fetched
        hits = self.index.search(stale_BD, depth, exclude=batch.exclude_rows)
        pool_BC = hits.rows.cpu()
        source_hit_B = self._source_hit_B(stale_BD, hits, best, batch)
        changed = torch.zeros(())
        rows_BK, index_BK = pool_BC[:, :best], hits.scores[:, :best].float().cpu()
        if self.over_retrieve > 1:
            order_BK = self._rerank(query_BD, pool_BC[:, :fetched])[:, :best]
            proposed_BK, rows_BK = rows_BK, pool_BC.gather(1, order_BK)
            index_BK = hits.scores.float().cpu().gather(1, order_BK)
            changed = (rows_BK[:, :, None] != proposed_BK[:, None, :]).all(-1).float().mean()
        if num_lexical and self.lexical is not None:
            words_BC = self.lexical(batch.query, self.num_passages, batch.exclude_rows).rows
            rows_BK = torch.cat([rows_BK, first_new(words_BC, rows_BK, num_lexical)], 1)
        if explore and batch.seeds is not None:
            rows_BK = torch.cat([rows_BK, drawn(pool_BC[:, : self.explore_depth], rows_BK, explore, batch.seeds)], 1)
        others = rows_BK.shape[1] - index_BK.shape[1]
        index_BK = nn.functional.pad(index_BK, (0, others), value=torch.nan)
        return Proposed(rows_BK, source_hit_B, changed, index_BK)

    def _source_hit_B(self, stale_BD: Tensor, hits: Hits, best: int, batch: MaskedBatch) -> Tensor | None:
        known_B = batch.source_rows != NO_ROW
        if not bool(known_B.any()):
            return None
        # The excluded source would have been proposed if its stale score beats the last one kept.
        source_BD = self.index.vectors(batch.source_rows).to(stale_BD.device)
        last_B = hits.scores[:, min(best, hits.scores.shape[1]) - 1].to(stale_BD.device)
        return ((stale_BD.float() * source_BD).sum(-1) >= last_B).cpu() & known_B

    def _rerank(self, query_BD: Tensor, rows_BC: Tensor) -> Tensor:
        """Long[B, C]: the places of `rows_BC`, best by live parameters first."""
        rows_U, where_BC = rows_BC.unique(return_inverse=True)
        tokens = self.corpus.passages(rows_U, self.max_passage_tokens).to(query_BD.device)
        passage_UD = self.encoder.encode_passages(tokens)
        score_BC = objectives.scores(query_BD, passage_UD[where_BC.to(query_BD.device)]).cpu()
        return score_BC.masked_fill(rows_BC == NO_ROW, -torch.inf).argsort(dim=1, descending=True, stable=True)


def drawn(pool_BC: Tensor, chosen_BK: Tensor, count: int, seeds_B: Tensor) -> Tensor:
    """`count` rows of each pool that are not chosen yet, all equally likely. Long[B, count]; NO_ROW when it runs out.

    A function of the example's seed alone: not of what was drawn before, nor of the other examples.
    """
    return _least(pool_BC, chosen_BK, count, torch.stack([_uniform(s, pool_BC.shape[1]) for s in seeds_B.tolist()]))


def first_new(pool_BC: Tensor, chosen_BK: Tensor, count: int) -> Tensor:
    """The first `count` rows of each pool that are not chosen yet. Long[B, count]; NO_ROW when it runs out."""
    place_BC = torch.linspace(0, 1, pool_BC.shape[1], dtype=torch.float64).expand(pool_BC.shape)
    return _least(pool_BC, chosen_BK, count, place_BC)


def _least(pool_BC: Tensor, chosen_BK: Tensor, count: int, key_BC: Tensor) -> Tensor:
    """The rows with the least keys (of 0 to 1) that are not chosen yet."""
    taken_BC = (pool_BC[:, :, None] == chosen_BK[:, None, :]).any(-1) | (pool_BC == NO_ROW)
    key_BC, order_BC = key_BC.masked_fill(taken_BC, 2.0).sort(dim=1)
    rows_BC = pool_BC.gather(1, order_BC).masked_fill(key_BC == 2.0, NO_ROW)[:, :count]
    return nn.functional.pad(rows_BC, (0, count - rows_BC.shape[1]), value=NO_ROW)


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class ByWords:
    """A lexical retriever over masked sentences: the words that are left are its query."""

    def __init__(self, retriever: Any, tokenizer: Any) -> None:
        """retriever: (texts, k, exclude) -> Hits. tokenizer: makes words of word pieces again."""
        self.retriever, self.tokenizer = retriever, tokenizer

    def __call__(self, query: Tokens, k: int, exclude: Tensor | None = None) -> Hits:
        rows = zip(query.ids.tolist(), query.lengths.tolist(), strict=True)
        texts = [self.tokenizer.decode(ids[:length], skip_special_tokens=True) for ids, length in rows]
        found: Hits = self.retriever(texts, k, exclude=exclude)
        return found


def stale_copy(encoder: TrainableEncoder) -> TrainableEncoder:
    """An encoder's parameters as they are now, which no training moves."""
    copy = deepcopy(encoder)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    copy.train(False)
    return copy
