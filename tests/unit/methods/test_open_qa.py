"""Open-domain question answering on a small real snapshot: what moves, what is right, what an answer rests on."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_realm import close, gradients, networks

from realm import objectives_qa
from realm.evaluation.answers import normalize_orqa
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.methods.open_qa import OpenQA
from realm.methods.proposing import stale_copy
from realm.methods.retrievers import Candidates, DenseRetriever
from realm.methods.substitution import substitute
from realm.models.freezing import with_frozen_passages
from realm.models.span import SpanReader
from realm.search.exact import ExactIndex
from realm.training.matching import AnswerMatcher
from realm.training.questions import QuestionBatch, QuestionBatches
from realm.types import NO_ROW, Document, Question, Tokens

DOCUMENTS = [
    Document("guernica", "Guernica", "Guernica was painted by Pablo  PICASSO in Paris", source="art"),
    Document("han", "Seoul", "The river Han runs through Seoul"),
    Document("curie", "Curie", "Marie Curie discovered radium and polonium. Radium was discovered in Paris"),
    Document("danube", "Danube", "The Danube flows through Vienna, Budapest and Belgrade"),
    Document("signs", "", "...?! ,"),
]
ASKED = [
    Question("1", "who painted guernica", ("Pablo Picasso",), gold=("guernica",)),
    Question("2", "which river runs through seoul", ("Han",), gold=("han",)),
    Question("3", "what was discovered in paris", ("radium",), gold=("curie",)),
    Question("4", "where was guernica painted", ("Paris",)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    place = tmp_path_factory.mktemp("base")
    kb = KnowledgeBase.create(place / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(DOCUMENTS)
    return Snapshot.build(kb, tiny.tiny_tokenizer(), place / "snapshot")


@pytest.fixture(scope="module")
def batches(snapshot: Snapshot) -> QuestionBatches:
    return QuestionBatches(snapshot, ASKED, batch_size=4)


def method(folder: Path, snapshot: Snapshot, **options: Any) -> OpenQA:
    encoder, _ = networks(folder)
    if options.get("documents", "frozen") == "frozen":
        encoder = with_frozen_passages(encoder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reader = SpanReader.from_pretrained(folder, span_size=16, max_width=4, backbone_dropout=0.0)
        torch.nn.init.normal_(reader.head.score.weight)
    with torch.no_grad():
        index = ExactIndex(encoder.encode_passages(snapshot.passages(torch.arange(len(snapshot)), 40)))
    documents = options.pop("documents", "frozen")
    retriever = DenseRetriever(encoder, snapshot, index, documents=documents, max_passage_tokens=40)
    chosen = {"num_passages": 2, "num_early": 4, "max_reader_tokens": 30, **options}
    return OpenQA(retriever, reader, snapshot, normalize=normalize_orqa, **chosen)


def dense(found: OpenQA) -> DenseRetriever:
    assert isinstance(found.retriever, DenseRetriever)
    return found.retriever


def retrieve(found: OpenQA, batch: QuestionBatch, k: int, labelled_BG: torch.Tensor | None = None) -> Candidates:
    return found.retriever.candidates(batch.texts, batch.query, k, labelled_BG)


@pytest.fixture(scope="module")
def frozen(folder: Path, snapshot: Snapshot) -> OpenQA:
    return method(folder, snapshot)


# ---------------------------------------------------------------- learning


def test_the_loss_is_that_of_its_parts(frozen: OpenQA, batches: QuestionBatches) -> None:
    batch = batches.pick(np.arange(4))
    found = frozen.loss(batch)
    query_BD = dense(frozen).encoder.encode_queries(batch.query)
    every_BN = query_BD @ dense(frozen).index.vectors(torch.arange(len(frozen.corpus))).T
    score_BE, rows_BE = every_BN.topk(4)
    holds_BE = torch.from_numpy(np.stack([batch.holds(b, rows_BE[b].numpy()) for b in range(4)]))
    early_B, has_passage_B = objectives_qa.early_nll_B(score_BE, holds_BE)
    reader_B, has_span_B = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    for b in range(4):
        logits, right = [], []
        for k, row in enumerate(rows_BE[b, :2].tolist()):
            ids = frozen.corpus.body_ids(row)  # type: ignore[attr-defined]
            body = Tokens(torch.tensor(ids[None]).long(), torch.ones(1, len(ids)), torch.tensor([len(ids)]))
            spans = frozen.reader.span_logits(batch.query.select(torch.tensor([b])), body, torch.tensor([0]))
            gold = {(s, e) for _, s, e in batch.spans(b, np.array([row])).tolist()}
            for s, e, valid, logit in zip(
                spans.start_S, spans.end_S, spans.valid_NS[0], spans.logit_NS[0], strict=True
            ):
                if valid:
                    logits.append(logit + score_BE[b, k])
                    right.append((int(s), int(e)) in gold)
        if any(right):
            every, correct = torch.stack(logits), torch.tensor(right)
            reader_B[b], has_span_B[b] = every.logsumexp(0) - every[correct].logsumexp(0), True
    assert has_span_B.any() and not has_span_B.all(), "both kinds of questions are in this batch"
    torch.testing.assert_close(found.total, (early_B + reader_B).sum() / 4, rtol=1e-4, atol=1e-4)
    assert found.per_example is not None
    torch.testing.assert_close(found.per_example, early_B + reader_B, rtol=1e-4, atol=1e-4)
    stats = found.stats
    assert float(stats["no_span"]) == pytest.approx(1 - float(has_span_B.float().mean()))
    assert float(stats["no_passage"]) == pytest.approx(1 - float(has_passage_B.float().mean()))
    assert float(stats["recall@1"]) == pytest.approx(float(holds_BE[:, :1].any(-1).float().mean()))
    assert 0 <= float(stats["span_match"]) <= float(has_span_B.float().mean())


def test_frozen_passages_get_no_gradient_and_the_question_side_hears_both_losses(
    folder: Path, snapshot: Snapshot, batches: QuestionBatches
) -> None:
    for options in ({"num_early": 0}, {}):
        found = method(folder, snapshot, **options)
        found.loss(batches.pick(np.arange(4))).total.backward()
        moved = gradients(dense(found).encoder)
        assert moved and not any(name.startswith("passage_tower") for name in moved)
        assert {"head.project.weight", "head.score.weight"} <= gradients(found.reader).keys()
        assert set(found.modules()) == {"encoder", "reader"}


def test_refreshed_passages_are_scored_live(folder: Path, snapshot: Snapshot, batches: QuestionBatches) -> None:
    found = method(folder, snapshot, documents="refreshed")
    assert set(found.modules()) == {"encoder", "reader", "index_encoder"}
    batch = batches.pick(np.arange(4))
    before = retrieve(found, batch, 4)
    with torch.no_grad():
        dense(found).encoder.query_tower.projection.weight.mul_(1.5)
    after = retrieve(found, batch, 4)
    assert torch.equal(before.rows_BE, after.rows_BE), "the stale index with its own encoder proposes"
    live = (
        dense(found).encoder.encode_queries(batch.query)[0]
        @ dense(found).encoder.encode_passages(snapshot.passages(after.rows_BE[0], 40)).T
    )
    torch.testing.assert_close(after.score_BE[0], live, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        index = ExactIndex(dense(found).encoder.encode_passages(snapshot.passages(torch.arange(len(snapshot)), 40)))
    dense(found).swap(index, stale_copy(dense(found).encoder))
    torch.testing.assert_close(
        retrieve(found, batch, 4).score_BE,
        index.search(dense(found).encoder.encode_queries(batch.query).detach(), 4).scores,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("documents", ["frozen", "refreshed"])
def test_labelled_rows_stand_behind_what_was_found(
    folder: Path, snapshot: Snapshot, batches: QuestionBatches, documents: str
) -> None:
    batch = batches.pick(np.arange(4))
    found = method(folder, snapshot, num_passages=1, num_early=1, labelled="both", documents=documents)
    candidates = retrieve(found, batch, 1, batch.labelled_rows)
    assert candidates.retrieved == 1
    for b, labels in enumerate(batch.labelled_rows.tolist()):
        rows = candidates.rows_BE[b].tolist()
        expected = [row for row in labels if row != NO_ROW]
        assert set(expected) <= set(rows) and len([r for r in rows if r != NO_ROW]) == len({*rows} - {NO_ROW})
        assert {r for r, is_label in zip(rows, candidates.labelled_BE[b].tolist(), strict=True) if is_label} == set(
            expected
        )
    rows_BK, score_BK = found._to_read(candidates)
    assert rows_BK.shape == (4, 2)
    for b in range(4):
        labels, read = set(batch.labelled_rows[b].tolist()) - {NO_ROW}, rows_BK[b].tolist()
        assert not labels or labels & set(read)
        assert len(set(read)) == 2
        assert torch.isfinite(score_BK[b]).tolist() == [row != NO_ROW for row in read]
    # With its label read, each of the first three questions has a span to learn.
    assert float(found.loss(batch).stats["no_span"]) <= 0.25
    assert (
        float(method(folder, snapshot, num_passages=1, num_early=1, labelled="early").loss(batch).stats["no_passage"])
        <= 0.25
    )


def test_nothing_correct_leaves_zero_gradient(folder: Path, snapshot: Snapshot) -> None:
    nowhere = QuestionBatches(snapshot, [Question("x", "who ?", ("nobody",))], batch_size=1, drop_unmatched=False)
    found = method(folder, snapshot)
    loss = found.loss(nowhere.batch(0))
    loss.total.backward()
    assert float(loss.total.detach()) == 0 and float(loss.stats["no_span"]) == float(loss.stats["no_passage"]) == 1
    assert not gradients(found.reader) and not gradients(dense(found).encoder)
    assert "reader_loss" not in loss.stats


def test_more_passages_than_there_are(folder: Path, snapshot: Snapshot, batches: QuestionBatches) -> None:
    few, many = (method(folder, snapshot, num_passages=k, num_early=k) for k in (len(snapshot), 5000))
    batch = batches.pick(np.arange(4))
    torch.testing.assert_close(many.loss(batch).total, few.loss(batch).total)


@pytest.mark.parametrize(("name", "value"), [("documents", "live"), ("labelled", "silver")])
def test_unknown_choices_are_refused(folder: Path, snapshot: Snapshot, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"found {name} '{value}'"):
        method(folder, snapshot, **{name: value})


@pytest.mark.parametrize("with_title", [False, True])
@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (0, "Pablo  PICASSO", "Paris radium"),
        (2, "radium", "Budapest Vienna"),
        (0, "Pablo  PICASSO", "Paris"),  # stands there anyway
        (2, "radium", "Paris"),
    ],
)
def test_an_answer_that_is_written_over_is_read_as_if_the_documents_said_so(
    folder: Path, batches: QuestionBatches, tmp_path: Path, with_title: bool, number: int, old: str, new: str
) -> None:
    """The same retriever, one reader before passages with another answer put in, the other before edited documents."""
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([replace(document, text=re.sub(old, new, document.text, flags=re.I)) for document in DOCUMENTS])
    edited = Snapshot.build(kb, tiny.tiny_tokenizer(), tmp_path / "snapshot")
    options: dict[str, Any] = {"num_early": 0, "reader_title": with_title, "num_passages": 3}
    snapshot = batches.matcher._corpus
    one, other = method(folder, snapshot, **options), method(folder, snapshot, **options)  # type: ignore[arg-type]
    other.corpus = edited
    asked = [replace(ASKED[number], answers=(new,))]
    told = QuestionBatches(edited, asked, batch_size=1).pick(np.array([0]))
    pieces = AnswerMatcher(edited, edited.tokenizer, asked).answer_pieces[0][0]
    left = batches.pick(np.array([number]))
    found, expected = one.loss(replace(left, substitutes=[pieces])), other.loss(told)
    whole = replace(batches.pick(np.arange(4)), substitutes=[pieces if n == number else None for n in range(4)])
    alone = [one.loss(batches.pick(np.array([n]))).total.detach() for n in range(4) if n != number]
    assert one.loss(whole).total.item() == pytest.approx((float(sum(alone)) + found.total.item()) / 4, rel=1e-5)
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    assert found.total.item() != pytest.approx(one.loss(left).total.item(), rel=1e-3)
    found.total.backward()
    expected.total.backward()
    close(gradients(one.reader), gradients(other.reader))


def test_of_places_that_overlap_the_first_and_longest_is_written_over() -> None:
    ids = torch.tensor([[9, 1, 2, 3, 4, 1, 2, 0], [1, 2, 0, 0, 0, 0, 0, 0]])
    body = Tokens(ids, torch.ones_like(ids), torch.tensor([7, 2]))
    places = np.array([[0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 4, 6], [0, 5, 9], [1, 0, 2]])
    made, found = substitute(body, [1, 0], places, [np.array([7, 7, 7]), None])
    assert made.ids.tolist() == [[9, 7, 7, 7, 3, 4, 7, 7, 7], [1, 2, *[0] * 7]] and made.lengths.tolist() == [9, 2]
    assert found.tolist() == [[0, 0, 3], [0, 5, 8], [1, 0, 2]]
    assert made.types.tolist() == [[0, *[1] * 8], [1, 1, *[0] * 7]]


# ---------------------------------------------------------------- answering


@given(st.lists(st.sampled_from(["who", "paris", "guernica", "7", "éé", "?", "radium"]), max_size=6), st.integers(1, 6))
def test_an_answer_stands_in_a_passage_letter_for_letter(frozen: OpenQA, words: list[str], k: int) -> None:
    (answer,) = frozen.answer([" ".join(words)], k)
    assert not answer.abstained and 0 < answer.confidence <= 1 + 1e-6
    assert len(answer.evidence) == min(k, len(frozen.corpus))
    texts = [e.passage.text for e in answer.evidence]
    assert any(answer.text in text for text in texts)
    assert all(any(other in text for text in texts) for other, _ in answer.alternatives)
    for e in answer.evidence:
        assert math.isnan(e.retrieval_utility)
        if e.span is None:
            assert e.posterior == 0
        else:
            assert normalize_orqa(e.passage.text[slice(*e.span)]) == normalize_orqa(answer.text)
    assert sum(e.prior for e in answer.evidence) == pytest.approx(1)
    assert sum(e.posterior for e in answer.evidence) == pytest.approx(1)
    posteriors = [e.posterior for e in answer.evidence]
    assert posteriors == sorted(posteriors, reverse=True)
    assert answer.confidence + sum(mass for _, mass in answer.alternatives) <= 1 + 1e-5


def test_one_answer_at_a_time_or_many(frozen: OpenQA) -> None:
    texts = [question.text for question in ASKED]
    together = frozen.answer(texts, 3)
    assert dense(frozen).encoder.training is False
    for text, answer in zip(texts, together, strict=True):
        (alone,) = frozen.answer([text], 3)
        assert alone.text == answer.text
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-3)
    assert [a.text for a in frozen.answer(texts, 3, batch=1)] == [a.text for a in together]


def test_what_is_passed_over_is_as_if_it_were_not_there(frozen: OpenQA) -> None:
    texts = [question.text for question in ASKED]
    whole = frozen.answer(texts, len(frozen.corpus))
    out = [answer.evidence[0].passage.id for answer in whole]

    def is_out(number: int, row: int) -> bool:
        return frozen.corpus.passage(row).id == out[number]

    for batch in (1, 3):  # a question's number is that of the whole list
        without = frozen.answer(texts, len(frozen.corpus), batch=batch, without=is_out)
        for full, answer, name in zip(whole, without, out, strict=True):
            read = {e.passage.id: e for e in answer.evidence}
            assert set(read) == {e.passage.id for e in full.evidence} - {name}
            kept = sum(e.prior for e in full.evidence if e.passage.id != name)
            for e in full.evidence:
                if e.passage.id != name:
                    assert read[e.passage.id].prior == pytest.approx(e.prior / kept, rel=1e-4)
            assert answer.signals["support"] < full.signals["support"]
    assert frozen.answer(texts[:1], 5, without=lambda number, row: True)[0].abstained


def test_the_question_decides(frozen: OpenQA) -> None:
    scores = {round(answer.evidence[0].score, 4) for answer in frozen.answer([q.text for q in ASKED], 2)}
    assert len(scores) > 1


def test_where_there_is_nothing_to_say_it_abstains(folder: Path, tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([DOCUMENTS[-1]])
    found = method(folder, Snapshot.build(kb, tiny.tiny_tokenizer(), tmp_path / "snapshot"))
    (answer,) = found.answer(["who ?"])
    assert answer.abstained and answer.text == "" and answer.evidence == ()


def test_training_goes_on_in_the_mode_it_was_in(folder: Path, snapshot: Snapshot) -> None:
    found = method(folder, snapshot)
    dense(found).encoder.train(True), found.reader.train(True)
    found.answer(["who ?"])
    assert dense(found).encoder.training and found.reader.training


def test_few_are_read_and_all_are_ranked(folder: Path, snapshot: Snapshot, batches: QuestionBatches) -> None:
    whole, first = batches.pick(np.arange(4)), batches.pick(np.arange(2))
    read_alone = method(folder, snapshot, num_early=0)
    ranked = method(folder, snapshot).loss(whole).total - read_alone.loss(whole).total
    found = method(folder, snapshot, read_batch=2).loss(whole)
    torch.testing.assert_close(found.total, read_alone.loss(first).total + ranked, rtol=1e-5, atol=1e-6)
    assert found.per_example is not None and found.per_example.shape == (4,)


def test_a_question_is_cut_where_training_cut_it(folder: Path, snapshot: Snapshot) -> None:
    asked = ["who " * 90]
    lengths = [int(method(folder, snapshot, max_query_tokens=most).tokens(asked).lengths[0]) for most in (16, 80)]
    assert lengths == [16, 80]
