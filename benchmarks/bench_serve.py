"""What `realm serve` bears: questions a second and their latency, answered together and one at a time.

    python benchmarks/bench_serve.py --kb KB --model MODEL [--questions FILE] [--seconds 10] [--clients 1,8,32]

Starts `realm serve` on a copy of KB (on loopback, as a process of its own), twice in turn: with its own settings, and
with `batching.size=1 batching.window_ms=0`. At each number of clients, each a thread with one connection that asks
again as soon as it is answered, it prints questions/s and the 50th, 95th and 99th percentile of the latency, and the
ratio of the two rates. Then, with `limits.in_flight=4`, how quickly the largest number of clients is refused, and
whether the first question after the storm is answered.

--questions: any file that `realm ask --questions` takes; without one, sentences of the documents, a word masked.
Client and server share the machine: on few cores the clients' own work is part of what is measured.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from realm import KnowledgeBase, __version__
from realm.knowledge.questions.asked import read_asked

ALONE = ("batching.size=1", "batching.window_ms=0")


class Asked(NamedTuple):
    """One request."""

    status: int
    seconds: float


def questions_of(kb: Path, file: Path | None, count: int = 512) -> list[str]:
    if file is not None:
        return [question.text for question in read_asked(file)]
    found = []
    for passage in itertools.islice(KnowledgeBase.open(kb).passages(), count):
        words = passage.text[slice(*passage.sentences[0])].split()
        if len(words) > 3:
            found.append(" ".join([*words[:-1], "[MASK]."]))
    return found


@contextmanager
def serving(kb: Path, model: Path, *settings: str) -> Iterator[int]:
    """The port of a server that is ready."""
    arguments = ["serve", "--kb", str(kb), "--model", str(model), "--port", "0", *settings]
    command = [sys.executable, "-c", "from realm.cli import main; main()", *arguments]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        line = server.stderr.readline()
        if not line.startswith("listening on "):
            raise SystemExit(line + server.stderr.read())
        port = int(line.rsplit(":", 1)[1])
        threading.Thread(target=lambda: [None for _ in server.stderr or ()], daemon=True).start()  # the log is not kept
        while request(http.client.HTTPConnection("127.0.0.1", port), "GET", "/readyz").status != 200:
            time.sleep(0.5)
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        if server.wait(60) != 0:
            print(f"the server ended with {server.returncode}")


def request(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> Asked:
    began = time.perf_counter()
    sent = None if body is None else json.dumps(body)
    connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
    response = connection.getresponse()
    response.read()
    return Asked(response.status, time.perf_counter() - began)


def storm(port: int, clients: int, seconds: float, questions: Sequence[str]) -> tuple[list[Asked], float]:
    """What `clients` at once were answered in some seconds, and how many these were."""
    done: list[list[Asked]] = [[] for _ in range(clients)]
    gate = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        asked = itertools.islice(itertools.cycle(questions), number * 7, None)
        gate.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            done[number].append(request(connection, "POST", "/v1/ask", {"question": next(asked)}))
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return [one for mine in done for one in mine], time.perf_counter() - began


def figures(asked: Sequence[Asked]) -> str:
    cuts = statistics.quantiles([one.seconds for one in asked], n=100, method="inclusive")
    return "  ".join(f"p{p} {1000 * cuts[p - 1]:7.1f} ms" for p in (50, 95, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", default="1,8,32")
    options = parser.parse_args()
    clients = [int(count) for count in options.clients.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(shutil.copytree(options.kb, Path(folder) / "kb"))
        questions = questions_of(kb, options.questions)
        passages = KnowledgeBase.open(kb).num_passages()
        print(
            f"realm {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {passages:,} passages,"
        )
        print(
            f"{len(questions):,} questions, {options.seconds:g} s at each number of clients, model {options.model.name}"
        )
        rates: dict[str, list[float]] = {"together": [], "one at a time": []}
        for name, settings in (("together", ()), ("one at a time", ALONE)):
            with serving(kb, options.model, *settings) as port:
                storm(port, clients[-1], 2.0, questions)  # vectors are held from the second question on
                for count in clients:
                    asked, took = storm(port, count, options.seconds, questions)
                    wrong = sum(one.status != 200 for one in asked)
                    rates[name].append(len(asked) / took)
                    print(f"{name:>14}  {count:3d} clients  {rates[name][-1]:7.1f}/s  {figures(asked)}  {wrong} failed")
        for count, together, alone in zip(clients, rates["together"], rates["one at a time"], strict=True):
            print(f"{count:3d} clients: together / one at a time = {together / alone:.2f}")
        with serving(kb, options.model, "limits.in_flight=4") as port:
            asked, _ = storm(port, clients[-1], min(options.seconds, 5.0), questions)
            refused = [one for one in asked if one.status == 503]
            taken = f"{len(asked) - len(refused):,} answered, {len(refused):,} refused"
            print(f"   overload: {taken}, of which {figures(refused)}")
            after = request(
                http.client.HTTPConnection("127.0.0.1", port), "POST", "/v1/ask", {"question": questions[0]}
            )
            print(f"   afterwards: {after.status} in {1000 * after.seconds:.1f} ms")


if __name__ == "__main__":
    main()
