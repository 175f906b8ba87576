"""Two servers on one store, as processes: both write, and what one acknowledges the other sees at its next question."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import story
from toy_service import BLANK

from realm.answering.ask import Realm
from realm.workflows.store import open_knowledge_base

pytestmark = pytest.mark.slow

ROUNDS = 4


class Server:
    """A `realm serve` of its own process."""

    def __init__(self, process: Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("listening on "), line
        self.port = int(line.rsplit(":", 1)[1])
        self.log = threading.Thread(target=process.stderr.read, daemon=True)
        self.log.start()
        until = time.monotonic() + 200
        while self.send("GET", "/readyz")[0] != 200:
            assert time.monotonic() < until, "not ready"
            time.sleep(0.1)

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        value = json.loads(response.read())
        connection.close()
        return response.status, value

    def seen(self) -> tuple[int, dict[str, str]]:
        """The version that a question is answered from, and what is read for it."""
        status, answer = self.send("POST", "/v1/ask", {"question": BLANK, "k": 50})
        assert status == 200, answer
        texts = {e["passage"]["document_id"]: e["passage"]["text"] for e in answer["evidence"]}
        return answer["knowledge_base_version"], texts


@pytest.fixture
def servers(realm: Realm, template: Path, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    realm.save_pretrained(tmp_path / "model")
    shutil.copytree(template, tmp_path / "kb")
    arguments = ("serve", "--model", tmp_path / "model", "--kb", tmp_path / "kb", "--port", "0", "limits.seconds=100")
    with ExitStack() as stack:
        left, right = (stack.enter_context(story.start(*arguments)) for _ in range(2))
        stack.callback(lambda: [process.kill() for process in (left, right)])
        yield Server(left), Server(right)


@pytest.mark.timeout(400)
def test_both_write_and_each_sees_what_the_other_acknowledged(servers: tuple[Server, Server], tmp_path: Path) -> None:
    for round_ in range(ROUNDS):
        writer, reader = servers[round_ % 2], servers[1 - round_ % 2]
        text = f"Edition {round_} was painted by Pablo Picasso."
        status, counts = (
            writer.send("POST", "/v1/documents", {"id": "e", "text": text})
            if round_ == 0
            else writer.send("PUT", "/v1/documents/e", {"text": text})
        )
        assert status in (200, 201), counts
        version, texts = reader.seen()
        assert version >= counts["version"] and texts["e"] == text
    assert servers[0].send("DELETE", "/v1/documents/e")[0] == 200
    assert "e" not in servers[1].seen()[1]

    # Both at once, on the same document and on their own: all is there, in one order, and each edit is a revision.
    statuses: list[int] = []

    def edit(server: Server, name: str) -> None:
        statuses.append(server.send("POST", "/v1/documents", {"id": "race", "text": f"By {name}."})[0])
        for round_ in range(ROUNDS):
            path, text = f"/v1/documents/{name}-{round_}", f"By {name} {round_} in Vienna."
            statuses.append(server.send("POST", "/v1/documents", {"id": f"{name}-{round_}", "text": text})[0])
            statuses.append(server.send("PUT", "/v1/documents/curie", {"text": f"Curie by {name} {round_}."})[0])
            statuses.append(server.send("PUT", path, {"text": text + " And more."})[0])

    threads = [threading.Thread(target=edit, args=pair) for pair in zip(servers, ("left", "right"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == sorted([201, 409] + 2 * ROUNDS * [201, 200, 200])
    kb = open_knowledge_base(tmp_path / "kb")
    mine = {document.id: document.text for document in kb.documents() if "-" in document.id}
    names = [(name, round_) for name in ("left", "right") for round_ in range(ROUNDS)]
    assert mine == {f"{name}-{round_}": f"By {name} {round_} in Vienna. And more." for name, round_ in names}
    curie = [change.revision for change in kb.history("curie")]
    assert curie == list(range(1, 2 * ROUNDS + 2))
    (encoder,) = kb.encoders()
    assert kb.waiting(encoder).passages == 0, "text and vectors came in the same commits"
    for server in servers:
        version, texts = server.seen()
        assert version == kb.version and texts["race"].startswith("By ")

    # One is killed, perhaps with the lock in its hand: the other goes on at once.
    killed, left = servers
    thread = threading.Thread(target=lambda: _many(killed), daemon=True)
    thread.start()
    time.sleep(0.3)
    killed.process.send_signal(signal.SIGKILL)
    status, counts = left.send("PUT", "/v1/documents/race", {"text": "By the one that is left in Vienna."})
    assert status == 200, counts
    assert left.seen()[1]["race"] == "By the one that is left in Vienna."
    killed.process.wait()
    thread.join(60)


def _many(server: Server) -> None:
    for number in range(100):
        try:
            server.send("PUT", "/v1/documents/danube", {"text": f"The Danube flows through town {number}."})
        except (OSError, http.client.HTTPException, ValueError):
            return
