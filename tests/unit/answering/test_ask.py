"""Answers of a tiny model: their probabilities are probabilities, their evidence says what the documents say now."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from datetime import date as Date
from pathlib import Path
from typing import Any

import dots
import pytest
import tiny
import torch
from toy_realm import log_sum_exp, networks

from realm.answering.ask import Realm
from realm.answering.conflicts import ConflictRule
from realm.answering.constraints import Constraints
from realm.answering.tokens import cloze_tokens, passage_tokens
from realm.config import DataConfig, PretrainConfig, ReaderConfig
from realm.console import print_answer
from realm.errors import ArtefactError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.types import Document, Passage
from realm.workflows.values import answer_json

DOCUMENTS = [
    Document("guernica", "Guernica", "Guernica was painted by Pablo Picasso in Paris", source="art"),
    Document("curie", "Curie", "Radium was discovered by Marie Curie", source="science"),
    Document("danube", "Danube", "It flows through Vienna, Budapest and Belgrade", source="geo"),
    Document("signs", "Signs", "...?", source="none"),
    Document("small", "small", "nothing here has a name of its own", source="none"),
    Document("twice", "Paris", "Paris was loved by Pablo Picasso and PABLO PICASSO", source="art"),
]
QUESTION = "Guernica was painted by [MASK]."
CONFIG = PretrainConfig(data=DataConfig(spans_pipeline="pattern", max_passage_tokens=40, max_query_tokens=32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    encoder, reader = networks(tiny.tiny_bert(tmp_path_factory.mktemp("bert")))
    with torch.no_grad():
        encoder.null_bias.fill_(0.3)
    return Realm(encoder, reader, CONFIG)


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(DOCUMENTS)
    return kb


def pieces_of(model: Realm, text: str) -> list[int]:
    found: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


# ---------------------------------------------------------------- the figures


def test_priors_and_posteriors_sum_to_one(model: Realm, kb: KnowledgeBase) -> None:
    answer = model.ask(QUESTION, kb, k=6)
    assert len(answer.evidence) == 6
    assert not answer.abstained
    assert answer.null_prior + sum(e.prior for e in answer.evidence) == pytest.approx(1, abs=1e-5)
    # The null passage's posterior follows from any passage's: the odds change by RU.
    first = answer.evidence[0]
    null_posterior = answer.null_prior * first.posterior / (first.prior * math.exp(first.retrieval_utility))
    assert null_posterior + sum(e.posterior for e in answer.evidence) == pytest.approx(1, abs=1e-4)
    assert [e.posterior for e in answer.evidence] == sorted((e.posterior for e in answer.evidence), reverse=True)
    assert answer.text not in [text for text, _ in answer.alternatives]
    confidences = [answer.confidence, *(confidence for _, confidence in answer.alternatives)]
    assert confidences == sorted(confidences, reverse=True)
    assert 0 < sum(confidences) <= 1 + 1e-6


def test_many_questions_have_the_answers_they_have_alone(model: Realm, kb: KnowledgeBase) -> None:
    texts = [QUESTION, "Radium was discovered by [MASK].", "It flows through ____."]
    for aggregate in (None, "best-span"):
        together = list(model.ask_many(texts, kb, k=6, aggregate=aggregate, batch=2))
        for text, answer in zip(texts, together, strict=True):
            alone = model.ask(text, kb, k=6, aggregate=aggregate)
            assert (answer.question, answer.text) == (text, alone.text)
            assert answer.confidence == pytest.approx(alone.confidence, abs=1e-5)
            assert answer.null_prior == pytest.approx(alone.null_prior, abs=1e-5)
    asked = model.ask_many([QUESTION, "no blank"], kb)
    with pytest.raises(UsageError, match="blank"):
        next(asked)
    with pytest.raises(UsageError, match="aggregate='mean'"):
        model.ask_many([QUESTION], kb, aggregate="mean")


def test_passages_with_different_names_are_sides(model: Realm, kb: KnowledgeBase) -> None:
    every = ConflictRule(ratio=1e-9, least=0.0)
    for aggregate in ("marginal", "best-span"):
        answer = model.ask("Paris was loved by [MASK].", kb, k=6, aggregate=aggregate, conflicts=every)
        assert len(answer.conflicts) > 1
        (given,) = [side for side in answer.conflicts if side.preferred]
        assert given.text == answer.text
        backing = [e.passage.id for side in answer.conflicts for e in side.evidence]
        assert len(backing) == len(set(backing)), "a passage is on one side"
        for side in answer.conflicts:
            assert sum(e.posterior for e in side.evidence) == pytest.approx(1)
            said = {pieces_of(model, e.passage.text[slice(*e.span)])[0] for e in side.evidence if e.span}
            assert pieces_of(model, side.text)[0] in said
        assert model.ask("Paris was loved by [MASK].", kb, k=6).text


@pytest.mark.parametrize("dates", [("2019-05-01", "2026-03-01"), ("2026-03-01", "2019-05-01"), (None, "2019-05-01")])
def test_two_dated_documents_that_disagree(
    model: Realm, tmp_path: Path, capsys: pytest.CaptureFixture[str], dates: tuple[str | None, str]
) -> None:
    """Both sides with dates and sources, and why which is preferred, in the answer, its JSON and what is printed."""
    days = [Date.fromisoformat(day) if day else None for day in dates]
    kb = KnowledgeBase.create(tmp_path / "dated", split=dots.split, splitter=dots.SETTINGS)
    kb.add(
        [
            Document("papers", "papers", "Guernica was painted by Pablo Picasso", source="museums", date=days[0]),
            Document("letters", "Letters", "Guernica was painted by Joan Miró", source="rumours", date=days[1]),
        ]
    )
    answer = model.ask(QUESTION, kb, k=2, conflicts=ConflictRule(ratio=1e-9, least=0.0))
    assert [side.date for side in answer.conflicts] == sorted(days, key=lambda day: day or Date.min, reverse=True)
    by_source = {side.evidence[0].source: side for side in answer.conflicts}
    assert {source: side.text.split()[-1] for source, side in by_source.items()} == {
        "museums": "Picasso",
        "rumours": "Miró",
    }
    (given,) = [side for side in answer.conflicts if side.preferred]
    (other,) = [side for side in answer.conflicts if not side.preferred]
    assert given.text == answer.text and (given.mass >= other.mass) == (given.reason == "mass") and other.reason is None
    assert answer.conflict and f"{given.mass:.0%} against {other.mass:.0%} for {other.text!r}" in answer.conflict
    for side in answer.conflicts:
        known = f"{side.date or 'no date'}, {side.evidence[0].source}, {side.mass:.0%}"
        assert f"{side.text!r} ({known})" in answer.conflict
    older_given = (given.date or Date.min) < (other.date or Date.min)
    assert (f"though {other.text!r} is newer" in answer.conflict) == older_given
    assert ("and it is the newest" in answer.conflict) == (not older_given)

    rule, told_of = ConflictRule(ratio=1e-9, least=0.0), 0
    for days_to_half in (10_000, 1_000, 300, 100):  # it is the reason exactly where it turned the preference round
        constraints = Constraints(half_life_days=days_to_half, now=datetime(2026, 3, 2, tzinfo=UTC))
        aged = model.ask(QUESTION, kb, k=2, conflicts=rule, constraints=constraints)
        for side in aged.conflicts:
            told_of += side.preferred
            turned = aged.text != answer.text
            assert not side.preferred or side.reason in (("recency", "likeliest") if turned else ("mass", "likeliest"))
    assert told_of

    told = answer_json(answer)
    assert told["conflict"] == answer.conflict
    assert [(side["text"], side["date"], side["reason"]) for side in told["conflicts"]] == [
        (side.text, side.date.isoformat() if side.date else None, side.reason) for side in answer.conflicts
    ]
    print_answer(answer)
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join(answer.conflict.split()) in printed
    for side, mark in ((given, " (the answer given)"), (other, " ")):
        assert f"{side.text} {side.mass:.0%} {side.date or 'no date'}{mark}" in printed
    assert "papers papers" not in printed and "papers version" in printed and "Letters letters, version" in printed


def test_fewer_shown_are_not_fewer_read(model: Realm, kb: KnowledgeBase) -> None:
    """p(null|x) was learnt against as many passages as in training; four shown must not make it larger."""
    few, all_read = model.ask(QUESTION, kb, k=4), model.ask(QUESTION, kb, k=6)
    assert few.null_prior == all_read.null_prior
    assert len(few.evidence) == 4 and few.evidence[0].prior in [e.prior for e in all_read.evidence]


@torch.no_grad()
def test_the_answer_is_that_of_equation_1_by_hand(model: Realm, kb: KnowledgeBase) -> None:
    k = 6
    answer = model.ask(QUESTION, kb, k=k)
    query, _ = cloze_tokens(model.tokenizer, QUESTION, 1, 32)
    query_D = model.encoder.encode_queries(query)[0]
    scored = []
    for passage in kb.passages():
        vector_D = model.encoder.encode_passages(passage_tokens(model.tokenizer, [passage], 40))[0]
        scored.append((float(query_D @ vector_D), passage))
    scored.sort(key=lambda pair: -pair[0])
    null = Passage("", 0, "", "", 0, 0, ())
    null_D = model.encoder.encode_passages(passage_tokens(model.tokenizer, [null], 40))[0]
    scores = [float(query_D @ null_D) + 0.3, *(score for score, _ in scored[:k])]
    log_prior = [score - log_sum_exp(scores) for score in scores]
    assert answer.null_prior == pytest.approx(math.exp(log_prior[0]), rel=1e-3)
    found = {e.passage.id: e for e in answer.evidence}
    assert set(found) == {passage.id for _, passage in scored[:k]}

    def logp(passage: Passage, text: str) -> float:
        """log p(y|z,x) of one answer, one passage, one full input."""
        wanted = pieces_of(model, text)
        query, position_T = cloze_tokens(model.tokenizer, QUESTION, len(wanted), 32)
        body = tiny.bodies_of(model.tokenizer, [passage.text])
        scores = model.reader.score_candidates(query, body, position_T, torch.tensor([wanted]))
        return float(scores[0, 0])

    per_piece = {}
    for text in (answer.text, *(text for text, _ in answer.alternatives)):
        terms = [
            p + logp(passage, text) for p, passage in zip(log_prior, [null, *(z for _, z in scored[:k])], strict=True)
        ]
        per_piece[text] = log_sum_exp(terms) / len(pieces_of(model, text))
    assert max(per_piece, key=lambda text: per_piece[text]) == answer.text
    confidences = {answer.text: answer.confidence, **dict(answer.alternatives)}
    for text, confidence in answer.alternatives:
        ratio = math.exp(per_piece[text] - per_piece[answer.text])
        assert confidence / answer.confidence == pytest.approx(ratio, rel=1e-2)
    assert len(confidences) > 2
    for (score, passage), prior in zip(scored[:k], log_prior[1:], strict=True):
        evidence = found[passage.id]
        assert evidence.score == pytest.approx(score, rel=1e-3, abs=1e-4)
        assert evidence.prior == pytest.approx(math.exp(prior), rel=1e-3)
        utility = logp(passage, answer.text) - logp(null, answer.text)
        assert evidence.retrieval_utility == pytest.approx(utility, rel=1e-2, abs=1e-3)


def test_utility_is_positive_where_the_passage_helps(model: Realm, kb: KnowledgeBase) -> None:
    """The untrained copy head already makes what stands in the passage likelier than a random guess."""
    answer = model.ask("Radium was discovered by [MASK].", kb, k=3, where="source = 'science'")
    (only,) = answer.evidence
    assert only.span is not None
    assert only.retrieval_utility > 0
    assert only.posterior > only.prior


def test_the_span_cuts_the_answer_out_of_the_passage(model: Realm, kb: KnowledgeBase) -> None:
    seen = 0
    for question in (QUESTION, "It flows through [MASK].", "Paris was loved by ____."):
        answer = model.ask(question, kb, k=6)
        for evidence in answer.evidence:
            if evidence.span is not None:
                cut = evidence.passage.text[slice(*evidence.span)]
                assert pieces_of(model, cut) == pieces_of(model, answer.text)
                seen += 1
    assert seen >= 3


def test_what_the_question_says_is_no_answer(model: Realm, kb: KnowledgeBase) -> None:
    answer = model.ask("Pablo Picasso painted [MASK].", kb, k=6)
    offered = {answer.text, *(text for text, _ in answer.alternatives)}
    assert not offered & {"Pablo Picasso", "PABLO PICASSO"}


def test_titles_are_read_where_training_read_them(model: Realm, kb: KnowledgeBase) -> None:
    titled = Realm(model.encoder, model.reader, replace(CONFIG, reader=ReaderConfig(with_title=True)))
    plain, other = (m.ask(QUESTION, kb, k=6) for m in (model, titled))
    ids = [e.passage.id for e in plain.evidence]
    assert sorted(ids) == sorted(e.passage.id for e in other.evidence)
    assert plain.null_prior == pytest.approx(other.null_prior), "retrieval sees the title in either case"
    assert plain.confidence != pytest.approx(other.confidence, rel=1e-6)


# ---------------------------------------------------------------- abstaining


def test_it_abstains_when_nothing_may_be_read(model: Realm, kb: KnowledgeBase) -> None:
    answer = model.ask(QUESTION, kb, where="source = 'nowhere'")
    assert answer.abstained
    assert (answer.text, answer.confidence, answer.evidence, answer.alternatives) == ("", 0.0, (), ())
    nameless = model.ask(QUESTION, kb, where="source = 'none'")
    assert nameless.abstained
    assert nameless.text == ""


def test_a_filter_holds(model: Realm, kb: KnowledgeBase) -> None:
    answer = model.ask(QUESTION, kb, k=10, where="source = 'art'")
    assert {e.source for e in answer.evidence} == {"art"}
    assert len(answer.evidence) == 2
    with pytest.raises(UsageError, match="where"):
        model.ask(QUESTION, kb, where="source === 'art'")


def test_a_question_without_a_blank_touches_nothing(model: Realm, kb: KnowledgeBase) -> None:
    version = kb.version
    for question in ("Who painted it?", "[MASK] painted [MASK]."):
        with pytest.raises(UsageError, match="blank"):
            model.ask(question, kb)
    assert kb.version == version
    assert not kb.encoders()


def test_search_takes_any_text(model: Realm, kb: KnowledgeBase) -> None:
    for query in ("rivers", "", "def __init__(self)", "word " * 500, "[MASK] and [MASK]", QUESTION):
        assert len(model.search(query, kb, k=3)) == 3


# ---------------------------------------------------------------- edits


def test_an_edit_changes_the_evidence_and_the_past_stays(model: Realm, kb: KnowledgeBase) -> None:
    before = model.ask(QUESTION, kb, k=6)
    version = before.knowledge_base_version
    assert version is not None
    assert model.prepare(kb) == 0, "asking has embedded everything"
    kb.update(replace(DOCUMENTS[0], text="Guernica was painted by Marie Curie in Vienna"))
    kb.delete("danube")
    kb.add([Document("new", "Seoul", "The river Han runs through Seoul", source="geo")])

    after = model.ask(QUESTION, kb, k=6)
    texts = {e.passage.document_id: e.passage.text for e in after.evidence}
    assert texts["guernica"] == "Guernica was painted by Marie Curie in Vienna"
    assert set(texts) == {"guernica", "curie", "signs", "small", "twice", "new"}
    fresh = next(e for e in after.evidence if e.passage.document_id == "guernica")
    stale = next(e for e in before.evidence if e.passage.document_id == "guernica")
    assert (fresh.document_version or 0) > (stale.document_version or 0)
    with torch.no_grad():  # the score is that of the text that stands there now
        query = cloze_tokens(model.tokenizer, QUESTION, 1, 32)[0]
        vector_D = model.encoder.encode_passages(passage_tokens(model.tokenizer, [fresh.passage], 40))[0]
        score = float(model.encoder.encode_queries(query)[0] @ vector_D)
    assert fresh.score == pytest.approx(score, rel=1e-4, abs=1e-4)
    assert fresh.score != pytest.approx(stale.score, rel=1e-4)

    past = model.ask(QUESTION, kb, k=6, as_of=version)
    assert past.knowledge_base_version == version
    assert past.text == before.text
    assert past.null_prior == pytest.approx(before.null_prior, rel=1e-4)
    assert past.confidence == pytest.approx(before.confidence, rel=1e-3)
    pairs = list(zip(past.evidence, before.evidence, strict=True))
    assert [(a.passage, a.source, a.document_version, a.span) for a, _ in pairs] == [
        (b.passage, b.source, b.document_version, b.span) for _, b in pairs
    ]
    for a, b in pairs:
        assert a.score == pytest.approx(b.score, rel=1e-4, abs=1e-4)


def test_a_model_knows_its_own_vectors_only(model: Realm, kb: KnowledgeBase, tmp_path: Path) -> None:
    first = model.ask(QUESTION, kb, k=3)
    encoder, reader = networks(tiny.tiny_bert(tmp_path / "bert", seed=5))
    other = Realm(encoder, reader, CONFIG)
    other.ask(QUESTION, kb, k=3)
    assert len(kb.encoders()) == 2
    shorter = Realm(model.encoder, model.reader, replace(CONFIG, data=replace(CONFIG.data, max_passage_tokens=16)))
    assert shorter.passage_encoder.fingerprint != model.passage_encoder.fingerprint, "cut texts have other vectors"
    again: Any = model.ask(QUESTION, kb, k=3)
    assert replace(again, knowledge_base_version=None) == replace(first, knowledge_base_version=None)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no run and no checkpoint"):
        Realm.from_pretrained(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match="has no checkpoint of REALM: let"):
        Realm.from_pretrained(tmp_path)


def test_an_empty_knowledge_base_has_no_answer(model: Realm, tmp_path: Path) -> None:
    empty = KnowledgeBase.create(tmp_path / "empty", split=dots.split, splitter=dots.SETTINGS)
    assert model.search(QUESTION, empty) == []
    answer = model.ask(QUESTION, empty)
    assert answer.abstained
    assert answer.evidence == ()
