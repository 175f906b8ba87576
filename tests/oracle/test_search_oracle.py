"""Exact search against faiss and against brute force in double precision; BM25 against bm25s and its formula."""

from __future__ import annotations

import math
import re

import bm25s
import numpy as np
import pytest
import torch

from realm.search import exact, topk
from realm.search.exact import ExactIndex
from realm.search.postings import Bm25
from realm.types import NO_ROW

faiss = pytest.importorskip("faiss")


@pytest.mark.parametrize("queries", [1, 3, 64])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_scores_and_rows_are_those_of_faiss(queries: int, k: int) -> None:
    draw = np.random.default_rng(queries)
    vector_ND = draw.standard_normal((20_011, 32), dtype=np.float32)
    query_BD = draw.standard_normal((queries, 32), dtype=np.float32)
    peer = faiss.IndexFlatIP(32)
    peer.add(vector_ND)
    scores, rows = peer.search(query_BD, k)
    hits = ExactIndex(torch.from_numpy(vector_ND)).search(torch.from_numpy(query_BD), k)
    assert np.allclose(hits.scores.numpy(), scores, atol=1e-4)
    # Rounding differs in the last bit, so rows may swap where neighbours' scores are that close.
    differ = hits.rows.numpy() != rows
    assert differ.mean() < 0.01
    assert np.abs(hits.scores.numpy() - scores)[differ].max(initial=0) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_error_of_a_storage_type_is_within_its_bound(dtype: str) -> None:
    draw = torch.Generator().manual_seed(0)
    vector_ND = torch.randn(5000, 64, generator=draw)
    query_BD = torch.randn(8, 64, generator=draw)
    truth_BN = query_BD.double() @ vector_ND.double().T
    hits = ExactIndex(vector_ND, dtype=dtype).search(query_BD, 5000)
    error = (hits.scores.double() - truth_BN.gather(1, hits.rows)).abs()
    size_BK = query_BD.abs().sum(1)[:, None] * vector_ND.abs().amax(1)[hits.rows]
    assert (error <= size_BK * {"float32": 1e-5, "bfloat16": 2**-8, "int8": 1 / 254 + 1e-5}[dtype]).all()


def test_threads_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    index = ExactIndex(
        [exact.pack(torch.randint(-3, 4, (n, 16), generator=draw).float(), "float32") for n in (70_000, 1, 9000)]
    )
    query_BD = torch.randint(-3, 4, (2, 16), generator=draw).float()
    want = index.search(query_BD, 50)
    score_BN = query_BD @ index.vectors(torch.arange(len(index))).T
    assert torch.equal(want.rows, score_BN.sort(dim=1, descending=True, stable=True).indices[:, :50])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(index.search(query_BD, 50).rows, want.rows)
    monkeypatch.setattr(exact, "_FEW_QUERIES", 0)
    assert torch.equal(index.search(query_BD, 50).rows, want.rows)
    monkeypatch.setattr(topk, "GROUP", 7)
    assert torch.equal(index.search(query_BD, 50).rows, want.rows)


PASSAGES = [
    ("Guernica", "Guernica is a large oil painting by Pablo Picasso."),
    ("Pablo Picasso", "Picasso was a Spanish painter and sculptor who painted in France."),
    ("Spain", "Spain is a country in Europe with many painters."),
    ("Oil painting", "Oil painting is the process of painting with pigments in oil, oil, oil."),
]


def test_bm25_is_the_formula() -> None:
    """Lucene's BM25, each factor written out."""
    k1, b = 1.2, 0.75
    words = [re.findall(r"\w+", f"{title} {text}".lower()) for title, text in PASSAGES]
    mean = sum(map(len, words)) / len(words)
    query = ["oil", "painting", "picasso"]
    want = []
    for document in words:
        score = 0.0
        for term in query:
            holding = sum(term in other for other in words)
            idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
            tf = document.count(term)
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        want.append(score)
    hits = Bm25.build(PASSAGES, k1=k1, b=b, stopwords=None)(["Oil painting, PICASSO?"], 4)
    order = [row for row in sorted(range(4), key=lambda row: (-want[row], row)) if want[row] > 0]
    assert hits.rows[0, : len(order)].tolist() == order
    assert (hits.rows[0, len(order) :] == NO_ROW).all()
    assert np.allclose(hits.scores[0, : len(order)].numpy(), [want[row] for row in order], rtol=1e-5)


def test_bm25_is_what_bm25s_retrieves() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(200)]
    texts = [" ".join(draw.choice(words, size=int(draw.integers(3, 30)))) for _ in range(500)]
    queries = [" ".join(draw.choice(words, size=4)) for _ in range(20)]
    engine = bm25s.BM25(k1=0.9, b=0.4)
    engine.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    _, scores = engine.retrieve(bm25s.tokenize(queries, show_progress=False), k=10, show_progress=False)
    hits = Bm25.build(("", text) for text in texts)(queries, 10)
    assert np.allclose(hits.scores.numpy(), scores, rtol=1e-5)
