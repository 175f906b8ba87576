"""Who may come in, with how much, and how many at once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from toy_service import BLANK, Client, Serve, error

from realm.answering.ask import Realm
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.service.tokens import Tokens, names_of, read_tokens

READ, WRITE = "r" * 32, "w" * 32
TOKENS = Tokens(READ, WRITE)
NEW = {"id": "new", "text": "Something new."}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---------------------------------------------------------------- tokens


def test_one_token_reads_and_the_other_writes_too(serve: Serve, kb: KnowledgeBase) -> None:
    client = serve(host="0.0.0.0", tokens=TOKENS)
    before = kb.version
    read = [
        ("POST", "/v1/ask", {"question": BLANK}),
        ("POST", "/v1/search", {"query": "a"}),
        ("GET", "/v1/documents", None),
        ("GET", "/v1/documents/curie", None),
        ("GET", "/v1/documents/curie/history", None),
        ("GET", "/v1/knowledge-base", None),
        ("GET", "/metrics", None),
        ("GET", "/openapi.json", None),
    ]
    for method, path, body in read:
        assert client.request(method, path, json=body, headers=bearer(READ)).status_code == 200, path
        assert client.request(method, path, json=body, headers=bearer(WRITE)).status_code == 200, path
        refused = client.request(method, path, json=body)
        error(refused, 401, "no_token")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    for method, path, body in [
        ("POST", "/v1/documents", NEW),
        ("PUT", "/v1/documents/curie", {"text": "x"}),
        ("DELETE", "/v1/documents/curie", None),
        ("POST", "/v1/ask/", {"question": BLANK}),
        ("PATCH", "/v1/documents/curie", {}),
        ("POST", "/v1//documents", NEW),
    ]:
        error(client.request(method, path, json=body), 401, "no_token")
        error(client.request(method, path, json=body, headers=bearer(READ)), 403, "read_only")
    assert kb.version == before
    assert client.post("/v1/documents", NEW, headers=bearer(WRITE)).status_code == 201
    for probe in ("/healthz", "/readyz"):
        assert client.get(probe).status_code == 200
    assert client.get("/").status_code == 200, "the page holds no knowledge, and asks for a token"
    error(client.get("/page/../v1/documents"), 401, "no_token")
    assert client.get("/page/%2e%2e/v1/documents").status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        "",
        READ,
        f"Basic {READ}",
        "Bearer",
        "Bearer ",
        f"Bearer {READ[1:]}",
        f"Bearer {READ}x",
        f"Bearer {READ},x",
        "Bearer \xff",
    ],
)
def test_anything_else_is_no_token(shared: Client, header: str) -> None:
    gate = shared.layers.gate
    gate.tokens = TOKENS
    try:
        response = shared.get("/v1/documents", headers={b"Authorization": header.encode("latin-1")})  # type: ignore[dict-item]
        error(response, 401, "no_token")
        twice = [("Authorization", f"Bearer {READ}"), ("Authorization", f"Bearer {READ}")]
        error(shared.get("/v1/documents", headers=twice), 401, "no_token")
        assert shared.get("/v1/documents", headers={"authorization": f"bearer  {READ}"}).status_code == 200
    finally:
        gate.tokens = None


def test_where_tokens_come_from(tmp_path: Path) -> None:
    file = tmp_path / "read"
    file.write_text(f"{READ}\n")
    none: dict[str, Path | None] = {"read": None, "write": None}
    environment = {"REALM_READ_TOKEN": "e" * 20, "REALM_WRITE_TOKEN": WRITE}
    assert read_tokens(none, {}) is None
    assert read_tokens(none, environment) == Tokens("e" * 20, WRITE)
    assert read_tokens({"read": file, "write": None}, environment) == TOKENS
    assert READ not in repr(TOKENS) and READ not in str(TOKENS)
    (tmp_path / "empty").write_text("\n")
    for files, variables, message in [
        (none, {"REALM_READ_TOKEN": READ}, "no write token"),
        (none, {"REALM_WRITE_TOKEN": WRITE}, "no read token"),
        (none, {"REALM_READ_TOKEN": READ, "REALM_WRITE_TOKEN": READ}, "two different"),
        (none, {"REALM_READ_TOKEN": "short", "REALM_WRITE_TOKEN": WRITE}, "16 to 512"),
        (none, {"REALM_READ_TOKEN": "with a space in it", "REALM_WRITE_TOKEN": WRITE}, "16 to 512"),
        ({"read": tmp_path / "none", "write": None}, {}, "can't read the read token"),
        ({"read": tmp_path / "empty", "write": None}, {}, "is empty"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            read_tokens(files, variables)
        assert (
            READ not in str(caught.value) and WRITE not in str(caught.value) and "with a space" not in str(caught.value)
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "", "localhost.example.org"])
def test_nobody_else_is_served_without_tokens(host: str) -> None:
    with pytest.raises(UsageError, match="REALM_READ_TOKEN"):
        names_of(host, None)
    assert names_of(host, TOKENS) is None


# ---------------------------------------------------------------- browsers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:8080", "[::1]:80", "LOCALHOST:1"])
def test_names_of_this_machine(shared: Client, host: str) -> None:
    assert shared.get("/v1/documents", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "", "a@localhost:b"]
)
def test_other_names_are_refused_on_loopback(shared: Client, host: str) -> None:
    for path in ("/v1/documents", "/healthz", "/"):
        error(shared.get(path, headers={"Host": host}), 403, "bad_host")
    error(shared.get("/healthz", headers=[("Host", "localhost"), ("Host", "evil.example")]), 400, "bad_host")


def test_pages_of_others_can_not_write(client: Client, kb: KnowledgeBase) -> None:
    before = kb.version
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8080"},  # another name is another origin
        {"Origin": "http://127.0.0.1:8081"},
        {"Origin": "http://127.0.0.1:8080.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        error(client.post("/v1/documents", NEW, headers=headers), 403, "bad_origin")
        error(client.delete("/v1/documents/curie", headers=headers), 403, "bad_origin")
        response = client.post("/v1/ask", {"question": BLANK}, headers=headers)
        error(response, 403, "bad_origin")
        assert "access-control-allow-origin" not in response.headers
    preflight = client.request("OPTIONS", "/v1/documents", headers={"Origin": "https://evil.example"})
    assert preflight.status_code == 405 and not [h for h in preflight.headers if h.startswith("access-control")]
    assert kb.version == before
    assert client.post("/v1/documents", NEW, headers={"Origin": "http://127.0.0.1:8080"}).status_code == 201


def test_origins_can_be_added(serve: Serve) -> None:
    client = serve("origins=https://wiki.example")
    assert client.delete("/v1/documents/curie", headers={"Origin": "https://wiki.example"}).status_code == 200
    error(client.delete("/v1/documents/danube", headers={"Origin": "https://evil.example"}), 403, "bad_origin")


def test_a_form_is_no_request(client: Client, kb: KnowledgeBase) -> None:
    before = kb.version
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"Content-Type": kind}
        error(
            client.request("POST", "/v1/documents", content=b'{"id":"a","text":"b"}', headers=headers), 415, "not_json"
        )
    assert kb.version == before
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.request("POST", "/v1/documents", content=b'{"id":"a","text":"b"}', headers=headers).status_code == 201


# ---------------------------------------------------------------- limits


def test_a_body_that_is_too_large(serve: Serve, kb: KnowledgeBase) -> None:
    client = serve("limits.body_bytes=2000")
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b" " * 100

    body = {"id": "a", "text": "x" * 1900}
    assert client.post("/v1/documents", body).status_code == 201
    message = error(client.post("/v1/documents", {"id": "b", "text": "x" * 2000}), 413, "too_large")
    assert "2,000 bytes" in message
    headers = {"Content-Type": "application/json"}
    response = client.request("POST", "/v1/documents", content=pieces(), headers=headers)  # without Content-Length
    error(response, 413, "too_large")
    assert response.headers["connection"] == "close"
    assert read <= 22, "the rest is not read"


def test_what_one_request_may_ask_for(serve: Serve) -> None:
    client = serve(
        "limits.documents=2",
        "limits.questions=2",
        "limits.question_characters=40",
        "limits.passages=9",
        "limits.page=5",
    )
    new = [{"id": str(i), "text": "x"} for i in range(3)]
    for response, code, words in [
        (client.post("/v1/documents", {"documents": new}), "too_many", "3 documents: expected at most 2"),
        (client.post("/v1/ask", {"questions": [BLANK] * 3}), "too_many", "3 questions: expected at most 2"),
        (client.post("/v1/ask", {"question": "x" * 41}), "too_long", "41 characters: expected at most 40"),
        (client.post("/v1/search", {"query": "x" * 41}), "too_long", "41 characters: expected at most 40"),
        (client.post("/v1/ask", {"question": BLANK, "k": 10}), "too_many", "k=10: expected at most 9"),
        (client.post("/v1/search", {"query": "x", "k": 10}), "too_many", "k=10: expected at most 9"),
        (client.get("/v1/documents?limit=6"), "too_many", "expected at most 5"),
        (client.get("/v1/documents/curie/history?limit=6"), "too_many", "expected at most 5"),
    ]:
        assert words in error(response, 422, code)
    assert client.post("/v1/ask", {"questions": [BLANK] * 2, "k": 9}).status_code == 200
    assert client.get("/v1/documents?limit=5").status_code == 200


class Held:
    """A real model whose answers wait until they are let go."""

    def __init__(self, realm: Realm) -> None:
        self.realm, self.let_go, self.asked = realm, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.realm, name)

    def ask_many(self, questions: Sequence[str], *arguments: Any, **options: Any) -> Any:
        self.asked.set()
        assert self.let_go.wait(30)
        return self.realm.ask_many(questions, *arguments, **options)


def test_too_many_at_once_are_told_to_come_back_quickly(serve: Serve, realm: Realm) -> None:
    model = Held(realm)
    client = serve("limits.in_flight=3", model=model)

    async def work(http: httpx.AsyncClient) -> None:
        asked = [asyncio.create_task(http.post("/v1/ask", json={"question": BLANK})) for _ in range(3)]
        await asyncio.to_thread(model.asked.wait, 30)
        began = time.monotonic()
        refused = await http.post("/v1/ask", json={"question": BLANK})
        assert time.monotonic() - began < 2
        assert "3 requests" in error(refused, 503, "busy")
        assert refused.headers["retry-after"] == "1"
        error(await http.get("/v1/documents"), 503, "busy")
        for probe in ("/healthz", "/readyz", "/metrics"):
            assert (await http.get(probe)).status_code == 200
        assert "realm_http_requests_in_flight 3.0" in (await http.get("/metrics")).text
        model.let_go.set()
        assert [response.status_code for response in await asyncio.gather(*asked)] == [200, 200, 200]
        assert (await http.get("/v1/documents")).status_code == 200

    client.run(work)


def test_a_request_that_takes_too_long(serve: Serve, realm: Realm) -> None:
    model = Held(realm)
    client = serve("limits.seconds=0.3", "batching.size=1", model=model)

    async def work(http: httpx.AsyncClient) -> None:
        first, second = await asyncio.gather(
            *(http.post("/v1/ask", json={"question": BLANK}) for _ in range(2)),
        )
        assert "0.3 seconds" in error(first, 504, "too_slow")
        error(second, 504, "too_slow")
        lines = {"Accept": "application/x-ndjson"}
        streamed = await http.post("/v1/ask", json={"questions": [BLANK] * 2}, headers=lines)
        assert [json.loads(line)["error"]["code"] for line in streamed.text.splitlines()] == ["too_slow"] * 2
        assert client.layers.gate.in_flight == 0

    client.run(work)
    model.let_go.set()


def test_a_body_that_comes_too_slowly(serve: Serve) -> None:
    client = serve("limits.seconds=0.2")

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"question": '
        await asyncio.sleep(5)
        yield b'"x"}'

    began = time.monotonic()
    response = client.request("POST", "/v1/ask", content=slowly(), headers={"Content-Type": "application/json"})
    error(response, 408, "slow_body")
    assert time.monotonic() - began < 4


def test_what_is_stopping_takes_nothing_more(serve: Serve, realm: Realm) -> None:
    model = Held(realm)
    client = serve(model=model)

    async def work(http: httpx.AsyncClient) -> None:
        taken = asyncio.create_task(http.post("/v1/ask", json={"question": BLANK}))
        await asyncio.to_thread(model.asked.wait, 30)
        client.layers.gate.stopping = True
        refused = await http.post("/v1/ask", json={"question": BLANK})
        error(refused, 503, "stopping")
        assert refused.headers["retry-after"] == "1"
        error(await http.get("/readyz"), 503, "stopping")
        assert (await http.get("/healthz")).status_code == 200
        model.let_go.set()
        assert (await taken).status_code == 200

    client.run(work)
