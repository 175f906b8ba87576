"""The LangChain retriever, in LangChain itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realm.answering.ask import Realm
from realm.answering.constraints import Constraints
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.types import Document

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
QUERY = "The river Han runs through Seoul."


def retriever(model: Realm, kb: KnowledgeBase, **settings: Any) -> Any:
    from realm.adapters.langchain import RealmRetriever

    return RealmRetriever(model=model, kb=kb, **settings)


def test_it_finds_what_the_model_finds_and_tells_where_it_stands(model: Realm, kb: KnowledgeBase) -> None:
    found = retriever(model, kb, k=3).invoke(QUERY)
    expected = model.search(QUERY, kb, 3)
    assert [one.id for one in found] == [match.passage.id for match in expected]
    assert [one.metadata["score"] for one in found] == pytest.approx([match.score for match in expected])
    for one in found:
        told = one.metadata
        document = kb.get(told["document_id"])
        assert document and document.text[told["start"] : told["end"]] == one.page_content
    (dated,) = retriever(model, kb, where="url is not null", k=1).invoke(QUERY)
    assert {name: dated.metadata[name] for name in ("document_id", "title", "source", "date", "url")} == {
        "document_id": "seoul",
        "title": "Seoul",
        "source": "geo",
        "date": "2024-05-01",
        "url": "https://example.org/seoul",
    }
    assert dated.metadata["document_version"] == expected[0].document_version


def test_predicates_versions_and_edits(model: Realm, kb: KnowledgeBase) -> None:
    first = kb.version
    now, then = retriever(model, kb, k=1, where="source = 'art'"), retriever(model, kb, k=9, as_of=first)
    assert [one.metadata["document_id"] for one in now.invoke(QUERY)] == ["guernica"]
    kb.update(Document("guernica", "Guernica", "Guernica was painted by Joan Miró.", source="art"))
    (found,) = now.invoke(QUERY)
    assert "Miró" in found.page_content and found.metadata["document_version"] > first
    assert not any("Miró" in one.page_content for one in then.invoke(QUERY))
    few = retriever(model, kb, k=9, constraints=Constraints(deny=("seoul", "curie"), max_per_document=1))
    assert sorted(one.metadata["document_id"] for one in few.invoke(QUERY)) == ["danube", "guernica"]
    with pytest.raises(UsageError, match="k=0"):
        retriever(model, kb, k=0)
    with pytest.raises(UsageError, match="empty query"):
        now.invoke(" ")
    with pytest.raises(ValueError, match="instance of KnowledgeBase"):
        retriever(model, "kb")


def test_it_is_a_runnable(model: Realm, kb: KnowledgeBase) -> None:
    """In a chain, in a batch, and awaited."""
    mine = retriever(model, kb, k=2)
    chain = mine | (lambda documents: [one.metadata["title"] for one in documents])
    titles = chain.invoke(QUERY)
    assert len(titles) == 2
    assert mine.batch([QUERY, "radium"])[0] == mine.invoke(QUERY) == asyncio.run(mine.ainvoke(QUERY))
