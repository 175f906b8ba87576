"""Questions and edits at the same time: no error, nothing stale, no question that waits for an edit's encoding."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from toy_service import BLANK, Client, Serve

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.types import Document, Passage

ASKERS, EDITORS, ROUNDS = 4, 2, 5


def test_what_was_acknowledged_is_seen_by_everybody(client: Client, kb: KnowledgeBase, realm: Realm) -> None:
    acknowledged: dict[str, tuple[int, str]] = {}
    left = EDITORS

    async def edit(http: httpx.AsyncClient, number: int) -> None:
        nonlocal left
        for round_ in range(ROUNDS):
            name, text = f"e{number}", f"Edition {round_} of {number} was painted by Pablo Picasso."
            if round_ == 0:
                response = await http.post("/v1/documents", json={"id": name, "text": text})
            else:
                response = await http.put(f"/v1/documents/{name}", json={"text": text})
            assert response.status_code in (200, 201), response.text
            acknowledged[name] = (response.json()["version"], text)
        left -= 1

    async def ask(http: httpx.AsyncClient) -> int:
        asked = 0
        while left:
            before = dict(acknowledged)
            response = await http.post("/v1/ask", json={"question": BLANK, "k": 50})
            assert response.status_code == 200, response.text
            answer = response.json()
            texts = {e["passage"]["document_id"]: e["passage"]["text"] for e in answer["evidence"]}
            for name, (version, text) in before.items():
                assert answer["knowledge_base_version"] >= version
                # A later edition may have come meanwhile, an earlier one must not.
                assert texts[name].split()[1] >= text.split()[1]
            asked += 1
        return asked

    async def work(http: httpx.AsyncClient) -> None:
        *_, asked = await asyncio.gather(*(edit(http, i) for i in range(EDITORS)), *(ask(http) for _ in range(ASKERS)))
        assert asked > 0
        for name, (_, text) in acknowledged.items():
            found = (await http.get(f"/v1/documents/{name}")).json()
            assert found["document"]["text"] == text and found["revision"] == ROUNDS

    client.run(work)
    for version in range(1, kb.version + 1):
        assert kb.at(version).waiting(realm.passage_encoder.fingerprint).passages == 0, version


class SlowToEncode:
    """A real model whose encoder of passages waits until it is let go."""

    def __init__(self, realm: Realm) -> None:
        self.realm, self.let_go, self.encoding = realm, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.realm, name)

    @property
    def passage_encoder(self) -> PassageEncoder:
        real = self.realm.passage_encoder

        def encode(passages: Sequence[Passage]) -> np.ndarray:
            self.encoding.set()
            assert self.let_go.wait(60)
            return real.encode(passages)

        return PassageEncoder(real.fingerprint, encode)


def test_questions_do_not_wait_while_an_edit_is_encoded(serve: Serve, realm: Realm, kb: KnowledgeBase) -> None:
    model = SlowToEncode(realm)
    client = serve(model=model)
    before = kb.version

    async def work(http: httpx.AsyncClient) -> None:
        edit = asyncio.create_task(http.post("/v1/documents", json={"id": "new", "text": "Something new."}))
        assert await asyncio.to_thread(model.encoding.wait, 60)
        answer = await http.post("/v1/ask", json={"question": BLANK, "k": 50})
        assert answer.json()["knowledge_base_version"] == before
        assert (await http.get("/v1/documents")).json()["total"] == 3
        assert not edit.done()
        model.let_go.set()
        assert (await edit).status_code == 201
        answer = await http.post("/v1/ask", json={"question": BLANK, "k": 50})
        assert "new" in {e["passage"]["document_id"] for e in answer.json()["evidence"]}

    client.run(work)


def test_an_edit_whose_client_left_is_made_counted_and_tidied_after(serve: Serve, realm: Realm) -> None:
    model = SlowToEncode(realm)
    client = serve(model=model)
    assert client.service._upkeep._running is None

    async def work(http: httpx.AsyncClient) -> None:
        edit = asyncio.create_task(http.post("/v1/documents", json={"id": "new", "text": "Something new."}))
        assert await asyncio.to_thread(model.encoding.wait, 60)
        edit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await edit
        model.let_go.set()
        await asyncio.to_thread(client.service._editor.submit(int).result)  # behind it
        assert (await http.get("/v1/documents/new")).status_code == 200
        assert 'realm_documents_edited_total{change="added"} 1.0' in (await http.get("/metrics")).text

    client.run(work)
    running = client.service._upkeep._running
    assert running is not None and running.result() is None


def test_questions_that_come_together_are_answered_together(serve: Serve) -> None:
    client = serve("batching.window_ms=2000", "batching.size=6")

    async def work(http: httpx.AsyncClient) -> list[dict[str, Any]]:
        bodies = [{"question": f"Guernica {i} was painted by [MASK].", "k": 2} for i in range(6)]
        responses = await asyncio.gather(*(http.post("/v1/ask", json=body) for body in bodies))
        return [response.json() for response in responses]

    answers = client.run(work)
    assert [answer["question"] for answer in answers] == [f"Guernica {i} was painted by [MASK]." for i in range(6)]
    text = client.get("/metrics").text
    assert "realm_batch_questions_sum 6.0" in text and "realm_batch_questions_count 1.0" in text


def test_an_embedding_does_not_hold_up_the_end(serve: Serve, realm: Realm, kb: KnowledgeBase) -> None:
    kb.add([Document(f"d{i}", "", f"Number {i}.") for i in range(300)])
    before = kb.waiting(realm.passage_encoder.fingerprint).passages
    model = SlowToEncode(realm)
    client = serve(model=model, begin=False)
    opening = client.service.open()
    assert model.encoding.wait(60)
    ending = threading.Thread(target=client.service.close)
    ending.start()
    assert client.service._closing.wait(60)
    model.let_go.set()
    ending.join(60)
    assert not ending.is_alive() and opening.result() is None and client.service.failure is None
    assert kb.waiting(realm.passage_encoder.fingerprint).passages == before == 300, "the rest waits for the next start"
    again = serve()
    assert again.get("/readyz").status_code == 200
