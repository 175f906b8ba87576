"""The Haystack component, in a pipeline of Haystack's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from realm.answering.ask import Realm
from realm.answering.constraints import Constraints
from realm.errors import ArtefactError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.types import Document

DENIED = Constraints(deny=("seoul",))
QUERY = "The river Han runs through Seoul."


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Haystack tells its makers of pipelines that run, unless it is told not to."""
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    pytest.importorskip("haystack", reason="needs the extra `haystack`")


def retriever(model: Any, kb: Any, **settings: Any) -> Any:
    from realm.adapters.haystack import RealmRetriever

    return RealmRetriever(model, kb, **settings)


def test_it_finds_what_the_model_finds_and_tells_where_it_stands(model: Realm, kb: KnowledgeBase) -> None:
    found = retriever(model, kb, k=3).run(QUERY)["documents"]
    expected = model.search(QUERY, kb, 3)
    assert [one.id for one in found] == [match.passage.id for match in expected]
    assert [one.score for one in found] == pytest.approx([match.score for match in expected])
    for one in found:
        document = kb.get(one.meta["document_id"])
        assert document and document.text[one.meta["start"] : one.meta["end"]] == one.content
        assert one.meta["title"] == document.title
    (dated,) = retriever(model, kb, where="url is not null", k=1).run(QUERY)["documents"]
    assert (dated.meta["date"], dated.meta["source"]) == ("2024-05-01", "geo")


def test_predicates_versions_and_edits_also_of_one_run(model: Realm, kb: KnowledgeBase) -> None:
    first, mine = kb.version, retriever(model, kb, k=1, where="source = 'art'")
    assert [one.meta["document_id"] for one in mine.run(QUERY)["documents"]] == ["guernica"]
    kb.update(Document("guernica", "Guernica", "Guernica was painted by Joan Miró.", source="art"))
    assert "Miró" in mine.run(QUERY)["documents"][0].content
    assert "Picasso" in mine.run(QUERY, as_of=first)["documents"][0].content
    assert {one.meta["source"] for one in mine.run(QUERY, k=9, where="source <> 'art'")["documents"]} == {
        "geo",
        "science",
    }
    for wrong in ({"k": 0}, {"query": " "}):
        with pytest.raises(UsageError):
            mine.run(**{"query": QUERY, **wrong})


def test_it_stands_in_a_pipeline(model: Realm, kb: KnowledgeBase) -> None:
    import haystack
    from haystack.components.joiners import DocumentJoiner

    def wired(pipeline: Any) -> Any:
        pipeline.add_component("found", retriever(model, kb, k=2))
        pipeline.add_component("joined", DocumentJoiner())
        pipeline.connect("found.documents", "joined.documents")
        return pipeline

    alone = [one.id for one in retriever(model, kb, k=2).run(QUERY)["documents"]]
    asked = {"found": {"query": QUERY}}
    assert [one.id for one in wired(haystack.Pipeline()).run(asked)["joined"]["documents"]] == alone
    pipeline = getattr(haystack, "AsyncPipeline", haystack.Pipeline)()  # one class from version 3 on
    assert [one.id for one in asyncio.run(wired(pipeline).run_async(asked))["joined"]["documents"]] == alone


def test_paths_are_opened_when_they_are_needed_and_written_down(
    model: Realm, kb: KnowledgeBase, tmp_path: Path
) -> None:
    from haystack import Pipeline
    from haystack.core import serialization

    # From version 3 on what a file may name has to be allowed by whoever reads it.
    getattr(serialization, "allow_deserialization_module", lambda name: None)("realm.adapters.haystack")
    model.save_pretrained(tmp_path / "model")
    pipeline = Pipeline()
    pipeline.add_component("found", retriever(tmp_path / "model", kb.path, where="source = 'geo'", constraints=DENIED))
    again = Pipeline.loads(pipeline.dumps())
    found = again.run({"found": {"query": QUERY}})["found"]["documents"]
    assert {one.meta["document_id"] for one in found} == {"danube"}
    with pytest.raises(UsageError, match="expected their paths"):
        retriever(model, kb).to_dict()
    with pytest.raises(ArtefactError):
        retriever(tmp_path / "nothing", kb.path).warm_up()
