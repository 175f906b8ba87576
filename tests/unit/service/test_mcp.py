"""The tools, called by the protocol's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.types import CallToolResult, TextContent
from toy_service import BLANK

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase
from realm.service.core import Service
from realm.service.mcp import build_tools
from realm.service.metrics import Metrics
from realm.service.settings import ServiceConfig
from realm.settings import override
from realm.types import Document


@pytest.fixture
def service(realm: Realm, kb: KnowledgeBase) -> Iterator[Service]:
    opened = Service(lambda: realm, kb, override(ServiceConfig(), ["limits.passages=20"]), Metrics())
    yield opened
    opened.close()


def call(service: Service, *calls: tuple[str, dict[str, Any]]) -> list[CallToolResult]:
    """Calls of tools in one session that begins before the model is open."""

    async def main() -> list[CallToolResult]:
        async with Client(build_tools(service, service.open())) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(main())


def refusal(result: CallToolResult) -> str:
    assert result.is_error and isinstance(result.content[0], TextContent)
    assert "\n" not in result.content[0].text
    return result.content[0].text


def test_an_answer_comes_with_what_it_rests_on(service: Service, kb: KnowledgeBase) -> None:
    (result,) = call(service, ("ask", {"question": BLANK, "k": 3}))
    answer = result.structured_content
    assert answer["knowledge_base_version"] == kb.version
    first = answer["evidence"][0]
    document = kb.get(first["passage"]["document_id"])
    assert document is not None
    if first["span"]:
        start, end = first["span"]
        assert first["passage"]["text"][start:end].casefold() == answer["text"].casefold()


def test_search_and_documents_name_their_versions(service: Service, kb: KnowledgeBase) -> None:
    then = kb.version
    kb.update(Document("curie", "Curie", "Radium was found by Marie Curie in Paris."))
    found, now, before = call(
        service,
        ("search", {"query": "Radium", "by": "words", "k": 1}),
        ("get_document", {"document_id": "curie"}),
        ("get_document", {"document_id": "curie", "as_of": str(then)}),
    )
    assert [hit["document_id"] for hit in found.structured_content["hits"]] == ["curie"]
    assert now.structured_content["document"]["text"].endswith("in Paris.")
    assert before.structured_content["document"]["text"] == "Radium was discovered by Marie Curie."
    assert before.structured_content["version"] == then < now.structured_content["version"]


def test_passages_keep_to_a_source_and_to_days(service: Service, kb: KnowledgeBase, realm: Realm) -> None:
    text = "Guernica was painted by Anna Weir. " * 30
    kb.add([Document("weir", "", text, "news", date(2026, 3, 1))], encoder=realm.passage_encoder)
    days = {"since": "2026-03-01", "until": "2026-03-01"}
    asked, found, words, none, wrong, turned = call(
        service,
        ("ask", {"question": BLANK, "source": "news", "max_per_source": 1}),
        ("search", {"query": BLANK, "k": 20, **days}),
        ("search", {"query": "Guernica", "by": "words", "source": "art", "since": "", "until": ""}),
        ("search", {"query": BLANK, "since": "2026-03-02"}),
        ("search", {"query": BLANK, "since": "March"}),
        ("ask", {"question": BLANK, "since": "2026-03-02", "until": "2026-03-01"}),
    )
    assert [e["passage"]["document_id"] for e in asked.structured_content["evidence"]] == ["weir"]
    assert {hit["document_id"] for hit in found.structured_content["hits"]} == {"weir"}
    assert len(found.structured_content["hits"]) > 1
    assert [hit["document_id"] for hit in words.structured_content["hits"]] == ["guernica"]
    assert none.structured_content["hits"] == []
    assert "expected a day" in refusal(wrong) and "the earlier day first" in refusal(turned)


def test_what_is_refused_is_told_in_one_line(service: Service, kb: KnowledgeBase) -> None:
    missing, empty, many, none, bad = call(
        service,
        ("get_document", {"document_id": "nobody"}),
        ("ask", {"question": " "}),
        ("search", {"query": "Radium", "k": 21}),
        ("search", {"query": "Radium", "k": -1}),
        ("search", {"query": "Radium", "where": "colour = 'red'"}),
    )
    assert "no document 'nobody'" in refusal(missing)
    assert "some words" in refusal(empty)
    assert "at most 20" in refusal(many)
    assert "at least 1" in refusal(none)
    assert "colour" in refusal(bad) and str(kb.path) not in refusal(bad)


def test_nothing_writes(service: Service) -> None:
    async def main() -> list[Any]:
        async with Client(build_tools(service, service.open())) as client:
            return list((await client.list_tools()).tools)

    tools = asyncio.run(main())
    assert {tool.name for tool in tools} == {"ask", "search", "get_document"}
    assert all(tool.annotations.read_only_hint for tool in tools)


def test_what_is_no_error_of_ours_quotes_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("/home/somebody/secret")

    monkeypatch.setattr(service, "search", broken)
    (result,) = call(service, ("search", {"query": "Radium"}))
    assert "the service failed" in refusal(result) and "secret" not in refusal(result)
