"""`realm serve` as it is run: a socket, another process, signals."""

from __future__ import annotations

import copy
import http.client
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
import story
import torch
from toy_service import BLANK

from realm.answering.ask import Realm
from realm.errors import ArtefactError, UsageError
from realm.service.server import serve
from realm.service.settings import ServiceConfig

pytestmark = pytest.mark.slow

READ, WRITE = "read-" + "r" * 32, "write-" + "w" * 32


@pytest.fixture(scope="module")
def model(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    realm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another encoder."""
    encoder = copy.deepcopy(realm.encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    folder = tmp_path_factory.mktemp("other") / "model"
    Realm(encoder, realm.reader, realm.config).save_pretrained(folder)
    return folder


@pytest.fixture
def process(model: Path, template: Path, tmp_path: Path) -> Iterator[Popen[str]]:
    """Serves what `live` names."""
    (tmp_path / "live").symlink_to(model)
    kb = shutil.copytree(template, tmp_path / "kb")
    for name, token in (("read", READ), ("write", WRITE)):
        (tmp_path / name).write_text(token)
    tokens = ("--read-token-file", tmp_path / "read", "--write-token-file", tmp_path / "write")
    started = story.start(
        "serve", "--model", tmp_path / "live", "--kb", kb, "--port", "0", *tokens, "limits.body_bytes=5000"
    )
    yield started
    started.kill()
    started.communicate()


def ready(process: Popen[str]) -> int:
    """The port, when it can answer."""
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("listening on http://127.0.0.1:"), line
    port = int(line.rsplit(":", 1)[1])
    until = time.monotonic() + 100
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        connection.close()
        if status == 200:
            return port
        time.sleep(0.1)
    raise AssertionError("not ready")


def send(port: int, *pieces: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    for piece in pieces:
        connection.sendall(piece)
    return connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    with connection, http.client.HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.read()


def head(method: str, path: str, token: str, **headers: str) -> bytes:
    lines = {"Host": "localhost", "Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{told}\r\n".encode()


def test_a_server_from_its_start_to_its_end(process: Popen[str], other: Path, tmp_path: Path) -> None:
    port = ready(process)

    def encoder() -> str:
        status, told = answer(send(port, head("GET", "/v1/model", READ)))
        assert status == 200
        return str(json.loads(told)["encoder"])

    first = encoder()
    (tmp_path / "next").symlink_to(other)
    (tmp_path / "next").replace(tmp_path / "live")
    process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 60
    while encoder() == first and time.monotonic() < until:
        time.sleep(0.05)
    assert encoder() != first, "another model answers, and nothing was refused meanwhile"
    body = json.dumps({"question": BLANK, "k": 2}).encode()
    question = head("POST", "/v1/ask", READ, Content_Length=str(len(body))) + body
    status, told = answer(send(port, question))
    assert status == 200 and json.loads(told)["question"] == BLANK
    assert answer(send(port, head("GET", "/v1/documents", "nothing")))[0] == 401
    assert answer(send(port, head("DELETE", "/v1/documents/curie", READ)))[0] == 403

    # A body that is too large is cut off, though nobody said how long it would be.
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    endless = send(port, head("POST", "/v1/documents", WRITE, Transfer_Encoding="chunked"))
    for _ in range(5):
        endless.sendall(chunk)
    with endless, endless.makefile("rb") as reading:
        assert reading.readline().startswith(b"HTTP/1.1 413")
        assert b'"too_large"' in reading.read(), "and the connection ends"
    assert answer(send(port, head("POST", "/v1/ask", READ, Content_Length="99999")))[0] == 413

    # One request is half there when the signal comes: it is answered; what comes after it is not taken.
    taken = send(port, question[:-10])
    waiting = send(port, question[:20])
    probe = head("GET", "/metrics", READ)
    until = time.monotonic() + 30
    while b"realm_http_requests_in_flight 1.0" not in answer(send(port, probe))[1] and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 30
    while answer(send(port, head("GET", "/readyz", READ)))[0] == 200 and time.monotonic() < until:
        time.sleep(0.05)
    status, told = answer(send(port, question))
    assert (status, json.loads(told)["error"]["code"]) == (503, "stopping")
    waiting.sendall(question[20:])
    assert answer(waiting)[0] == 503
    assert process.poll() is None
    taken.sendall(question[-10:])
    status, told = answer(taken)
    assert status == 200 and json.loads(told)["question"] == BLANK
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == ""
    lines = err.splitlines()
    assert lines[-1] == "stopped"
    assert any(" POST /v1/ask 200 " in line for line in lines) and any("413" in line for line in lines)
    assert READ not in err and WRITE not in err and "Traceback" not in err and "Guernica" not in err
    with pytest.raises(ConnectionRefusedError):
        send(port)


def test_what_can_not_be_served_is_one_line(model: Path, template: Path, tmp_path: Path) -> None:
    kb, run = ("--kb", template), ("--model", model)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        (tmp_path / "token").write_text(READ)
        for arguments, words in (
            ((*kb, *run, "--host", "0.0.0.0"), ["0.0.0.0", "REALM_READ_TOKEN"]),
            ((*kb, *run, "--read-token-file", tmp_path / "token"), ["write token"]),
            ((*kb, *run, "--port", port), [port, "free port"]),
            ((*kb, *run, "--host", "203.0.113.5", "--port", "0"), ["REALM_READ_TOKEN"]),
            ((*kb, *run, "limits.bodies=1"), ["limits.bodies", "limits.body_bytes"]),
            ((*kb, *run, "limits.seconds=0"), ["limits.seconds"]),
        ):
            code, line = story.error("serve", *arguments)
            assert code == 2, line
            assert all(word in line for word in words), line
            assert READ not in line
    assert "no knowledge base" in story.error("serve", *run, "--kb", tmp_path / "nothing")[1]


def test_a_model_that_can_not_be_opened_ends_the_server(template: Path, tmp_path: Path) -> None:
    told: list[str] = []
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ArtefactError, match="nothing"):
        serve(
            tmp_path / "nothing", template, host="127.0.0.1", port=0, tokens=None, config=ServiceConfig(),
            on_listen=told.append,
        )  # fmt: skip
    assert len(told) == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    with pytest.raises(UsageError, match="REALM_WRITE_TOKEN"):
        serve(tmp_path, template, host="0.0.0.0", port=0, tokens=None, config=ServiceConfig())
