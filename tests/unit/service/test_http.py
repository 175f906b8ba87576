"""What the HTTP API answers, over real documents and tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from toy_service import BLANK, DOCUMENTS, Client, Serve, error, write_run

from realm import __version__
from realm.answering.ask import Realm
from realm.answering.questions import QuestionAnswering
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table import times
from realm.service import schemas, schemas_model
from realm.service.cursors import read_cursor
from realm.service.settings import ServiceConfig
from realm.settings import override
from realm.types import Document
from realm.workflows.showing.curves import trainings
from realm.workflows.values import document_json

NEW = {"id": "seoul", "title": "Seoul", "text": "The river Han runs through Seoul.", "source": "geo"}


# ---------------------------------------------------------------- documents


def test_an_edit_is_seen_by_the_next_question(client: Client, realm: Realm, kb: KnowledgeBase) -> None:
    asked = {"question": "The river Han runs through [MASK].", "k": 9}

    def texts() -> dict[str, str]:
        evidence = client.post("/v1/ask", asked).json()["evidence"]
        return {e["passage"]["document_id"]: e["passage"]["text"] for e in evidence}

    assert "seoul" not in texts()
    added = client.post("/v1/documents", NEW)
    assert added.status_code == 201 and added.json()["added"] == 1
    assert added.headers["location"] == "/v1/documents/seoul"
    assert client.post("/v1/ask", asked).json()["knowledge_base_version"] >= added.json()["version"]
    assert texts()["seoul"] == NEW["text"]
    changed = client.put("/v1/documents/seoul", {"title": "Seoul", "text": "The river Han runs through Busan."})
    assert changed.json()["updated"] == 1 and changed.json()["version"] > added.json()["version"]
    assert texts()["seoul"] == "The river Han runs through Busan."
    assert client.delete("/v1/documents/seoul").json()["deleted"] == 1
    assert "seoul" not in texts()


def test_text_and_vectors_are_one_commit(client: Client, realm: Realm, kb: KnowledgeBase) -> None:
    """No version that an edit made has a passage without its vector."""
    first = kb.version
    client.post("/v1/documents", {"documents": [NEW, {"id": "b", "text": "Another. And more of it."}]})
    client.put("/v1/documents/b", {"text": "Another one. And less of it."})
    client.delete("/v1/documents/curie")
    fingerprint = realm.passage_encoder.fingerprint
    assert kb.version >= first + 3
    for version in range(first, kb.version + 1):
        assert kb.at(version).waiting(fingerprint).passages == 0, version


def test_a_document_comes_back_as_it_was_given(client: Client, kb: KnowledgeBase) -> None:
    awkward = {
        "id": "notes/2024 ü%2F?#.md/history",
        "title": "<script>alert(1)</script>",
        "text": 'One.\n\n"Two" \\ \u2028 three\0. 😀',
        "source": "it's",
        "date": "2024-02-29",
        "lang": "en",
        "url": "https://example.org/?a=b",
        "metadata": {"id": "other", "pages": 3, "size": 1.5, "kept": True, "First_Name": "Ana"},
    }
    added = client.post("/v1/documents", awkward)
    assert added.status_code == 201, added.text
    place = added.headers["location"]
    found = client.get(place)
    one = schemas.OneDocumentOut.model_validate_json(found.content)
    assert found.json()["document"] == awkward
    assert one.document_version == added.json()["version"] and one.revision == 1
    stored = kb.get(str(awkward["id"]))
    assert stored is not None and document_json(stored) == awkward
    assert client.get(place + "/history").json()["changes"][0]["text"] == awkward["text"]
    assert client.delete(place).status_code == 200
    error(client.get(place), 404, "no_such_document")
    assert client.get(place, params={"as_of": added.json()["version"]}).json()["document"] == awkward


def test_adding_is_all_or_nothing(client: Client, kb: KnowledgeBase) -> None:
    before = kb.version
    documents = [NEW, {"id": "guernica", "text": "There already."}]
    message = error(client.post("/v1/documents", {"documents": documents}), 409, "document_exists")
    assert "'guernica' is there already" in message and kb.version == before
    twice = [{"id": "x", "text": "One."}, {"id": "x", "text": "Two."}]
    error(client.post("/v1/documents", {"documents": twice}), 400, "bad_document")
    error(client.put("/v1/documents/nobody", {"text": "x"}), 404, "no_such_document")
    error(client.delete("/v1/documents/nobody"), 404, "no_such_document")
    error(client.get("/v1/documents/nobody"), 404, "no_such_document")
    assert str(kb.path) not in error(client.get("/v1/documents/nobody/history"), 404, "no_such_document")
    clash = {"id": "y", "text": "x", "metadata": {"TITLE": "x"}}
    error(client.post("/v1/documents", clash), 400, "bad_document")
    huge = {"id": "y", "text": "x", "metadata": {"n": 10**30}}
    error(client.post("/v1/documents", huge), 400, "bad_document")
    assert kb.version == before


@pytest.mark.parametrize("limit", ["limits.documents=16385", "limits.body_bytes=32000001"])
def test_no_request_is_allowed_that_takes_two_commits(limit: str) -> None:
    with pytest.raises(UsageError, match="at most"):
        override(ServiceConfig(), [limit])


def test_pages_show_one_version(client: Client, kb: KnowledgeBase) -> None:
    kb.add([Document(f"d{i}", "", f"number {i}.", metadata={"i": i}) for i in range(7)])
    ids, cursor, version = [], None, None
    while True:
        parameters = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = schemas.PageOut.model_validate_json(client.get("/v1/documents", params=parameters).content)
        if version is None:
            kb.delete("d3")
            kb.update(replace(DOCUMENTS[0], text="Changed."))
        version = version or page.version
        assert (page.total, page.version) == (10, version)
        assert len(page.documents) <= 3
        ids += [document.id for document in page.documents]
        cursor = page.cursor
        if cursor is None:
            break
    assert ids == ["guernica", "curie", "danube", *(f"d{i}" for i in range(7))]
    some = client.get("/v1/documents", params={"where": "i >= 2", "limit": 2}).json()
    assert [d["id"] for d in some["documents"]] == ["d2", "d4"] and some["total"] == 4
    assert client.get("/v1/documents", params={"as_of": version}).json()["total"] == 10
    for bad in ("x", "1", "1.2.3", "-1.5", f"{version + 1}.5"):
        error(client.get("/v1/documents", params={"cursor": bad, "as_of": version}), 400, "bad_request")


def test_pages_show_one_now(client: Client, kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime.now(UTC).date()
    kb.add([Document(f"d{i}", "", f"number {i}.", date=today - timedelta(days=i)) for i in range(8)])

    def listed(cursor: str | None = None, **more: Any) -> schemas.PageOut:
        parameters = {"where": "date >= now() - interval '99 days'", "limit": 3, **more}
        response = client.get("/v1/documents", params=parameters | ({"cursor": cursor} if cursor else {}))
        return schemas.PageOut.model_validate_json(response.content)

    first = listed()
    then = datetime.now(UTC)
    monkeypatch.setattr(times.sc, "now", lambda: then + timedelta(days=95))
    assert 0 < listed().total < 8, "a list that begins later is another"
    second = listed(first.cursor)
    third = listed(second.cursor)
    pages = (first, second, third)
    assert [page.total for page in pages] == [8, 8, 8] and third.cursor is None
    assert [document.id for page in pages for document in page.documents] == [f"d{i}" for i in range(8)]
    # As of a time, said with the first page alone: in the zone that it was told in, too.
    past = kb.versions()[-1].time.astimezone(timezone(timedelta(hours=9, minutes=30)))
    first = listed(as_of=past.isoformat())
    told = read_cursor(first.cursor, None)
    assert told.now == past and told.now.utcoffset() == past.utcoffset()
    assert listed(first.cursor).total == listed(first.cursor, as_of=past.isoformat()).total == 8
    for bad in (
        f"{first.cursor}1",
        f"{kb.version}.1.5",
        f"{kb.version}.1.5.2880",
        f"{kb.version}.1.99999999999999999.0",
    ):
        error(client.get("/v1/documents", params={"cursor": bad}), 400, "bad_request")


def test_history_by_pages(client: Client, kb: KnowledgeBase) -> None:
    for i in range(4):
        client.put("/v1/documents/curie", {"text": f"Edition {i}."})
    client.delete("/v1/documents/curie")
    whole = schemas.HistoryOut.model_validate_json(client.get("/v1/documents/curie/history").content)
    assert [change.change for change in whole.changes] == ["added", *["updated"] * 4, "deleted"]
    assert whole.changes[2].text == "Edition 1." and whole.changes[-1].text == "" and whole.before is None
    seen, before = [], None
    while True:
        parameters = {"limit": 2, **({"before": before} if before else {})}
        part = client.get("/v1/documents/curie/history", params=parameters).json()
        seen = [*part["changes"], *seen]
        before = part["before"]
        if before is None:
            break
    assert [change["revision"] for change in seen] == [1, 2, 3, 4, 5, 6]


def test_a_document_can_be_restored(client: Client, kb: KnowledgeBase, realm: Realm) -> None:
    first = client.get("/v1/documents/curie").json()
    client.put("/v1/documents/curie", {"text": "Something else."})
    client.delete("/v1/documents/curie")
    deleted = kb.version
    restored = client.post("/v1/documents/curie/restore", {"as_of": first["version"]})
    assert restored.status_code == 200 and restored.json()["added"] == 1, restored.text
    assert client.get("/v1/documents/curie").json()["document"] == first["document"]
    assert kb.waiting(realm.passage_encoder.fingerprint).passages == 0
    error(client.post("/v1/documents/curie/restore", {"as_of": deleted}), 404, "no_such_document")
    error(client.post("/v1/documents/curie/restore", {}), 422, "malformed")


def test_as_of_a_time(client: Client, kb: KnowledgeBase) -> None:
    before = kb.version
    client.put("/v1/documents/curie", {"text": "Changed."})
    now = datetime.now(UTC).isoformat()
    assert client.get("/v1/documents/curie", params={"as_of": str(before)}).json()["version"] == before
    assert client.get("/v1/documents/curie", params={"as_of": now}).json()["document"]["text"] == "Changed."
    assert client.post("/v1/ask", {"question": BLANK, "as_of": now}).json()["knowledge_base_version"] == kb.version
    assert client.post("/v1/search", {"query": "x", "as_of": now, "by": "words"}).status_code == 200
    assert client.get("/v1/documents", params={"as_of": now}).json()["version"] == kb.version
    error(client.post("/v1/ask", {"question": BLANK, "as_of": "yesterday"}), 400, "bad_request")
    error(client.get("/v1/documents/curie", params={"as_of": "1999-01-01"}), 400, "bad_request")
    error(client.get("/v1/documents", params={"as_of": "0"}), 404, "no_such_version")


# ---------------------------------------------------------------- the rest


def test_readiness_and_facts(serve: Serve, realm: Realm, kb: KnowledgeBase) -> None:
    client = serve(begin=False)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert "being opened" in error(client.get("/readyz"), 503, "not_ready")
    refused = client.post("/v1/ask", {"question": BLANK})
    error(refused, 503, "not_ready")
    assert refused.headers["retry-after"] == "1"
    assert client.get("/v1/knowledge-base").json()["index"] is None
    client.service.open().result()
    assert client.get("/readyz").json() == {"status": "ready"}
    facts = schemas.KnowledgeBaseOut.model_validate_json(client.get("/v1/knowledge-base").content)
    assert (facts.version, facts.documents, facts.passages) == (kb.version, 3, 3)
    assert facts.index is not None and facts.index.encoder in facts.encoders
    assert (facts.index.waiting, facts.index.age_seconds) == (0, 0.0)
    assert "position" not in facts.columns and facts.columns["source"] == "string"


def test_the_model_and_the_curves_of_its_run(
    serve: Serve, realm: Realm, answerer: QuestionAnswering, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    client = serve(begin=False, trainings=lambda: trainings(run))
    error(client.get("/v1/model"), 503, "not_ready")
    client.service.open().result()
    response = client.get("/v1/model", params={"path": "/etc"})
    found = schemas_model.ModelOut.model_validate_json(response.content)
    assert (found.kind, found.k, found.encoder) == ("pre-trained", 5, realm.passage_encoder.fingerprint)
    assert [curve.name for curve in found.trainings[0].curves] == ["probe", "loss", "utility", "null"]
    assert str(tmp_path) not in response.text
    (run / "metrics.jsonl").unlink()  # it was read when the model was opened, and no request reads it again
    assert client.get("/v1/model").json() == response.json()
    tuned = schemas_model.ModelOut.model_validate_json(serve(model=answerer).get("/v1/model").content)
    assert (tuned.kind, tuned.k, tuned.trainings) == ("fine-tuned", answerer.config.qa.num_passages, [])


def test_what_another_program_wrote_is_embedded_before_it_is_ready_again(client: Client, kb: KnowledgeBase) -> None:
    kb.add([Document("new", "", "Written by somebody else.")])
    index = client.get("/v1/knowledge-base").json()["index"]
    assert index["waiting"] == 1 and index["age_seconds"] > 0
    assert "1 passages" in error(client.get("/readyz"), 503, "not_ready")
    embedding = client.service._embedding
    assert embedding is not None
    embedding.result()
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/knowledge-base").json()["index"]["waiting"] == 0


def test_a_model_that_does_not_open_is_told(serve: Serve) -> None:
    client = serve(begin=False)

    def fail() -> Any:
        raise ValueError("torn file")

    client.service._open_model = fail
    with pytest.raises(ValueError, match="torn file"):
        client.service.open().result()
    assert isinstance(client.service.failure, ValueError)
    error(client.get("/readyz"), 503, "not_ready")


def test_openapi_describes_every_route_and_its_examples_are_asked(client: Client) -> None:
    described = client.get("/openapi.json").json()
    assert described["info"] == {**described["info"], "title": "realm", "version": __version__}
    document = "/v1/documents/{document_id}"
    rest = {"/v1/ask", "/v1/search", "/v1/documents", "/v1/knowledge-base", "/v1/model", "/healthz"}
    rest |= {"/readyz", "/metrics"}
    assert set(described["paths"]) == {document, f"{document}/history", f"{document}/restore", *rest}
    models = {name: model for name, model in (vars(schemas) | vars(schemas_model)).items() if isinstance(model, type)}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert "HTTPValidationError" not in json.dumps(operation)
            assert operation["description"]
            content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
            schema = content.get("schema", {})
            name = json.dumps(schema).split("/")[-1].split('"')[0]
            if "example" in content:
                models[name].model_validate_json(json.dumps(content["example"]))
            for example in (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
            ).values():
                response = client.request(method.upper(), path.format(document_id="guernica"), json=example["value"])
                # The documents of the examples are others: a blank is missing, a version, a document too much.
                assert response.status_code in (200, 201, 400, 404, 409), (path, example, response.text)
                if response.status_code == 400:
                    assert "blank" in response.text or "as_of" in response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ask", {}),
        ("/v1/ask", {"question": "a", "questions": ["b"]}),
        ("/v1/ask", {"question": "  "}),
        ("/v1/ask", {"question": BLANK, "conflicts": {"ratio": 7}}),
    ],
)
def test_impossible_requests(shared: Client, path: str, body: Any) -> None:
    error(shared.post(path, body), 400, "bad_request")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ask", {"question": 5}),
        ("/v1/ask", {"question": "a", "k": 0}),
        ("/v1/ask", {"question": "a", "k": "5"}),
        ("/v1/ask", {"question": "a", "k": True}),
        ("/v1/ask", {"question": "a", "kk": 1}),
        ("/v1/ask", {"question": "a", "aggregate": "mean"}),
        ("/v1/ask", {"questions": []}),
        ("/v1/ask", ["a"]),
        ("/v1/search", {"query": "a", "by": "magic"}),
        ("/v1/documents", {"id": "", "text": "x"}),
        ("/v1/documents", {"id": "a"}),
        ("/v1/documents", {"id": "a", "text": "x", "date": 5}),
        ("/v1/documents", {"id": "a", "text": "x", "date": "2024-13-01"}),
        ("/v1/documents", {"id": "a", "text": "x", "date": "2024-01-01T00:00:00"}),
        ("/v1/documents", {"id": "a", "text": "x", "metadata": {"a": None}}),
        ("/v1/documents", {"id": "a", "text": "x", "metadata": {"a": [1]}}),
        ("/v1/documents", {"id": "a", "text": "x", "metadata": {str(i): 1 for i in range(65)}}),
        ("/v1/documents", {"documents": []}),
    ],
)
def test_requests_of_another_shape(shared: Client, path: str, body: Any) -> None:
    error(shared.post(path, body), 422, "malformed")


@pytest.mark.parametrize(
    "raw",
    [b"{", b"\xff", b"[" * 100_000, b'{"question": "\\ud800"}', b'{"question": "a", "k": ' + b"9" * 5000 + b"}", b""],
)
def test_bodies_that_are_no_json(shared: Client, raw: bytes) -> None:
    response = shared.request("POST", "/v1/ask", content=raw, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert response.json()["error"]["code"] in ("bad_request", "malformed")


def test_numbers_that_json_has_no_word_for(client: Client, kb: KnowledgeBase) -> None:
    raw = b'{"id": "a", "text": "x", "metadata": {"size": NaN}}'
    response = client.request("POST", "/v1/documents", content=raw, headers={"Content-Type": "application/json"})
    error(response, 422, "malformed")
    kb.add([Document("nan", "", "x", metadata={"size": float("nan")})])
    assert client.get("/v1/documents/nan").json()["document"]["metadata"] == {"size": None}


def test_unknown_addresses_and_methods(shared: Client) -> None:
    error(shared.get("/v2/ask"), 404, "not_found")
    error(shared.get("/docs"), 404, "not_found")
    error(shared.get("/v1/ask"), 405, "method_not_allowed")
    error(shared.get("/v1/ask/"), 404, "not_found")
    error(shared.get("/v1/documents/%ff"), 400, "bad_request")
