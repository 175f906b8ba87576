"""Constraints and the recency prior from a request to the evidence, with real tiny models."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from toy_service import BLANK, Client, error
from typer.testing import CliRunner

from realm.answering.ask import Realm
from realm.answering.constraints import Constraints
from realm.answering.questions import QuestionAnswering
from realm.cli import app
from realm.knowledge.base import KnowledgeBase
from realm.types import Document

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FACTORS = {"guernica": 1.0, "new": 1.0, "old": 0.25}
"""Of the prior with a half-life of a year; Guernica has no date."""


@pytest.fixture
def dated(client: Client, kb: KnowledgeBase, realm: Realm) -> KnowledgeBase:
    """Two dated documents of two passages beside the undated ones."""
    sentences = "Guernica was painted by {} in Paris. {} lived in Spain for many years before the war."
    for name, days, who in (("new", 0, "Joan Miró"), ("old", 730, "Salvador Dalí")):
        text = " ".join([sentences.format(who, who)] * 3)
        day = NOW.date() - timedelta(days=days)
        kb.add([Document(name, name, text, source="news", date=day)], encoder=realm.passage_encoder)
    assert kb.num_passages("document_id = 'old'") > 1
    return kb


def documents(found: Any) -> list[str]:
    return [hit["id"].split("#")[0] for hit in found["hits"]]


def test_a_request_is_held_to_its_lists_and_limits(client: Client, dated: KnowledgeBase) -> None:
    def search(**asked: Any) -> list[str]:
        response = client.post("/v1/search", {"query": BLANK, "k": 50, **asked})
        assert response.status_code == 200, response.text
        return documents(response.json())

    assert set(search()) == {"guernica", "curie", "danube", "new", "old"}
    assert set(search(allow=["new", "curie", "nobody"])) == {"new", "curie"} and search(allow=[]) == []
    assert set(search(deny=["new", "old"])) == {"guernica", "curie", "danube"}
    assert sorted(search(max_per_document=1)) == ["curie", "danube", "guernica", "new", "old"]
    assert len([name for name in search(max_per_source=1) if name in ("new", "old")]) == 1
    assert sorted(search(mmr=0.3, max_per_document=1)) == ["curie", "danube", "guernica", "new", "old"]
    assert set(search(by="words", max_per_document=1, deny=["old"])) <= {"guernica", "new", "curie", "danube"}
    assert search(mmr=1.0) == search()
    assert set(search(sources=["news", "art"])) == {"guernica", "new", "old"} and search(sources=[]) == []
    day, before = NOW.date().isoformat(), (NOW.date() - timedelta(days=730)).isoformat()
    assert set(search(since=day)) == set(search(since=day, until=day)) == {"new"}
    assert set(search(until=day)) == {"new", "old"} and set(search(until=before, sources=["news"])) == {"old"}
    assert set(search(by="words", since=before, where="source = 'news'", deny=["new"])) <= {"old"}


def test_what_a_request_can_not_ask(client: Client, dated: KnowledgeBase) -> None:
    words = {"query": "Guernica", "by": "words"}
    assert "by words" in error(client.post("/v1/search", {**words, "mmr": 0.5}), 400, "bad_request")
    assert "by words" in error(client.post("/v1/search", {**words, "half_life_days": 9}), 400, "bad_request")
    assert "docs index" in error(client.post("/v1/ask", {"question": BLANK, "approximate": True}), 400, "bad_request")
    for wrong in (
        {"mmr": 2},
        {"max_per_document": 0},
        {"half_life_days": 0},
        {"allow": [""]},
        {"deny": "a"},
        {"since": "x"},
    ):
        error(client.post("/v1/ask", {"question": BLANK, **wrong}), 422, "malformed")
    dated.index_vectors()
    found = client.post("/v1/ask", {"question": BLANK, "approximate": True, "k": 3}).json()
    exact = client.post("/v1/ask", {"question": BLANK, "k": 3}).json()
    assert [one["passage"]["id"] for one in found["evidence"]] == [one["passage"]["id"] for one in exact["evidence"]]


@pytest.mark.parametrize("kind", ["realm", "answerer"])
def test_the_prior_acts_on_p_z_x_and_is_shown(request: pytest.FixtureRequest, dated: KnowledgeBase, kind: str) -> None:
    model: Realm | QuestionAnswering = request.getfixturevalue(kind)
    question = BLANK if kind == "realm" else "Who painted Guernica?"
    limits = {"max_per_document": 1, "allow": tuple(FACTORS)}
    plain = model.ask(question, dated, k=3, constraints=Constraints(**limits))
    aged = model.ask(question, dated, k=3, constraints=Constraints(**limits, half_life_days=365, now=NOW))
    assert plain.now is None and aged.now == NOW
    assert len(plain.evidence) == len(aged.evidence) == 3
    assert sum(one.prior for one in plain.evidence) + plain.null_prior == pytest.approx(1, abs=1e-5)
    assert sum(one.prior for one in aged.evidence) + aged.null_prior == pytest.approx(1, abs=1e-5)
    before = {one.passage.document_id: one for one in plain.evidence}
    after = {one.passage.document_id: one for one in aged.evidence}
    for name, one in after.items():
        assert before[name].recency is None and one.recency is not None
        assert math.exp(one.recency) == pytest.approx(FACTORS[name])
        assert (one.date is None) == (name == "guernica"), "0 beside no date says that it did not count"
        assert one.score == pytest.approx(before[name].score, abs=1e-5)

    def odds(one: str, other: str, among: Any) -> float:
        return float(among[one].prior / among[other].prior)

    assert odds("new", "old", after) == pytest.approx(4 * odds("new", "old", before), rel=1e-3)
    assert odds("guernica", "new", after) == pytest.approx(odds("guernica", "new", before), rel=1e-3)


def test_now_is_that_of_the_version_or_the_time_asked_of(client: Client, dated: KnowledgeBase, realm: Realm) -> None:
    where = "date >= now() - interval '99 years' and source = 'news'"
    answered = client.post("/v1/ask", {"question": BLANK, "where": where}).json()
    assert abs(datetime.fromisoformat(answered["now"]) - datetime.now(UTC)) < timedelta(minutes=5)
    version = dated.versions()[-1]
    for as_of, now in ((version.version, version.time), (version.time.isoformat(), version.time)):
        found = client.post("/v1/search", {"query": BLANK, "k": 50, "where": where, "as_of": as_of}).json()
        assert datetime.fromisoformat(found["now"]) == now
        assert set(documents(found)) == {"new", "old"}
    assert client.post("/v1/search", {"query": BLANK, "where": "date is not null"}).json()["now"] is None
    (one,) = realm.ask_many([BLANK], dated, where="date >= now()", constraints=Constraints(now=NOW))
    assert one.now == NOW and {evidence.passage.document_id for evidence in one.evidence} <= {"new"}
    listed = client.get("/v1/documents", params={"where": where}).json()
    assert {document["id"] for document in listed["documents"]} == {"new", "old"}


def test_the_command_line_takes_them(dated: KnowledgeBase) -> None:
    options = [
        "--kb",
        str(dated.path),
        "--json",
        "--source",
        "news",
        "--until",
        "2025-01-01",
        "--max-per-document",
        "1",
    ]
    result = CliRunner().invoke(app, ["search", "Guernica", *options])
    assert result.exit_code == 0, result.output
    assert [hit["document_id"] for hit in json.loads(result.output)] == ["old"]
    options = ["--kb", str(dated.path), "--json", "--max-per-document", "1", "--deny", "old", "--k", "9"]
    result = CliRunner().invoke(app, ["search", "Guernica", *options])
    assert result.exit_code == 0, result.output
    assert sorted(hit["id"].split("#")[0] for hit in json.loads(result.output)) == ["guernica", "new"]
    indexed = CliRunner().invoke(app, ["docs", "index", "--kb", str(dated.path), "--json"])
    assert indexed.exit_code == 0 and json.loads(indexed.output)["rows"] == dated.num_passages()
