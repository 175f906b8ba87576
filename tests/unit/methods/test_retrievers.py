"""Words as a retriever of question answering, alone and beside vectors."""

from __future__ import annotations

import dots
import numpy as np
import pytest
import tiny
import torch

from realm import objectives_qa
from realm.evaluation.answers import normalize_orqa
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.methods import fused as fused_module
from realm.methods.fused import FusedRetriever, by_words
from realm.methods.open_qa import OpenQA
from realm.methods.retrievers import DenseRetriever, WordRetriever, with_labelled
from realm.models.encoders import DenseEncoder
from realm.models.freezing import with_frozen_passages
from realm.models.span import SpanReader
from realm.search.exact import ExactIndex
from realm.search.postings import Bm25
from realm.training.questions import QuestionBatches
from realm.types import NO_ROW, Document, Hits, Question

DOCUMENTS = [
    Document("guernica", "Guernica", "Guernica was painted by Pablo Picasso in Paris"),
    Document("han", "Seoul", "The river Han runs through Seoul"),
    Document("danube", "Danube", "The river Danube runs through Vienna"),
]
ASKED = [
    Question("1", "who painted guernica", ("Pablo Picasso",), gold=("han", "guernica")),
    Question("2", "which river runs through seoul", ("Han",), gold=("han",)),
    Question("3", "zzz", ("Vienna",), gold=("danube",)),
]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    place = tmp_path_factory.mktemp("base")
    kb = KnowledgeBase.create(place / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(DOCUMENTS)
    return Snapshot.build(kb, tiny.tiny_tokenizer(), place / "snapshot")


@pytest.fixture(scope="module")
def engine(snapshot: Snapshot) -> Bm25:
    return Bm25.build((snapshot.title(row), snapshot.text(row)) for row in range(len(snapshot)))


@pytest.fixture
def method(snapshot: Snapshot, engine: Bm25, tmp_path_factory: pytest.TempPathFactory) -> OpenQA:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = SpanReader.from_pretrained(
            tiny.tiny_bert(tmp_path_factory.mktemp("bert")), span_size=16, max_width=4, backbone_dropout=0.0
        )
    retriever = WordRetriever(engine, temperature=4.0)
    return OpenQA(retriever, reader, snapshot, normalize=normalize_orqa, num_passages=2, num_early=0, labelled="both")


def test_scores_are_the_engines_over_the_temperature(snapshot: Snapshot, engine: Bm25) -> None:
    batch = QuestionBatches(snapshot, ASKED, batch_size=3).pick(np.arange(3))
    found = WordRetriever(engine, temperature=4.0).candidates(batch.texts, batch.query, 2)
    hits = engine(batch.texts, 2)
    assert torch.equal(found.rows_BE, hits.rows) and found.retrieved == 2 and not found.labelled_BE.any()
    torch.testing.assert_close(found.score_BE, hits.scores / 4)
    assert found.rows_BE[2].tolist() == [NO_ROW, NO_ROW]


def test_labelled_rows_stand_behind_with_the_score_that_words_give_them(snapshot: Snapshot, engine: Bm25) -> None:
    batch = QuestionBatches(snapshot, ASKED, batch_size=3).pick(np.arange(3))
    found = WordRetriever(engine).candidates(batch.texts, batch.query, 1, batch.labelled_rows)
    every = torch.arange(len(snapshot)).expand(3, -1)
    score_BN = engine.score(batch.texts, every)
    for b, (rows, scores) in enumerate(zip(found.rows_BE.tolist(), found.score_BE.tolist(), strict=True)):
        for row, score in zip(rows, scores, strict=True):
            assert score == (pytest.approx(float(score_BN[b, row])) if row != NO_ROW else -torch.inf)
    (danube,) = snapshot.rows_of_document("danube").tolist()
    assert danube in found.rows_BE[2].tolist() and not score_BN[2].any()
    assert found.labelled_BE.any(1).all()


def test_only_the_reader_learns(snapshot: Snapshot, method: OpenQA) -> None:
    batch = QuestionBatches(snapshot, ASKED, batch_size=3).pick(np.arange(3))
    loss = method.loss(batch)
    loss.total.backward()
    assert float(loss.total.detach()) > 0 and float(loss.stats["no_span"]) == 0
    assert set(method.modules()) == {"reader"}
    assert method.parameter_groups().keys() == method.reader.parameter_groups().keys()
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.reader.parameters())


def test_words_that_stand_nowhere_teach_nothing_and_answer_nothing(snapshot: Snapshot, method: OpenQA) -> None:
    method.labelled = "none"
    batch = QuestionBatches(snapshot, ASKED[2:], batch_size=1).pick(np.arange(1))
    loss = method.loss(batch)
    loss.total.backward()
    assert float(loss.total.detach()) == 0 and float(loss.stats["no_span"]) == 1
    nothing, something = method.answer(["zzz", "who painted guernica"])
    assert nothing.abstained and nothing.text == "" and not something.abstained
    assert [e.passage.document_id for e in something.evidence] == ["guernica"]
    (alone,) = method.answer(["zzz"])
    assert alone.abstained
    assert method.search(["zzz"], 2).rows.tolist() == [[NO_ROW, NO_ROW]]


