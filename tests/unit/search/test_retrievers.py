"""Dense retrieval with an index that is older than the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from toy_search import ToyEncoder, ToySource

from realm.errors import MismatchError, UsageError
from realm.search.embed import embed_rows
from realm.search.exact import ExactIndex
from realm.search.retrievers import DenseRetriever, LiveRerank
from realm.types import NO_ROW, Tokens

SOURCE = ToySource(300)


def tokenize(queries: Sequence[str]) -> Tokens:
    ids = torch.tensor([[int(word) for word in query.split()] for query in queries])
    return Tokens(ids, torch.zeros_like(ids), torch.full((len(ids),), ids.shape[1]))


def index_of(encoder: ToyEncoder) -> ExactIndex:
    return ExactIndex(embed_rows(encoder, SOURCE, max_tokens=12))


@pytest.fixture
def live() -> ToyEncoder:
    return ToyEncoder(seed=1).eval()


@pytest.fixture
def stale(live: ToyEncoder) -> ExactIndex:
    """As `live` was some steps ago."""
    old = ToyEncoder(seed=1)
    with torch.no_grad():
        old.words.weight.add_(0.3 * torch.randn(old.words.weight.shape, generator=torch.Generator().manual_seed(5)))
    return index_of(old)


QUERIES = ["3 4 5", "10 20 30", "7 7 7"]


def test_text_tokens_and_vectors_find_the_same(live: ToyEncoder) -> None:
    retriever = DenseRetriever(live, index_of(live), tokenize=tokenize)
    hits = retriever(QUERIES, 5)
    assert torch.equal(retriever.search(tokenize(QUERIES), 5).rows, hits.rows)
    with_gradient = live.encode_queries(tokenize(QUERIES))
    found = retriever.search_vectors(with_gradient, 5)
    assert torch.equal(found.rows, hits.rows)
    assert not found.scores.requires_grad
    assert retriever([], 5).rows.shape == (0, 5)


def test_rerank_over_everything_is_a_fresh_index(live: ToyEncoder, stale: ExactIndex) -> None:
    fresh = DenseRetriever(live, index_of(live), tokenize=tokenize)
    reranked = DenseRetriever(live, stale, tokenize=tokenize, rerank=LiveRerank(SOURCE, 12, factor=60))
    assert torch.equal(reranked(QUERIES, 5).rows, fresh(QUERIES, 5).rows)
    assert torch.allclose(reranked(QUERIES, 5).scores, fresh(QUERIES, 5).scores, atol=1e-5)


def test_rerank_repairs_a_stale_index(live: ToyEncoder, stale: ExactIndex) -> None:
    queries = [f"{a} {a + 1} {a + 2}" for a in range(1, 50)]
    fresh = DenseRetriever(live, index_of(live), tokenize=tokenize)(queries, 10).rows

    def shared(retriever: DenseRetriever) -> float:
        rows = retriever(queries, 10).rows
        return float((rows[:, :, None] == fresh[:, None, :]).any(2).float().mean())

    plain = shared(DenseRetriever(live, stale, tokenize=tokenize))
    reranked = shared(DenseRetriever(live, stale, tokenize=tokenize, rerank=LiveRerank(SOURCE, 12, factor=4)))
    assert plain < 0.9 < reranked


def test_rerank_encodes_each_distinct_row_once(live: ToyEncoder, stale: ExactIndex) -> None:
    retriever = DenseRetriever(live, stale, tokenize=tokenize, rerank=LiveRerank(SOURCE, 12, factor=3))
    query_BD = live.encode_queries(tokenize(["3 4 5"] * 4))
    live.batches.clear()
    retriever.search_vectors(query_BD, 5)
    assert sum(rows for rows, _ in live.batches) == 15


@pytest.mark.parametrize("factor", [1, 100])
def test_exclusion_filter_and_padding_hold_with_rerank(live: ToyEncoder, stale: ExactIndex, factor: int) -> None:
    retriever = DenseRetriever(live, stale, tokenize=tokenize, rerank=LiveRerank(SOURCE, 12, factor=factor))
    best = int(retriever(QUERIES[:1], 1).rows[0, 0])
    assert best not in retriever(QUERIES[:1], 20, exclude=torch.tensor([[best]])).rows.tolist()[0]
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[[5, 6]] = True
    hits = retriever(QUERIES, 4, allowed=allowed)
    assert hits.rows.sort(dim=1).values.tolist() == [[NO_ROW, NO_ROW, 5, 6]] * 3
    assert torch.equal(hits.rows == NO_ROW, hits.scores == float("-inf"))
    nothing = retriever(QUERIES, 4, allowed=torch.zeros(300, dtype=torch.bool))
    assert (nothing.rows == NO_ROW).all()


def test_another_index_may_be_swapped_in_if_it_fits(live: ToyEncoder, stale: ExactIndex) -> None:
    retriever = DenseRetriever(live, stale, tokenize=tokenize, rerank=LiveRerank(SOURCE, 12))
    retriever.index = index_of(live)
    assert retriever.index is not stale
    with pytest.raises(MismatchError, match=r"4.*8"):
        retriever.index = ExactIndex(torch.zeros(300, 4))
    with pytest.raises(MismatchError, match=r"299.*300"):
        retriever.index = ExactIndex(torch.zeros(299, 8))


def test_text_without_a_tokenizer_is_refused(live: ToyEncoder, stale: ExactIndex) -> None:
    with pytest.raises(UsageError, match="tokenize"):
        DenseRetriever(live, stale)(["3"], 1)
