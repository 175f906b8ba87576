"""The LlamaIndex retriever, in LlamaIndex itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realm.answering.ask import Realm
from realm.answering.constraints import Constraints
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.types import Document

pytest.importorskip("llama_index.core", reason="needs the extra `llamaindex`")
QUERY = "The river Han runs through Seoul."


def retriever(model: Realm, kb: KnowledgeBase, **settings: Any) -> Any:
    from realm.adapters.llamaindex import RealmRetriever

    return RealmRetriever(model, kb, **settings)


def test_it_finds_what_the_model_finds_and_tells_where_it_stands(model: Realm, kb: KnowledgeBase) -> None:
    found = retriever(model, kb, k=3).retrieve(QUERY)
    expected = model.search(QUERY, kb, 3)
    assert [one.node.node_id for one in found] == [match.passage.id for match in expected]
    assert [one.score for one in found] == pytest.approx([match.score for match in expected])
    for one in found:
        document = kb.get(one.node.ref_doc_id)
        assert document and document.text[one.node.start_char_idx : one.node.end_char_idx] == one.node.text
        assert one.node.metadata["document_id"] == document.id and one.node.metadata["title"] == document.title
    (dated,) = retriever(model, kb, where="url is not null", k=1).retrieve(QUERY)
    shown = dated.node.get_content(metadata_mode="llm")
    assert "title: Seoul" in shown and "date: 2024-05-01" in shown and "score" not in shown


def test_predicates_versions_and_edits(model: Realm, kb: KnowledgeBase) -> None:
    first = kb.version
    now, then = retriever(model, kb, k=1, where="source = 'art'"), retriever(model, kb, k=9, as_of=first)
    assert [one.node.ref_doc_id for one in now.retrieve(QUERY)] == ["guernica"]
    kb.update(Document("guernica", "Guernica", "Guernica was painted by Joan Miró.", source="art"))
    (found,) = now.retrieve(QUERY)
    assert "Miró" in found.node.text and found.node.metadata["document_version"] > first
    assert not any("Miró" in one.node.text for one in then.retrieve(QUERY))
    few = retriever(model, kb, k=9, constraints=Constraints(deny=("seoul", "curie"), max_per_document=1))
    assert sorted(one.node.ref_doc_id for one in few.retrieve(QUERY)) == ["danube", "guernica"]
    with pytest.raises(UsageError, match="k=0"):
        retriever(model, kb, k=0)
    with pytest.raises(UsageError, match="empty query"):
        now.retrieve(" ")


def test_it_can_be_awaited_and_stands_in_a_query_engine(model: Realm, kb: KnowledgeBase) -> None:
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import get_response_synthesizer

    mine = retriever(model, kb, k=2)
    assert [n.node_id for n in asyncio.run(mine.aretrieve(QUERY))] == [n.node_id for n in mine.retrieve(QUERY)]
    synthesizer = get_response_synthesizer(llm=MockLLM(), response_mode="compact")
    answered: Any = RetrieverQueryEngine(mine, response_synthesizer=synthesizer).query(QUERY)
    assert [n.node_id for n in answered.source_nodes] == [n.node_id for n in mine.retrieve(QUERY)]
    assert answered.source_nodes[0].node.text in str(answered)  # what that model says is what it was given to read
