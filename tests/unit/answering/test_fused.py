"""Vectors and words of a living knowledge base: the order is that of the sum of both scores, and an edit is in both."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import dots
import pytest
import tiny
import torch

from realm.answering.constraints import constraints_of
from realm.answering.fused import SCALE
from realm.answering.retrieving import DenseRetrieval
from realm.knowledge.base import KnowledgeBase
from realm.models.encoders import DenseEncoder
from realm.types import Document

TODAY = datetime(2026, 11, 23, 12)
TOWNS = ("Almby", "Borstad", "Clevik", "Dornau", "Elmen", "Farby", "Gront", "Hasle")
QUERIES = ["the harbour of Almby", "storm", "zzz"]


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    base = KnowledgeBase.create(tmp_path_factory.mktemp("fused") / "kb", split=dots.split, splitter=dots.SETTINGS)
    base.add(
        Document(
            f"d{n}",
            TOWNS[n % 8],
            f"the harbour of {TOWNS[n % 8]} has {n} ships. " + (f"a storm came in {1800 + n}. " if n % 3 else ""),
            date=None if n % 5 == 0 else date(2026, 1, 1) - timedelta(days=40 * n),
        )
        for n in range(24)
    )
    return base


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> DenseRetrieval:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        words = [f"the harbour of {town} has ships a storm came in zzz" for town in TOWNS]
        encoder = DenseEncoder.from_pretrained(tiny.tiny_bert(tmp_path_factory.mktemp("bert"), words), dim=8)
    return DenseRetrieval(encoder, max_query_tokens=32, max_passage_tokens=64, words=1.5)


def brute_force(
    retrieval: DenseRetrieval, kb: KnowledgeBase, query: str, half_life: float | None, where: str | None = None
) -> dict[str, float]:
    """The sum for every passage: all of them are in the lists. The store's BM25 counts words among those of `where`."""
    (query_D,) = retrieval.query_vectors(query).numpy()
    passages = [*kb.passages()]
    by_words = {match.passage.id: match.score for match in kb.search_text(query, len(passages), where)}
    days = {document.id: document.date for document in kb.documents()}
    score = {}
    for passage, vector_D in zip(passages, retrieval.passage_encoder(passages), strict=True):
        score[passage.id] = float(vector_D @ query_D) + by_words.get(passage.id, 0.0) / (SCALE * 1.5)
        day = days[passage.document_id]
        if half_life is not None and day is not None:
            score[passage.id] -= max(0, (TODAY.date() - day).days) / half_life * 0.6931471805599453
    return score


@pytest.mark.parametrize("half_life", [None, 200.0])
@pytest.mark.parametrize("k", [1, 5, 24])
def test_the_order_is_that_of_the_sum(
    kb: KnowledgeBase, retrieval: DenseRetrieval, k: int, half_life: float | None
) -> None:
    constraints = constraints_of(half_life_days=half_life, now=TODAY)
    found = retrieval.search_many(QUERIES, kb, k, constraints=constraints).matches
    for query, matches in zip(QUERIES, found, strict=True):
        expected = brute_force(retrieval, kb, query, half_life)
        assert [match.logit for match in matches] == pytest.approx(
            sorted(expected.values(), reverse=True)[:k], abs=1e-4
        )
        for match in matches:
            assert match.logit == pytest.approx(expected[match.passage.id], abs=1e-4)


def test_limits_hold_over_both_lists(kb: KnowledgeBase, retrieval: DenseRetrieval) -> None:
    constraints = constraints_of(max_per_document=1, deny=["d0"])
    (matches,) = retrieval.search_many(QUERIES[:1], kb, 6, constraints=constraints).matches
    documents = [match.passage.document_id for match in matches]
    assert len(set(documents)) == 6 and "d0" not in documents
    expected = brute_force(retrieval, kb, QUERIES[0], None, "document_id != 'd0'")
    best: dict[str, float] = {}
    for passage in kb.passages():
        if passage.document_id != "d0":
            best[passage.document_id] = max(best.get(passage.document_id, -1e9), expected[passage.id])
    assert [match.logit for match in matches] == pytest.approx(sorted(best.values(), reverse=True)[:6], abs=1e-4)


def test_an_edit_is_in_both_lists_and_a_past_version_in_neither(retrieval: DenseRetrieval, tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([Document("a", "Almby", "the harbour of Almby has ships."), Document("b", "Farby", "a storm came in.")])
    before = kb.version
    assert retrieval.search("zzz harbour", kb, 1)[0].passage.document_id == "a"
    kb.update(Document("b", "Farby", "zzz zzz harbour zzz."))
    (match,) = retrieval.search("zzz zzz", kb, 1)
    assert match.passage.text.startswith("zzz")
    expected = brute_force(retrieval, kb, "zzz zzz", None)
    assert match.logit == pytest.approx(expected[match.passage.id], abs=1e-4)
    old = retrieval.search("zzz zzz", kb, 2, as_of=before)
    assert all("zzz" not in match.passage.text for match in old) and len(old) == 2