def test_labels_that_were_found_are_not_repeated() -> None:
    rows_BE, labelled_BE = with_labelled(torch.tensor([[4, 7]]), torch.tensor([[7, 2, NO_ROW]]))
    assert rows_BE.tolist() == [[4, 7, NO_ROW, 2, NO_ROW]]
    assert labelled_BE.tolist() == [[False, True, False, True, False]]


# ---------------------------------------------------------------- words and vectors


@pytest.fixture
def fused(snapshot: Snapshot, engine: Bm25, tmp_path_factory: pytest.TempPathFactory) -> FusedRetriever:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = DenseEncoder.from_pretrained(tiny.tiny_bert(tmp_path_factory.mktemp("encoder")), dim=8).eval()
    encoder = with_frozen_passages(plain)
    with torch.no_grad():
        vectors = encoder.encode_passages(snapshot.passages(torch.arange(len(snapshot)), 32))
    return FusedRetriever(DenseRetriever(encoder, snapshot, ExactIndex(vectors)), engine, temperature=2.0)


def test_the_sum_of_both_scores_ranks_the_union(
    snapshot: Snapshot, engine: Bm25, fused: FusedRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = QuestionBatches(snapshot, ASKED, batch_size=3).pick(np.arange(3))
    every = torch.arange(len(snapshot)).expand(3, -1)
    with torch.no_grad():
        query_BD = fused.dense.encoder.encode_queries(batch.query)
        dense_BN = query_BD @ fused.dense.index.vectors(torch.arange(len(snapshot))).T
    word_BN = engine.score(batch.texts, every)
    for k in (1, 2, 3):
        found = fused.candidates(batch.texts, batch.query, k)
        expected = (dense_BN + word_BN / 2).sort(dim=1, descending=True)
        # At k = 1 the union is of the best by vectors and of all that have a word in common.
        dense_BK = dense_BN.gather(1, found.rows_BE)
        assert found.learnt_BE is not None
        torch.testing.assert_close(found.learnt_BE, dense_BK)
        if k == len(snapshot):
            assert found.rows_BE.tolist() == expected.indices.tolist()
            torch.testing.assert_close(found.score_BE, expected.values)
        assert found.retrieved == k and (found.score_BE.diff(dim=1) <= 0).all()
        for b, row in enumerate(found.rows_BE[:, 0].tolist()):
            assert row in {int(expected.indices[b, 0]), int(dense_BN[b].argmax())}
    again = fused.candidates(batch.texts, batch.query, 3)
    monkeypatch.setattr(fused_module, "KNOWN", 1)  # every list is made anew
    assert again.rows_BE.tolist() == fused.candidates(batch.texts, batch.query, 3).rows_BE.tolist()


def test_what_the_list_by_words_lacks_has_its_lowest_score() -> None:
    words = Hits(torch.tensor([[4, 2], [7, NO_ROW]]), torch.tensor([[3.0, 1.0], [2.0, -torch.inf]]))
    rows_BE = torch.tensor([[2, 9, 4, NO_ROW], [9, 7, NO_ROW, 3]])
    assert by_words(words, rows_BE).tolist() == [[1.0, 1.0, 3.0, 1.0], [0.0, 2.0, 0.0, 0.0]]


def test_labelled_rows_stand_behind_with_both_scores(snapshot: Snapshot, engine: Bm25, fused: FusedRetriever) -> None:
    batch = QuestionBatches(snapshot, ASKED, batch_size=3).pick(np.arange(3))
    found = fused.candidates(batch.texts, batch.query, 1, batch.labelled_rows)
    word_BN = engine.score(batch.texts, torch.arange(len(snapshot)).expand(3, -1)) / 2
    query_BD = fused.dense.encoder.encode_queries(batch.query)
    for b, (rows, scores) in enumerate(zip(found.rows_BE.tolist(), found.score_BE.tolist(), strict=True)):
        there = [row for row in rows if row != NO_ROW]
        assert len(set(there)) == len(there)
        assert {int(row) for row in batch.labelled_rows[b] if row != NO_ROW} <= set(there)
        for row, score in zip(rows, scores, strict=True):
            own = float(query_BD[b].detach() @ fused.dense.index.vectors(torch.tensor([row]))[0] + word_BN[b, row])
            assert score == (pytest.approx(own, abs=1e-5) if row != NO_ROW else -torch.inf)
    assert found.labelled_BE.any(1).all() and found.score_BE.requires_grad


def test_vectors_learn_beside_words(snapshot: Snapshot, method: OpenQA, fused: FusedRetriever) -> None:
    method.retriever, method.num_early, method.early_weight = fused, 3, 1.0
    batch = QuestionBatches(snapshot, ASKED, batch_size=3).pick(np.arange(3))
    loss = method.loss(batch)
    found = fused.candidates(batch.texts, batch.query, 3)
    assert found.learnt_BE is not None
    held_BE = torch.from_numpy(np.stack([batch.holds(b, rows) for b, rows in enumerate(found.rows_BE.numpy())]))
    early_B, has_B = objectives_qa.early_nll_B(found.learnt_BE, held_BE)  # of vectors alone
    mean = objectives_qa.mean_of_counted(early_B, has_B)
    assert float(loss.stats["early_loss"]) == pytest.approx(float(mean.detach()), abs=1e-5)
    loss.total.backward()
    moved = [p.grad for group in fused.parameter_groups().values() for p in group if p.grad is not None]
    assert moved and any(bool(grad.abs().sum()) for grad in moved)
