"""An answer that was given before is given again exactly while it is still the answer."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from toy_service import BLANK, CONFIG, Client, Serve, error

from realm.answering.ask import Realm
from realm.answering.questions import QuestionAnswering
from realm.knowledge.base import KnowledgeBase
from realm.types import Document
from realm.workflows.store import open_knowledge_base

QUESTION = "who painted guernica ?"


def ask(client: Client, **asked: Any) -> tuple[dict[str, Any], bool]:
    """The answer, and whether it was there."""
    response = client.post("/v1/ask", {"question": BLANK, "k": 3, **asked})
    assert response.status_code == 200, response.text
    told = re.fullmatch(r'cache;desc="([01]) of 1", total;dur=[0-9.]+', response.headers["server-timing"])
    assert told is not None, response.headers["server-timing"]
    return response.json(), told[1] == "1"


def texts(answer: dict[str, Any]) -> set[str]:
    return {one["passage"]["text"] for one in answer["evidence"]}


def test_no_answer_outlives_an_edit(client: Client, kb: KnowledgeBase) -> None:
    first, there = ask(client)
    assert not there and "Radium was discovered by Marie Curie." in texts(first)
    assert ask(client) == (first, True)
    assert client.put("/v1/documents/curie", {"text": "Radium was found."}).status_code == 200
    second, there = ask(client)
    assert not there and "Radium was found." in texts(second) and second["knowledge_base_version"] == kb.version
    assert ask(client) == (second, True)
    # Another process writes, without vectors even.
    open_knowledge_base(kb.path).add([Document("new", "", "Guernica was painted by Anna Weir.")])
    third, there = ask(client)
    assert not there and "Guernica was painted by Anna Weir." in texts(third) | texts(ask(client, k=9)[0])
    assert ask(client) == (third, True)
    assert client.delete("/v1/documents/new").status_code == 200
    assert not ask(client)[1]
    found = client.get("/metrics").text
    assert 'realm_cache_questions_total{found="yes"} 3.0' in found and "realm_cache_answers 1.0" in found, (
        "what older versions were asked is let go"
    )
    assert float(re.search(r"realm_cache_bytes ([0-9.e+]+)", found)[1]) > 3000  # type: ignore[index]


def test_a_past_version_is_asked_beside_the_present_one(client: Client, kb: KnowledgeBase) -> None:
    version, time = kb.version, kb.versions()[-1].time.isoformat()
    present, _ = ask(client)
    past, there = ask(client, as_of=version)
    assert not there, "what is asked as of a version is kept for itself"
    client.put("/v1/documents/curie", {"text": "Radium was found."})
    assert ask(client, as_of=version) == (past, True) and texts(past) == texts(present)
    assert ask(client, as_of=time) == (past, True), "by the version that the time means"
    now, there = ask(client)
    assert not there and texts(now) != texts(past)
    assert ask(client, as_of=version) == (past, True)
    error(client.post("/v1/ask", {"question": BLANK, "as_of": 999}), 404, "no_such_version")


def test_a_version_that_was_let_go_is_not_remembered(client: Client, kb: KnowledgeBase) -> None:
    version = kb.version
    ask(client, as_of=version)
    assert ask(client, as_of=version)[1]
    client.put("/v1/documents/curie", {"text": "Radium was found."})
    manifests = kb.path / "passages.lance" / "_versions"
    for manifest in manifests.iterdir():  # as `KnowledgeBase.upkeep.reclaim` leaves it, which waits ten minutes
        if manifest.stem in (str(version), str(2**64 - 1 - version)):
            manifest.unlink()
    error(client.post("/v1/ask", {"question": BLANK, "k": 3, "as_of": version}), 404, "no_such_version")


def test_what_else_makes_another_answer(client: Client, serve: Serve, kb: KnowledgeBase) -> None:
    ask(client)
    for more in (
        {"k": 2},
        {"where": "source = 'art'"},
        {"deny": ["curie"]},
        {"aggregate": "best-span"},
        {"conflicts": {"ratio": 0.1}},
        {"question": "Radium was discovered by [MASK]."},
    ):
        first, there = ask(client, **more)
        assert not there, more
        assert ask(client, **more) == (first, True)
    for more in ({"where": "date is null or date >= now()"}, {"half_life_days": 9}):
        assert not ask(client, **more)[1] and not ask(client, **more)[1], "hangs on what the time is"
    again = serve()  # a restart keeps nothing
    assert not ask(again)[1] and ask(again)[1]
    for off in ("cache.entries=0", "cache.bytes=0"):
        without = serve(off)
        assert not ask(without)[1] and not ask(without)[1]


def test_the_model_is_a_part_of_what_an_answer_follows_from(serve: Serve, realm: Realm) -> None:
    other = copy.deepcopy(realm.encoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    models = [realm]
    client = serve(opener=lambda: models[-1])
    first, _ = ask(client)
    client.service.change_model()
    client.service._change.wait()
    assert ask(client) == (first, True), "the same model, opened again"
    models.append(Realm(other, realm.reader, CONFIG))
    client.service.change_model()
    client.service._change.wait()
    second, there = ask(client)
    assert not there and second["evidence"][0]["score"] != first["evidence"][0]["score"]


def test_a_fine_tuned_model_is_asked_by_word_pieces(serve: Serve, answerer: QuestionAnswering) -> None:
    client = serve(model=answerer)
    first, there = ask(client, question=QUESTION)
    assert not there
    again, there = ask(client, question="  Who painted\tGUERNICA?")
    assert there and again["question"] == "  Who painted\tGUERNICA?" and again["text"] == first["text"]
    assert not ask(client, question="who painted danube ?")[1]
    early, there = ask(client, question=QUESTION, early_exit=0.9)
    assert not there and early["unread"] <= 0.1
    for wrong in (0.3, 1, "x"):
        error(client.post("/v1/ask", {"question": QUESTION, "early_exit": wrong}), 422, "malformed")
    eager = serve("early_exit=0.9", model=answerer)
    assert ask(eager, question=QUESTION)[0] == early
    # Many: what is there is not asked again, and all come in their order.
    asked = ["who discovered radium ?", QUESTION, "which rivers ?"]
    response = client.post("/v1/ask", {"questions": asked, "k": 3})
    assert [one["question"] for one in response.json()] == asked
    assert response.headers["server-timing"].startswith('cache;desc="1 of 3"')
    lines = client.post("/v1/ask", {"questions": asked, "k": 3}, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["server-timing"] == 'cache;desc="3 of 3"' and len(lines.text.splitlines()) == 3


def test_a_pre_trained_model_has_no_early_exit(serve: Serve) -> None:
    client = serve("early_exit=0.9")
    assert ask(client)[0]["unread"] == 0.0
    with pytest.raises(AssertionError, match="pre-trained"):
        ask(client, early_exit=0.9)
