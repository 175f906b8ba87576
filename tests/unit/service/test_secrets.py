"""What is told to nobody: tokens, files of the machine, how long a comparison took."""

from __future__ import annotations

import ast
import hmac
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_service import BLANK, Serve, error

from realm.knowledge.base import KnowledgeBase
from realm.service import tokens as tokens_module
from realm.service.tokens import Tokens

READ, WRITE = "read-q7Zk2mXw9Lr4", "write-t5Vb8nHc3Jd6"
TOKENS = Tokens(READ, WRITE)
HEADERS = {"Authorization": f"Bearer {WRITE}"}


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("given", [READ, WRITE, "", "x", READ[:-1], WRITE + "x", "é"])
def test_every_comparison_is_the_same_work(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tokens are compared whole, by a function whose time tells nothing of how much is alike; also where the first
    one fits, or none can."""
    compared: list[tuple[bytes, bytes]] = []
    whole = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return whole(a, b)

    monkeypatch.setattr(tokens_module.hmac, "compare_digest", counting)
    found = given.encode()
    assert TOKENS.allow(given) == {READ: "read", WRITE: "write"}.get(given, "nothing")
    assert compared == [(found, WRITE.encode()), (found, READ.encode())]


def test_tokens_are_compared_nowhere_else(repository: Path) -> None:
    """No `==` on a token in the service."""
    for file in (repository / "realm" / "service").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                names = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
                assert not names & {"authorization", "token"}, f"{file.name}:{node.lineno}"


def test_no_token_is_in_a_log_a_trace_or_an_answer(
    serve: Serve, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every level of every logger, in what is answered, and in the trace of a defect."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, "httpx")  # the client's own, which tells what it asks
    client = serve(host="0.0.0.0", tokens=TOKENS)
    answers = [
        client.get("/v1/documents", headers=HEADERS),
        client.get("/v1/documents", headers={"Authorization": f"Basic {WRITE}"}),
        client.get(f"/v1/documents?token={WRITE}&access_token={READ}", headers=HEADERS),
        client.get("/metrics", headers=HEADERS),
        client.get("/openapi.json", headers=HEADERS),
        client.post("/v1/ask", {"question": BLANK, "token": READ}, headers=HEADERS),
        client.request("POST", "/v1/ask", content=b"{", headers={**HEADERS, "Content-Type": "application/json"}),
        client.delete("/v1/documents/curie", headers={"Authorization": f"Bearer {READ}"}),
    ]

    def broken(*arguments: Any) -> Any:
        raise ValueError("a defect")

    monkeypatch.setattr(client.service, "get", broken)
    answers.append(client.get("/v1/documents/curie", headers=HEADERS))
    assert [answer.status_code for answer in answers] == [200, 401, 200, 200, 200, 422, 422, 403, 500]
    told = caplog.text + "".join(capsys.readouterr())
    assert "ValueError: a defect" in told and "Traceback" in told
    for answer in answers:
        told += answer.text + str(answer.headers)
    (record,) = [record for record in caplog.records if record.exc_info]
    told += "".join(traceback.format_exception(record.exc_info[1]))  # type: ignore[index]
    for token in (READ, WRITE, TOKENS.read[5:], TOKENS.write[6:]):
        assert token not in told
        assert token not in repr(TOKENS) + str(TOKENS) + repr(client.layers.gate.tokens) + f"{vars(client.service)}"


# ---------------------------------------------------------------- the machine


class Opened:
    """Files that Python opens, folders that it lists, while it is on. An audit hook can't be taken away again."""

    def __init__(self) -> None:
        self.on, self.names = False, list[str]()
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (event.startswith(("open", "os.", "shutil.", "subprocess.", "glob.", "import"))):
            self.names += [str(argument) for argument in arguments]


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    found = Opened()
    yield found
    found.on = False


MARK = "s3cr3tname"
PLACES = [
    f"../../{MARK}",
    f"/{MARK}",
    f"..%2f..%2f{MARK}",
    f"%2e%2e/%2e%2e/{MARK}",
    f"....//{MARK}",
    f"file:///{MARK}",
    f"~/{MARK}",
    f"C:\\{MARK}",
    f"\\\\host\\{MARK}",
    f"{MARK}.lance",
    f"{MARK}%00.txt",
    f"$({MARK})",
    f"{MARK}; touch {MARK}",
]


@pytest.mark.parametrize("place", PLACES)
def test_no_path_of_a_request_reaches_the_file_system(
    serve: Serve, kb: KnowledgeBase, opened: Opened, place: str
) -> None:
    """Neither from an address nor from a body; and what the store writes in files of its own has no name from there."""
    client = serve()
    opened.names.clear()
    opened.on = True
    try:
        asked = [client.get(f"/{prefix}{place}") for prefix in ("", "page/", "v1/", "v1/documents/")]
        asked += [client.get(f"/v1/documents/{place}/history"), client.get("/v1/documents", params={"as_of": place})]
        asked += [client.get("/v1/documents", params={"where": f"source = '{place}'", "cursor": place})]
        asked += [client.post("/v1/documents", {"id": place, "text": place, "source": place, "url": place})]
        asked += [client.post("/v1/ask", {"question": f"{place} [MASK]", "where": f"url = '{place}'"})]
        asked += [client.post("/v1/search", {"query": place, "by": "words"}), client.delete(f"/v1/documents/{place}")]
    finally:
        opened.on = False
    assert max(answer.status_code for answer in asked) < 500
    assert opened.names, "the hook hears what is opened"
    assert not [name for name in opened.names if MARK in name]
    around = [str(path) for path in kb.path.parent.rglob("*")]
    assert around and not [path for path in around if MARK in path]


# ---------------------------------------------------------------- predicates and ids, as far as the store


@pytest.mark.parametrize(
    "attack",
    ["x' OR '1'='1", "x'; DROP TABLE passages; --", "x') OR (document_id LIKE '%", "' OR true OR '", "\\' OR true --"],
)
def test_an_attack_on_the_query_changes_and_shows_nothing(serve: Serve, kb: KnowledgeBase, attack: str) -> None:
    """In ids, which the service quotes itself, and in predicates, as a value and as it is."""
    client = serve()
    before = list(kb.documents())
    quoted = "".join(f"%{byte:02X}" for byte in attack.encode())
    for response in (
        client.get(f"/v1/documents/{quoted}"),
        client.delete(f"/v1/documents/{quoted}"),
        client.put(f"/v1/documents/{quoted}", {"text": "mine"}),
        client.post(f"/v1/documents/{quoted}/restore", {"as_of": kb.version}),
        client.get(f"/v1/documents/{quoted}/history"),
    ):
        error(response, 404, "no_such_document")
    value = attack.replace("'", "''")
    found = client.get("/v1/documents", params={"where": f"source = '{value}' or title = '{value}'"})
    assert found.status_code == 200 and found.json()["documents"] == []
    for body in ({"query": "painted", "where": f"source = '{attack}'"}, {"query": "painted", "where": attack}):
        response = client.post("/v1/search", body)
        if response.status_code == 200:  # `'x' OR '1'='1'` with a column before it: refused, or without a row
            assert response.json()["hits"] == [], json.dumps(body)
        else:
            error(response, 400, "bad_predicate")
    assert list(kb.documents()) == before
    assert client.post("/v1/documents", {"id": attack, "text": "Whole."}).status_code == 201
    assert client.get(f"/v1/documents/{quoted}").json()["document"]["text"] == "Whole."
    assert client.delete(f"/v1/documents/{quoted}").json()["deleted"] == 1
    assert list(kb.documents()) == before
