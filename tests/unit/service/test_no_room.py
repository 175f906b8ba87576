"""A disk that is full, and a store that can only be read: one line, nothing lost, and on when it can be written."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import places
import pytest
import story
import torch
from toy_service import BLANK, CONFIG, DOCUMENTS, Client, Serve, error

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.syncing import sync
from realm.knowledge.table import writing
from realm.knowledge.table.store import DiskFullError, ReadOnlyError, Store
from realm.types import Document
from realm.workflows.store import open_knowledge_base

pytestmark = pytest.mark.slow

NEW = {"id": "seoul", "text": "The river Han runs through Seoul."}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[places.Disk]:
    with places.small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def kb(template: Path, disk: places.Disk) -> KnowledgeBase:
    return open_knowledge_base(shutil.copytree(template, disk.folder / "kb"), lock_timeout=1.0)


def refused(client: Client, status: int, code: str) -> list[str]:
    """What every kind of edit is answered."""
    responses = (
        client.post("/v1/documents", NEW),
        client.put("/v1/documents/curie", {"text": "Polonium was discovered by Marie Curie."}),
        client.delete("/v1/documents/curie"),
    )
    return [error(response, status, code) for response in responses]


def becomes_ready(client: Client) -> bool:
    """A probe finds what is not embedded, and the next ones how that ended."""
    until = time.monotonic() + 60
    while client.get("/readyz").status_code != 200 and time.monotonic() < until:
        time.sleep(0.05)
    return client.get("/readyz").status_code == 200


def test_a_full_disk_refuses_edits_and_answers_questions(
    client: Client, kb: KnowledgeBase, realm: Realm, disk: places.Disk
) -> None:
    assert client.put("/v1/documents/guernica", {"text": "Guernica was painted by Anna Weir."}).status_code == 200
    before, version = list(kb.documents()), kb.version
    disk.fill()
    for message in refused(client, 507, "disk_full"):
        assert "free some space" in message and str(kb.path) not in message and "kb" not in message
    answer = client.post("/v1/ask", {"question": BLANK, "k": 3}).json()
    assert answer["knowledge_base_version"] == version and answer["evidence"]
    assert client.get("/v1/documents/curie").status_code == client.get("/readyz").status_code == 200
    assert list(open_knowledge_base(kb.path).documents()) == before and kb.version == version
    disk.free()
    assert client.post("/v1/documents", NEW).status_code == 201
    assert client.delete("/v1/documents/curie").status_code == 200
    documents = {document.id: document for document in open_knowledge_base(kb.path).documents()}
    assert documents.keys() == {"guernica", "danube", "seoul"}
    assert all(documents[document.id] == document for document in before if document.id != "curie")
    assert kb.waiting(realm.passage_encoder.fingerprint).passages == 0
    answer = client.post("/v1/ask", {"question": BLANK, "k": 50}).json()
    assert {e["passage"]["document_id"] for e in answer["evidence"]} == documents.keys()


def test_a_disk_that_fills_up_meanwhile_leaves_whole_documents(
    kb: KnowledgeBase, realm: Realm, disk: places.Disk
) -> None:
    """However much room there is: none for the rows, none for the manifest, enough for some commits."""
    encoder, number, full = realm.passage_encoder, 0, 0
    for blocks in range(0, 24, 3):
        disk.fill(free=4096 * blocks)
        try:
            while number < 200:
                number += 1
                kb.update(Document("curie", f"{number}", f"Curie {number}."), encoder=encoder)
        except DiskFullError:
            full += 1
            number -= 1
        disk.free()
        found = open_knowledge_base(kb.path).get("curie")
        assert found is not None and found.title in ("Curie", f"{number}") and (found.title == "Curie") == (number == 0)
        assert len(list(kb.passages())) == kb.num_passages(), "no passage of another edition"
        assert kb.waiting(encoder.fingerprint).passages == 0
    assert full == 8 and number > 0
    data = kb.path / "passages.lance" / "data"
    left = len(list(data.iterdir()))
    kb.compact()
    assert len(list(data.iterdir())) < left, "what refused edits left is taken away"
    for version in kb.versions():
        assert len(list(kb.at(version.version).documents())) == len(kb.at(version.version)), "and nothing else"


def test_an_ingest_a_sync_and_an_embedding_go_on_when_there_is_room(
    kb: KnowledgeBase, realm: Realm, disk: places.Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BATCH_DOCUMENTS", 2)
    many = [Document(f"m{i:02d}", "", f"Town {i} lies on the river Han.") for i in range(40)]
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.txt").write_text(f"File {i} tells of Vienna.")
    other = PassageEncoder("other", lambda passages: np.ones((len(passages), 64), np.float32))
    disk.fill(free=90_000)
    with pytest.raises(DiskFullError, match="everything committed is still there"):
        kb.upsert(many)
    here = [document.id for document in kb.documents() if document.id.startswith("m")]
    assert 0 < len(here) < 40 and here == [document.id for document in many[: len(here)]] and len(here) % 2 == 0
    disk.fill()
    with pytest.raises(DiskFullError):
        sync(kb, folder)
    with pytest.raises(DiskFullError):
        kb.embed_missing(other)
    disk.free()
    assert kb.upsert(many).added == 40 - len(here)
    assert sync(kb, folder).added == 6
    assert kb.embed_missing(other) == kb.num_passages()
    assert {document.id for document in kb.documents()} == {d.id for d in [*DOCUMENTS, *many]} | {
        f"{i}.txt" for i in range(6)
    }


def test_passages_without_a_vector_are_embedded_in_memory_where_none_can_be_written(
    serve: Serve, kb: KnowledgeBase, disk: places.Disk, caplog: pytest.LogCaptureFixture
) -> None:
    kb.add([Document("weir", "", "Guernica was painted by Anna Weir.")])
    disk.fill()
    with caplog.at_level(logging.WARNING, "realm.service"):
        client = serve()
    assert "not embedded: the disk is full" in caplog.text
    answer = client.post("/v1/ask", {"question": BLANK, "k": 50})
    assert answer.status_code == 200, answer.text
    assert {e["passage"]["document_id"] for e in answer.json()["evidence"]} >= {"weir", "guernica"}
    assert becomes_ready(client)
    disk.free()
    assert client.post("/v1/documents", NEW).status_code == 201
    answer = client.post("/v1/ask", {"question": BLANK, "k": 50}).json()
    assert {e["passage"]["document_id"] for e in answer["evidence"]} >= {"weir", "guernica", "seoul"}
    (encoder,) = kb.encoders()
    assert kb.waiting(encoder).passages == 0, "and they are written at the first question that can"


def test_a_read_only_store_answers_and_refuses_edits(
    client: Client, kb: KnowledgeBase, realm: Realm, tmp_path: Path
) -> None:
    before = list(kb.documents())
    with places.mounted_read_only(kb.path):
        for message in refused(client, 403, "read_only"):
            assert "read-only file system" in message and str(kb.path) not in message
        answer = client.post("/v1/ask", {"question": BLANK, "k": 3})
        assert answer.status_code == 200 and answer.json()["evidence"]
        assert client.get("/readyz").status_code == 200
        assert list(open_knowledge_base(kb.path).documents()) == before
        with pytest.raises(ReadOnlyError):
            kb.compact()
        code, line = story.error("docs", "delete", "curie", "--kb", kb.path)
        assert code == 1 and "can't be written (read-only file system)" in line
        assert story.result("docs", "list", "--kb", kb.path)["total"] == len(before)
    assert client.delete("/v1/documents/curie").status_code == 200


def test_another_model_answers_from_a_store_that_can_not_be_written(
    serve: Serve, kb: KnowledgeBase, realm: Realm, disk: places.Disk
) -> None:
    kb.add([Document("weir", "", "Guernica was painted by Anna Weir.")])
    encoder = copy.deepcopy(realm.encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    models = [realm]
    with places.mounted_read_only(kb.path):
        client = serve(opener=lambda: models[-1])
        assert client.get("/readyz").status_code == 200, "at the first look"
        models.append(Realm(encoder, realm.reader, CONFIG))
        client.service.change_model()
        client.service._change.wait()
        assert client.service.model is models[1]
        made = list[int]()
        real = encoder.encode_passages
        encoder.encode_passages = lambda tokens: made.append(len(tokens)) or real(tokens)  # type: ignore[assignment]
        assert client.get("/readyz").status_code == 200
        answer = client.post("/v1/ask", {"question": BLANK, "k": 50}).json()
        assert {e["passage"]["document_id"] for e in answer["evidence"]} >= {"weir", "guernica"}
        assert max(made) == 1, "no vector but that of the null passage is made while a question waits"
        expected = {match.passage.id: match.score for match in models[1].search(BLANK, kb, 50)}
    assert {e["passage"]["id"]: e["score"] for e in answer["evidence"]} == pytest.approx(expected, abs=1e-4)


def test_somebody_else_who_writes_for_long_stops_no_question(serve: Serve, kb: KnowledgeBase) -> None:
    kb.add([Document("weir", "", "Guernica was painted by Anna Weir.")])
    with Store(kb.path).writing(5.0):
        client = serve()
        response = client.delete("/v1/documents/curie")
        assert "somebody else is writing" in error(response, 503, "busy") and response.headers["retry-after"]
        answer = client.post("/v1/ask", {"question": BLANK, "k": 50})
        assert answer.status_code == 200, answer.text
        assert "weir" in {e["passage"]["document_id"] for e in answer.json()["evidence"]}
        assert client.get("/readyz").status_code == 503
    assert client.delete("/v1/documents/curie").status_code == 200
    assert becomes_ready(client)


def test_a_server_says_at_its_start_that_it_can_not_write(kb: KnowledgeBase, realm: Realm, tmp_path: Path) -> None:
    kb.add([Document("weir", "", "Guernica was painted by Anna Weir.")])  # has no vector, and will get none
    realm.save_pretrained(tmp_path / "model")
    with places.mounted_read_only(kb.path):
        process = story.start("serve", "--model", tmp_path / "model", "--kb", kb.path, "--port", "0")
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        process.kill()
        process.communicate()
    assert lines[0].startswith("listening on ")
    assert "edits will be refused" in lines[1] and "read-only file system" in lines[1]


def test_what_this_user_may_not_write_is_told_in_one_line(template: Path, tmp_path: Path) -> None:
    """Without the right to go past permissions, which root has."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this system")
    kb = shutil.copytree(template, tmp_path / "kb")
    for place in (kb, *kb.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    command = [sys.executable, "-W", "error", "-c", "from realm.cli import main; main()", "docs", "delete", "curie"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([*command, "--kb", str(kb)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "can't be written (permission denied)" in done.stderr
    assert [document.id for document in open_knowledge_base(kb).documents()] == [d.id for d in DOCUMENTS]
