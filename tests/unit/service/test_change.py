"""Another model under a running service: asked and edited all the while, nothing fails and nothing is lost."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from toy_service import BLANK, CONFIG, Serve

from realm.answering.ask import Realm
from realm.errors import ArtefactError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.types import Passage


@pytest.fixture
def other(realm: Realm) -> Realm:
    """A model with other parameters."""
    encoder = copy.deepcopy(realm.encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    return Realm(encoder, realm.reader, CONFIG)


class Gated:
    """A model whose encoder of passages waits for the gate."""

    def __init__(self, model: Realm) -> None:
        self.model, self.gate, self.encoding = model, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def passage_encoder(self) -> PassageEncoder:
        real = self.model.passage_encoder

        def encode(passages: Sequence[Passage]) -> np.ndarray:
            self.encoding.set()
            assert self.gate.wait(60)
            return real.encode(passages)

        return PassageEncoder(real.fingerprint, encode)


def test_asked_and_edited_all_the_while(serve: Serve, realm: Realm, other: Realm, kb: KnowledgeBase) -> None:
    models: list[Any] = [realm]
    client = serve(opener=lambda: models[-1])
    service, new = client.service, Gated(other)
    old_name, new_name = realm.passage_encoder.fingerprint, other.passage_encoder.fingerprint
    assert old_name != new_name

    async def work(http: httpx.AsyncClient) -> None:
        over, asked = asyncio.Event(), 0

        async def ask() -> None:
            nonlocal asked
            while not over.is_set():
                response = await http.post("/v1/ask", json={"question": BLANK, "k": 50})
                assert response.status_code == 200, response.text
                asked += 1

        async def index() -> str:
            name: str = (await http.get("/v1/knowledge-base")).json()["index"]["encoder"]
            return name

        asking = asyncio.create_task(ask())
        models.append(new)
        service.change_model()
        assert await asyncio.to_thread(new.encoding.wait, 60)
        assert (await http.put("/v1/documents/danube", json={"text": "The Danube flows elsewhere."})).status_code == 200
        assert (await http.post("/v1/documents", json={"id": "new", "text": "Something new."})).status_code == 201
        assert (await http.delete("/v1/documents/curie")).status_code in (200, 204)
        asked = 0
        while asked < 2:
            await asyncio.sleep(0.01)
        assert await index() == old_name, "the old one answers until the new one knows everything"
        new.gate.set()
        await asyncio.to_thread(service._change.wait)
        assert await index() == new_name
        asked = 0
        while asked < 2:
            await asyncio.sleep(0.01)
        over.set()
        await asking

    client.run(work)
    assert kb.waiting(new_name).passages == 0
    answer = client.post("/v1/ask", json={"question": BLANK, "k": 50}).json()
    texts = {e["passage"]["document_id"]: e["passage"]["text"] for e in answer["evidence"]}
    assert texts["danube"] == "The Danube flows elsewhere." and "new" in texts and "curie" not in texts
    found = service.model.retrieval.search(BLANK, kb, 50)
    query = other.retrieval.query_vectors(BLANK)[0].numpy()
    assert [m.passage.id for m in found] == [m.passage.id for m in kb.search_vectors(query, 50, encoder=new_name)]
    assert client.get("/readyz").status_code == 200


def test_what_can_not_be_opened_changes_nothing(
    serve: Serve, realm: Realm, other: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    opened = [realm]

    def opener() -> Realm:
        if not opened:
            raise ArtefactError("runs/nothing is no run: expected one")
        return opened.pop()

    client = serve(opener=opener)
    client.service.change_model()
    client.service._change.wait()
    assert "the old one goes on: runs/nothing is no run" in caplog.text
    assert client.post("/v1/ask", json={"question": BLANK, "k": 2}).status_code == 200
    opened.append(other)
    client.service.change_model()
    client.service._change.wait()
    assert client.service.model is other


def test_a_change_does_not_hold_up_the_end(serve: Serve, realm: Realm, other: Realm, kb: KnowledgeBase) -> None:
    models: list[Any] = [realm]
    client = serve(opener=lambda: models[-1])
    new = Gated(other)
    models.append(new)
    client.service.change_model()
    assert new.encoding.wait(60)
    ending = threading.Thread(target=client.service.close)
    ending.start()
    assert client.service._closing.wait(60)
    new.gate.set()
    ending.join(60)
    assert not ending.is_alive() and client.service.model is realm
    client.service.change_model()
    client.service._change.wait()
    assert client.service.model is realm, "what has ended begins nothing"
