"""Asking and searching over HTTP, over real documents and tiny models."""

from __future__ import annotations

import json

import pytest
from toy_service import BLANK, Client, Serve, error

from realm.answering.ask import Realm
from realm.answering.questions import QuestionAnswering
from realm.knowledge.base import KnowledgeBase
from realm.service import schemas
from realm.workflows.values import answer_json, hits_json

LINES = {"Accept": "application/x-ndjson"}


def test_a_question_is_answered_as_python_and_the_command_line_answer_it(
    client: Client, realm: Realm, kb: KnowledgeBase
) -> None:
    response = client.post("/v1/ask", {"question": BLANK, "k": 2})
    assert response.status_code == 200, response.text
    answer = realm.ask(BLANK, kb, k=2)
    told, expected = response.json(), json.loads(json.dumps(answer_json(answer)))
    assert told["knowledge_base_version"] == kb.version == answer.knowledge_base_version
    assert [e["passage"] for e in told["evidence"]] == [e["passage"] for e in expected["evidence"]]
    assert told["text"] == expected["text"] and set(told) == set(expected)
    assert told["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
    schemas.AnswerOut.model_validate_json(response.content)


def test_many_come_as_a_list_or_as_lines(shared: Client) -> None:
    questions = [BLANK, "Radium was discovered by [MASK].", "The Danube flows through [MASK]."]
    listed = shared.post("/v1/ask", {"questions": questions}).json()
    assert [answer["question"] for answer in listed] == questions
    streamed = shared.post("/v1/ask", {"questions": questions}, headers=LINES)
    assert streamed.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in streamed.text.splitlines()]
    assert [(line["question"], line["text"]) for line in lines] == [(a["question"], a["text"]) for a in listed]


def test_a_faulty_question_is_a_line_and_fails_a_list(shared: Client) -> None:
    questions = [BLANK, "no blank here", BLANK]
    message = error(shared.post("/v1/ask", {"questions": questions}), 400, "bad_request")
    assert "[MASK]" in message
    response = shared.post("/v1/ask", {"questions": questions}, headers=LINES)
    first, second, third = [json.loads(line) for line in response.text.splitlines()]
    assert first["text"] == third["text"] != ""
    assert second["error"]["code"] == "bad_request"
    assert second["error"]["request_id"] == response.headers["x-request-id"]


def test_a_fine_tuned_model_answers_too(serve: Serve, answerer: QuestionAnswering, kb: KnowledgeBase) -> None:
    client = serve(model=answerer)
    asked = {"question": "who painted guernica ?", "k": 3, "conflicts": {"ratio": 0.01, "least": 0}}
    response = client.post("/v1/ask", asked)
    answer = schemas.AnswerOut.model_validate_json(response.content)
    assert answer.text in answer.evidence[0].passage.text and answer.evidence[0].retrieval_utility is None
    (again,) = answerer.ask_many(["who painted guernica ?"], kb, 3)
    assert again.text == answer.text
    assert answer.conflicts and answer.conflict and "disagree" in answer.conflict
    assert client.post("/v1/ask", {"question": "who ?", "aggregate": "best-span"}).status_code == 200


def test_predicates_and_versions(client: Client, kb: KnowledgeBase) -> None:
    before = kb.version
    answer = client.post("/v1/ask", {"question": BLANK, "where": "source = 'science'"}).json()
    assert {e["source"] for e in answer["evidence"]} == {"science"}
    client.delete("/v1/documents/guernica")
    past = client.post("/v1/ask", {"question": BLANK, "as_of": before}).json()
    assert past["knowledge_base_version"] == before
    assert "guernica" in {e["passage"]["document_id"] for e in past["evidence"]}
    now = client.post("/v1/ask", {"question": BLANK}).json()
    assert "guernica" not in {e["passage"]["document_id"] for e in now["evidence"]}
    for path, body in (("/v1/ask", {"question": BLANK}), ("/v1/search", {"query": "x"})):
        for where in ("x = 1", "source = 'a' -- b", "position > 0"):
            message = error(client.post(path, {**body, "where": where}, headers=LINES), 400, "bad_predicate")
            assert "columns are document_id" in message
        assert client.post(path, {**body, "where": " "}).status_code == 200
    error(client.get("/v1/documents", params={"where": "source ="}), 400, "bad_predicate")
    message = error(client.post("/v1/ask", {"question": BLANK, "as_of": 999}), 404, "no_such_version")
    assert str(kb.path) not in message and "the knowledge base has no version 999" in message


def test_search_by_meaning_and_by_words(client: Client, realm: Realm, kb: KnowledgeBase) -> None:
    found = client.post("/v1/search", {"query": "a river", "k": 2})
    body = schemas.HitsOut.model_validate_json(found.content)
    expected = json.loads(json.dumps(hits_json(realm.search("a river", kb, 2))))
    assert [hit["id"] for hit in found.json()["hits"]] == [hit["id"] for hit in expected]
    assert body.version == kb.version and [hit.rank for hit in body.hits] == [1, 2]
    words = client.post("/v1/search", {"query": "radium", "by": "words"}).json()
    assert [hit["document_id"] for hit in words["hits"]] == ["curie"]
    narrow = client.post("/v1/search", {"query": "a river", "k": 9, "where": "source = 'geo'"}).json()
    assert [hit["document_id"] for hit in narrow["hits"]] == ["danube"]
