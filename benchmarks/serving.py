"""A `realm serve` of its own process on loopback, and requests to it: what the benchmarks of the service share."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from realm import KnowledgeBase
from realm.knowledge.questions.asked import read_asked


class Asked(NamedTuple):
    """One request and what became of it."""

    status: int
    seconds: float
    body: Any
    """The JSON of the answer; None where it is none."""
    retry_after: str | None


class Server(NamedTuple):
    """A server that is ready."""

    port: int
    pid: int

    def connect(self) -> Client:
        """A connection of its own, kept open."""
        return Client(self.port)


class Client:
    """One connection. Not for several threads at a time."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def request(self, method: str, path: str, body: object = None) -> Asked:
        """Send, and wait for the whole answer."""
        began = time.perf_counter()
        sent = None if body is None else json.dumps(body)
        self._connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
        response = self._connection.getresponse()
        given = response.read()
        took = time.perf_counter() - began
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return Asked(response.status, took, json.loads(given) if is_json else None, response.getheader("Retry-After"))

    def ask(self, question: str, **more: Any) -> Asked:
        """A question."""
        return self.request("POST", "/v1/ask", {"question": question, **more})

    def close(self) -> None:
        self._connection.close()


@contextmanager
def serving(kb: Path, model: Path, *settings: str) -> Iterator[Server]:
    """A server that is ready, stopped at the end. SystemExit when it does not begin to listen."""
    arguments = ["serve", "--kb", str(kb), "--model", str(model), "--port", "0", *settings]
    command = [sys.executable, "-c", "from realm.cli import main; main()", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        if not line.startswith("listening on "):
            raise SystemExit(line + process.stderr.read())
        server = Server(int(line.rsplit(":", 1)[1]), process.pid)
        threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()  # no log is kept
        while server.connect().request("GET", "/readyz").status != 200:
            time.sleep(0.5)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(120) != 0:
            print(f"the server ended with {process.returncode}")


def questions_of(kb: Path, file: Path | None, count: int = 512) -> list[str]:
    """The questions of a file, else sentences of the documents, a word masked."""
    if file is not None:
        return [question.text for question in read_asked(file)]
    found = []
    for passage in itertools.islice(KnowledgeBase.open(kb).passages(), count):
        words = passage.text[slice(*passage.sentences[0])].split()
        if len(words) > 3:
            found.append(" ".join([*words[:-1], "[MASK]."]))
    return found


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th, in milliseconds; nothing of nothing."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{p}": 1000 * cuts[p - 1] for p in (50, 95, 99)}


def told(figures: dict[str, float]) -> str:
    """Percentiles in words."""
    return "  ".join(f"{name} {value:7.1f} ms" for name, value in figures.items())


def memory_of(pid: int) -> int:
    """Bytes that a process has in memory."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return 1024 * int(line.split()[1])
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return 1024 * int(shown.stdout)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has taken; NaN where that can't be seen."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float("nan")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
