"""Around every request: its id, its headers, its line in the log, and what is left when something breaks."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from toy_service import BLANK, Client, Serve, error

from realm.answering.ask import Realm
from realm.errors import KnowledgeBaseError
from realm.knowledge.base import KnowledgeBase
from realm.service.problems import problem_of


def test_a_sane_request_id_is_kept_and_any_other_is_made(shared: Client) -> None:
    kept = shared.get("/healthz", headers={"X-Request-Id": "abc-1.2_3"})
    assert kept.headers["x-request-id"] == "abc-1.2_3"
    for given in ("", "a b", "-x", "x" * 65, "ü", "a,b", "<script>"):
        made = shared.get("/healthz", headers={b"X-Request-Id": given.encode()})  # type: ignore[dict-item]
        assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])
    twice = shared.get("/healthz", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert re.fullmatch(r"[0-9a-f]{32}", twice.headers["x-request-id"])
    assert shared.get("/healthz").headers["x-request-id"] != shared.get("/healthz").headers["x-request-id"]
    named = shared.get("/v1/documents/nobody", headers={"X-Request-Id": "mine"})
    error(named, 404, "no_such_document")
    assert named.json()["error"]["request_id"] == "mine"


@pytest.mark.parametrize("path", ["/healthz", "/v1/documents", "/v1/documents/nobody", "/nothing", "/openapi.json"])
def test_headers_that_every_answer_has(shared: Client, path: str) -> None:
    for headers in ({}, {"Host": "evil.example"}):
        found = shared.get(path, headers=headers).headers
        assert found["content-security-policy"].startswith("default-src 'none';")
        assert found["x-content-type-options"] == "nosniff"
        assert found["referrer-policy"] == "no-referrer"
        assert found["x-frame-options"] == "DENY"
        assert found["cache-control"] == "no-store"
        assert found["content-type"].startswith("application/json")
        assert "server" not in found and not [name for name in found if name.startswith("access-control")]


def test_the_log_has_a_line_a_request_without_what_was_asked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve()
    caplog.set_level(logging.INFO, "realm.service")
    secret = "s3cr3t-question"
    headers = {"X-Request-Id": "one", "Authorization": "Bearer tokentokentoken"}
    client.post("/v1/ask", {"question": f"{secret} [MASK]"}, headers=headers)
    client.post("/v1/ask", {"question": secret}, headers=headers)
    client.get("/v1/documents", params={"where": f"title = '{secret}'"}, headers=headers)
    client.get("/v1/documents/a%0Ab%1B%5B31m", headers=headers)
    client.request("BREW", "/v1/ask", headers=headers)
    lines = [record.getMessage() for record in caplog.records if record.name == "realm.service.access"]
    assert [re.sub(r"[0-9.]+ ms", "T", line) for line in lines] == [
        "one POST /v1/ask 200 T",
        "one POST /v1/ask 400 T bad_request",
        "one GET /v1/documents 200 T",
        "one GET /v1/documents/a%0Ab%1B%5B31m 404 T no_such_document",
        "one OTHER /v1/ask 405 T method_not_allowed",
    ]
    assert secret not in caplog.text and "tokentoken" not in caplog.text


def test_a_defect_is_told_to_the_log_and_not_to_the_client(
    client: Client, kb: KnowledgeBase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise ValueError(f"no such thing in {kb.path} at 0x7fff")

    monkeypatch.setattr(client.service, "get", broken)
    response = client.get("/v1/documents/curie", headers={"X-Request-Id": "broken-1"})
    message = error(response, 500, "internal")
    assert "log" in message
    for word in ("ValueError", "0x7fff", str(kb.path), "Traceback", ".py"):
        assert word not in response.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "broken-1" in record.getMessage() and record.exc_info is not None
    assert "ValueError: no such thing" in caplog.text
    monkeypatch.undo()
    assert client.get("/v1/documents/curie").status_code == 200


def test_a_fault_of_the_store_names_no_path(client: Client, kb: KnowledgeBase) -> None:
    (kb.path / "passages.lance").rename(kb.path / "elsewhere.lance")
    for path in ("/v1/documents/curie", "/v1/documents", "/v1/documents/curie/history", "/v1/knowledge-base"):
        response = client.get(path)
        assert "the knowledge base" in error(response, 500, "failed")
        assert str(kb.path.parent).strip("/") not in response.text
    torn = KnowledgeBaseError(
        f"{kb.path} could not be read: no file srv/data/kb/x.lance, /home/builder/.cargo/a/b-1/c.rs:1:2, 3/4"
    )
    told = problem_of(torn, client.service.places).message
    assert told == "the knowledge base could not be read: no file ..., ...:1:2, 3/4"


def test_metrics_count_by_route_and_never_by_path(serve: Serve, realm: Realm, kb: KnowledgeBase) -> None:
    client = serve()
    client.post("/v1/ask", {"questions": [BLANK] * 3})
    client.get("/v1/documents/curie")
    client.get("/v1/documents/nobody")
    client.get("/nothing/at/all")
    client.post("/v1/documents", {"documents": [{"id": str(i), "text": "x y z."} for i in range(4)]})
    client.delete("/v1/documents/curie")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {}
    for line in response.text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    assert found['realm_http_requests_total{method="POST",route="/v1/ask",status="200"}'] == 1
    document = 'route="/v1/documents/{document_id}"'
    assert found[f'realm_http_requests_total{{method="GET",{document},status="200"}}'] == 1
    assert found[f'realm_http_requests_total{{method="GET",{document},status="404"}}'] == 1
    assert found['realm_http_requests_total{method="GET",route="none",status="404"}'] == 1
    assert found['realm_documents_edited_total{change="added"}'] == 4
    assert found['realm_documents_edited_total{change="deleted"}'] == 1
    assert found["realm_batch_questions_sum"] == 3
    assert found["realm_knowledge_base_version"] == kb.version
    assert found["realm_passages_without_vector"] == found["realm_index_age_seconds"] == 0
    assert found["process_resident_memory_bytes"] > 1e6
    assert "nobody" not in response.text and "nothing" not in response.text
    assert 'route="/v1/documents' not in serve().get("/metrics").text, "no service counts for another"
