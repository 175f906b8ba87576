"""An edit of what somebody else changed since is refused, and nothing of either is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from toy_service import Client, error

from realm.errors import AbsentError, ChangedError
from realm.knowledge.base import KnowledgeBase
from realm.service.conditional import etag, expected_version
from realm.types import Document

GUERNICA = "/v1/documents/guernica"


def tag_of(client: Client, path: str = GUERNICA, **options: Any) -> dict[str, str]:
    """If-Match of a document as it is now."""
    response = client.get(path, **options)
    assert response.headers["etag"] == f'"{response.json()["document_version"]}"'
    return {"If-Match": response.headers["etag"]}


def test_the_second_of_two_writers_is_told(client: Client, kb: KnowledgeBase) -> None:
    read = tag_of(client)
    assert client.put(GUERNICA, {"text": "Mine."}, headers=read).status_code == 200
    before = kb.version
    message = error(client.put(GUERNICA, {"text": "Theirs."}, headers=read), 412, "document_changed")
    changed = kb.revision("guernica")
    assert changed is not None and f"changed in version {changed.version}" in message and "read it again" in message
    error(client.delete(GUERNICA, headers=read), 412, "document_changed")
    assert kb.version == before, "nothing was written"
    assert client.get(GUERNICA).json()["document"]["text"] == "Mine."
    assert client.put(GUERNICA, {"text": "Theirs."}, headers=tag_of(client)).status_code == 200
    assert client.delete(GUERNICA, headers=tag_of(client)).status_code == 200


def test_other_documents_and_repeats_are_no_conflict(client: Client) -> None:
    read = tag_of(client)
    assert client.put("/v1/documents/curie", {"text": "Another."}).status_code == 200
    now = client.get(GUERNICA).json()["document"]
    same = {name: now[name] for name in ("title", "text", "source")}
    assert client.put(GUERNICA, same, headers=read).json()["unchanged"] == 1
    assert tag_of(client) == read, "what changed nothing is no change"
    assert client.put(GUERNICA, {"text": "Other."}, headers={"If-Match": "*"}).status_code == 200
    assert client.put(GUERNICA, {"text": "Third."}).status_code == 200, "without If-Match as ever"


def test_a_document_that_is_gone(client: Client) -> None:
    read = tag_of(client)
    assert client.delete(GUERNICA).status_code == 200
    assert "deleted" in error(client.put(GUERNICA, {"text": "Late."}, headers=read), 412, "document_changed")
    error(client.delete(GUERNICA, headers=read), 412, "document_changed")
    error(client.put(GUERNICA, {"text": "Late."}, headers={"If-Match": "*"}), 404, "no_such_document")
    error(client.put("/v1/documents/never", {"text": "Late."}, headers=read), 404, "no_such_document")


def test_the_tag_of_the_past_is_that_of_then(client: Client) -> None:
    then = client.get("/v1/knowledge-base").json()["version"]
    read = tag_of(client)
    client.put(GUERNICA, {"text": "Now."})
    assert tag_of(client, params={"as_of": then}) == read != tag_of(client)


@pytest.mark.parametrize("tag", ['W/"1"', "1", '"x"', '"1", "2"', "", '"' + "9" * 30 + '"', '"-1"'])
def test_what_no_document_is_tagged_with_matches_none(client: Client, tag: str) -> None:
    message = error(client.put(GUERNICA, {"text": "x"}, headers={"If-Match": tag}), 412, "document_changed")
    assert "expected one ETag" in message


def test_tags() -> None:
    assert expected_version(etag(7)["ETag"]) == 7
    assert expected_version(None) is None and expected_version(" * ") is None


def test_of_many_writers_of_one_version_one_wins(client: Client, kb: KnowledgeBase) -> None:
    read = tag_of(client)

    async def work(http: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [{"text": f"Writer {number}."} for number in range(6)]
        return await asyncio.gather(*(http.put(GUERNICA, json=body, headers=read) for body in bodies))

    responses = client.run(work)
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200, *[412] * 5]
    winner = next(number for number, response in enumerate(responses) if response.status_code == 200)
    document = kb.get("guernica")
    assert document is not None and document.text == f"Writer {winner}."


def test_a_writer_beside_the_service_is_seen(client: Client, kb: KnowledgeBase) -> None:
    """The check is made where the commit is: a command line that writes meanwhile is no way around it."""
    read = tag_of(client)
    kb.update(Document("guernica", "", "From elsewhere."))
    error(client.put(GUERNICA, {"text": "x"}, headers=read), 412, "document_changed")


def test_in_python(kb: KnowledgeBase) -> None:
    first = kb.revision("guernica")
    assert first is not None
    kb.update(Document("guernica", "", "Second."), expected=first.version)
    with pytest.raises(ChangedError, match=r"'guernica' was changed in version \d+: expected its version"):
        kb.update(Document("guernica", "", "Third."), expected=first.version)
    with pytest.raises(ChangedError):
        kb.delete("guernica", expected=first.version)
    with pytest.raises(AbsentError):
        kb.delete("never", expected=1)
    second = kb.revision("guernica")
    assert second is not None and kb.delete("guernica", expected=second.version).deleted == 1
