"""A knowledge base in an object store does what one in a folder does. The store is a double of S3 on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
import story
import tiny
from toy_realm import networks
from toy_service import BLANK, CONFIG, DOCUMENTS, Client

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.snapshot import Snapshot
from realm.service.core import Service
from realm.service.metrics import Metrics
from realm.service.server import guarded
from realm.service.settings import ServiceConfig
from realm.types import Document
from realm.workflows.store import create_or_open, open_knowledge_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|botocore|werkzeug)"),
]


def encode(passages: Any) -> np.ndarray:
    return np.array([[len(passage.text), 1.0] for passage in passages])


ENCODER = PassageEncoder("e", encode)


def edit(kb: KnowledgeBase) -> None:
    """One of each."""
    kb.add([Document("a", "Seine", "The Seine flows. Paris stands there.", source="geo"), Document("b", "", "gone.")])
    kb.upsert([Document("c", "Han", "The Han flows. Seoul stands there.", metadata={"length": 494})], encoder=ENCODER)
    kb.update(Document("a", "Seine", "The Seine flows. Rouen stands there.", source="geo"), encoder=ENCODER)
    kb.delete("b")
    kb.restore("a", kb.version - 2, encoder=ENCODER)
    kb.embed_missing(ENCODER)
    kb.compact()


def told(kb: KnowledgeBase) -> list[Any]:
    """What a knowledge base answers, but for times."""
    history = [
        [(r.version, r.revision, r.change, r.num_passages, r.title) for r in kb.history(name)]
        for name in ("a", "b", "c")
    ]
    return [
        kb.version,
        kb.content_version,
        list(kb.documents()),
        list(kb.passages("source = 'geo'")),
        history,
        kb.search_text("flows"),
        kb.search_vectors(np.array([1.0, 0.0]), k=9),
        [[document.text for document in kb.at(version).documents()] for version in range(6, kb.version + 1)],
        kb.columns(),
        kb.encoders(),
    ]


def test_the_same_work_gives_the_same_as_in_a_folder(bucket: str, tmp_path: Path) -> None:
    bases = [
        KnowledgeBase.create(place, split=dots.split, splitter=dots.SETTINGS)
        for place in (tmp_path / "kb", f"{bucket}/kb")
    ]
    for kb in bases:
        edit(kb)
    folder, store = bases
    assert told(store) == told(folder)
    assert told(KnowledgeBase.open(f"{bucket}/kb")) == told(folder)
    assert store.address == f"{bucket}/kb" and store.splitter == dots.SETTINGS
    assert tmp_path / "cache" in store.path.parents
    between = store.history("a")[1].time
    assert store.at(between).get("a") == folder.at(folder.history("a")[1].time).get("a")
    store.upkeep.leave_to_tidy()
    gone = store.upkeep.reclaim(keep_versions=1)
    assert gone.bytes is None and len(list(store.documents())) == 2


def test_a_snapshot_is_the_same_as_from_a_folder(bucket: str, tmp_path: Path) -> None:
    bert = story.write_model(tmp_path / "bert")
    rows = story.write_documents(tmp_path / "towns.jsonl")
    found = []
    for place in (str(tmp_path / "kb"), f"{bucket}/kb"):
        story.result("ingest", rows, "--kb", place, "--max-tokens", "40", "--tokenizer", bert)
        kb = KnowledgeBase.open(place)
        found.append(Snapshot.build(kb, bert, tmp_path / "snapshots" / str(len(found))))
    assert found[0].fingerprint == found[1].fingerprint and len(found[0]) == len(found[1]) == 24
    facts = story.result("show", tmp_path / "snapshots" / "1")
    assert facts["made_from"].startswith(f"{bucket}/kb, version")


def test_every_verb_takes_an_address(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert = story.write_model(tmp_path / "bert")
    rows = story.write_documents(tmp_path / "towns.jsonl")
    kb = f"{bucket}/deep/kb"
    made = story.result("ingest", rows, "--kb", kb, "--max-tokens", "40", "--tokenizer", bert)
    assert made["added"] == len(story.TOWNS)
    assert story.result("ingest", rows, "--kb", kb, "--sync", "--max-tokens", "40", "--tokenizer", bert)["added"] == 0
    # On another machine: with neither a cache nor the tokenizer's own place, an edit is cut as the ingest was.
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "other"))
    bert.rename(tmp_path / "moved")
    (tmp_path / "new.txt").write_text("Xanadu lies nowhere. " * 20)
    story.result("docs", "add", tmp_path / "new.txt", "--kb", kb)
    (new,) = (d["id"] for d in story.result("docs", "list", "--kb", kb)["documents"] if d["id"] not in _ids())
    story.result("docs", "update", new, "--kb", kb, "--replace", "nowhere=>somewhere")
    assert "somewhere" in str(story.result("search", "Xanadu", "--kb", kb))
    story.result("docs", "delete", new, "--kb", kb)
    assert [r["change"] for r in story.result("docs", "history", new, "--kb", kb)] == ["added", "updated", "deleted"]
    before = story.result("docs", "list", "--kb", kb)["version"]
    story.result("docs", "restore", new, "--as-of", str(before - 1), "--kb", kb)
    assert story.result("docs", "list", "--kb", kb, "--as-of", str(before))["total"] == len(story.TOWNS)
    assert story.result("docs", "compact", "--kb", kb, "--keep-versions", "1")["bytes_freed"] is None
    facts = story.result("show", kb)
    assert facts["path"] == kb and facts["documents"] == len(story.TOWNS) + 1
    assert not (tmp_path / "s3:").exists()


def _ids() -> set[str]:
    return {row["id"] for row in story.documents()}


def test_a_model_is_trained_and_asked_from_a_store(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert, kb, run = story.write_model(tmp_path / "bert"), f"{bucket}/kb", tmp_path / "run"
    story.result("ingest", story.write_documents(tmp_path / "towns.jsonl"), "--kb", kb, "--tokenizer", bert)
    settings = story.settings(bert, ict__steps="1", realm__steps="2")
    trained = story.result("pretrain", "--kb", kb, "--out", run, *settings)
    assert json.loads((run / "run.json").read_text())["parents"]["knowledge_base"] == kb
    assert story.result("pretrain", run)["figures"] == trained["figures"], (
        "found again by its address, nothing left to do"
    )
    question = "The bridge of Almby was painted by [MASK] in 1800."
    answer = story.result("ask", question, "--kb", kb, "--model", run)
    before = {e["passage"]["title"]: e["document_version"] for e in answer["evidence"]}
    (title,) = list(before)[:1]
    edited = story.result("docs", "update", title.lower(), "--kb", kb, "--replace", "painted by=>painted for")
    again = story.result("ask", question, "--kb", kb, "--model", run, "--k", "24")
    assert {e["passage"]["title"]: e["document_version"] for e in again["evidence"]}[title] == edited["version"]
    past = story.result("ask", question, "--kb", kb, "--model", run, "--as-of", str(edited["version"] - 1))
    assert {e["passage"]["title"]: e["document_version"] for e in past["evidence"]} == before
    for file in [*run.rglob("*.json*"), *(tmp_path / "cache").rglob("*.json")]:
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in file.read_text()


def test_a_service_answers_and_edits(bucket: str, tmp_path: Path) -> None:
    bert = tiny.tiny_bert(tmp_path / "bert")
    create_or_open(f"{bucket}/kb", passages="sentences", max_tokens=40, tokenizer=str(bert)).add(DOCUMENTS)
    kb = open_knowledge_base(f"{bucket}/kb")
    service = Service(lambda: Realm(*networks(bert), CONFIG), kb, ServiceConfig(), Metrics(), list)
    client = Client(guarded(service, host="127.0.0.1", tokens=None), service)
    service.open().result()
    try:
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/documents/curie").json()["document"]["text"] == DOCUMENTS[1].text
        open_knowledge_base(kb.address).add([Document("new", "", "Guernica was painted by Anna Weir.")])
        asked = client.post("/v1/ask", {"question": BLANK, "k": 50}).json()
        assert "new" in {e["passage"]["document_id"] for e in asked["evidence"]}, "another process's edit is seen"
        assert client.delete("/v1/documents/new").status_code == 200
        refused = client.get("/v1/documents/nobody/history")
        assert refused.status_code == 404 and kb.address not in refused.text
    finally:
        service.close()


def test_nothing_of_the_store_is_needed_where_there_is_none(tmp_path: Path) -> None:
    """The code for object stores is not loaded for a folder."""
    work = (
        "import sys; from realm.knowledge.base import KnowledgeBase; KnowledgeBase.create(sys.argv[1]); "
        "assert 'realm.knowledge.table.objects' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", work, str(tmp_path / "kb")], check=True, env=environment)
