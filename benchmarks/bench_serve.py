"""What `realm serve` bears: questions a second and their latency, answered together and one at a time.

    OMP_NUM_THREADS=2 python -m benchmarks.bench_serve --kb KB --model MODEL [--questions FILE] [--seconds 20]
        [--clients 1,8,32] [--rounds 1] [--json FILE]

Starts `realm serve` on a copy of KB (on loopback, as a process of its own) in three ways in turn: with its own
settings; together but with all cores on each product (`batching.side_by_side=false`); and one question at a time
(`batching.size=1 batching.window_ms=0`). At each number of clients, each a thread with one connection that asks again
as soon as it is answered, it prints questions/s, the 50th, 95th and 99th percentile of the latency, and the server's
processor time a question, which says more than the rate where other work keeps the machine busy; then the ratios of
both to one at a time.

Then overload: with `limits.in_flight=4`, how quickly the largest number of clients is refused with 503 and Retry-After
(each tries again at once, which is worse than what the header asks for), and how long a lone question takes before,
at once after and later: exit status 1 when a refusal lacks its header, takes over --refusal ms at the 99th percentile,
or a lone question is not answered afterwards.

--questions: any file that `realm ask --questions` takes; without one, sentences of the documents, a word masked.
Client and server share the machine: on few cores the clients' own work is part of what is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serving import Asked, Server, percentiles, processor_seconds, questions_of, serving, told
from realm import KnowledgeBase, __version__
from realm.knowledge.cloning import clone

ALONE = "one at a time"
WAYS: dict[str, tuple[str, ...]] = {
    "together": (),
    "together, whole": ("batching.side_by_side=false",),
    ALONE: ("batching.size=1", "batching.window_ms=0"),
}


class Storm(NamedTuple):
    """What many clients were answered."""

    asked: list[Asked]
    seconds: float
    processor_seconds: float

    @property
    def rate(self) -> float:
        return len(self.asked) / self.seconds

    def facts(self) -> dict[str, Any]:
        return {
            "questions_per_second": self.rate,
            "milliseconds": percentiles([one.seconds for one in self.asked]),
            "processor_ms_per_question": 1000 * self.processor_seconds / max(1, len(self.asked)),
            "statuses": {str(status): n for status, n in Counter(one.status for one in self.asked).items()},
        }


def storm(server: Server, clients: int, seconds: float, questions: Sequence[str]) -> Storm:
    """`clients` at once, each of which asks again as soon as it is answered. No two begin with the same question."""
    done: list[list[Asked]] = [[] for _ in range(clients)]
    gate = threading.Barrier(clients + 1)

    def work(number: int) -> None:
        client = server.connect()
        start = number * len(questions) // clients
        mine = itertools.islice(itertools.cycle(questions), start, None)
        gate.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            done[number].append(client.ask(next(mine)))
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    taken = processor_seconds(server.pid)
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return Storm([one for mine in done for one in mine], took, processor_seconds(server.pid) - taken)


def load(kb: Path, model: Path, clients: Sequence[int], seconds: float, rounds: int, questions: Sequence[str]) -> Any:
    """Facts of each way at each number of clients, and ratios to one at a time."""
    every: dict[tuple[str, int], list[Storm]] = {}
    for _ in range(rounds):
        for way, settings in WAYS.items():
            with serving(kb, model, *settings) as server:
                storm(server, clients[-1], 2.0, questions)  # vectors are held from the second question on
                for count in clients:
                    one = storm(server, count, seconds, questions)
                    every.setdefault((way, count), []).append(one)
                    facts = one.facts()
                    figures, taken = told(facts["milliseconds"]), facts["processor_ms_per_question"]
                    wrong = sum(n for status, n in facts["statuses"].items() if status != "200")
                    print(
                        f"{way:>16}  {count:3d} clients  {one.rate:7.2f}/s  {figures}  {taken:6.1f} processor-ms  "
                        f"{wrong} failed",
                        flush=True,
                    )
    ratios = {}
    for count in clients:
        for way in list(WAYS)[:-1]:
            mine, alone = every[way, count], every[ALONE, count]
            rate = statistics.median(one.rate for one in mine) / statistics.median(one.rate for one in alone)
            taken = statistics.median(one.processor_seconds / len(one.asked) for one in alone) / statistics.median(
                one.processor_seconds / len(one.asked) for one in mine
            )
            ratios[f"{way}, {count}"] = {"rate": rate, "processor": taken}
            print(f"{count:3d} clients: {way} / {ALONE} = {rate:.2f} in rate, {taken:.2f} in processor time")
    facts = {f"{way}, {count}": [one.facts() for one in storms] for (way, count), storms in every.items()}
    return {"ways": facts, "ratios": ratios}


def overload(kb: Path, model: Path, clients: int, seconds: float, questions: Sequence[str]) -> dict[str, Any]:
    """How quickly the service refuses what it has no room for, and whether it answers a lone question afterwards."""

    def lone(server: Server, count: int) -> list[Asked]:
        client = server.connect()
        asked = [client.ask(question) for question in itertools.islice(itertools.cycle(questions), count)]
        client.close()
        return asked

    with serving(kb, model, "limits.in_flight=4") as server:
        lone(server, 3)
        before = lone(server, 5)
        asked = storm(server, clients, seconds, questions).asked
        at_once = lone(server, 1)
        after = lone(server, 5)
    refused = [one for one in asked if one.status == 503]
    return {
        "answered": sum(one.status == 200 for one in asked),
        "refused": len(refused),
        "other": sum(one.status not in (200, 503) for one in asked),
        "without_retry_after": sum(one.retry_after is None for one in refused),
        "refusal_ms": percentiles([one.seconds for one in refused]),
        "lone_ms": {
            name: 1000 * statistics.median(one.seconds for one in some)
            for name, some in (("before", before), ("at once", at_once), ("after", after))
        },
        "recovered": all(one.status == 200 for one in at_once + after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--refusal", type=float, default=100.0, help="milliseconds that a refusal may take at p99")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clients = [int(count) for count in options.clients.split(",")]
    with tempfile.TemporaryDirectory(dir=options.kb.parent) as folder:  # on the same disk, where files can be linked
        kb = Path(folder) / "kb"
        clone(options.kb, kb)
        questions = questions_of(kb, options.questions)
        passages = KnowledgeBase.open(kb).num_passages()
        about = {
            "realm": __version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "load_before": os.getloadavg(),
            "passages": passages,
            "questions": len(questions),
            "seconds": options.seconds,
            "model": options.model.name,
        }
        print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
        found = load(kb, options.model, clients, options.seconds, options.rounds, questions)
        storming = overload(kb, options.model, clients[-1], min(options.seconds, 10.0), questions)
    print(f"overload: {storming['answered']:,} answered, {storming['refused']:,} refused", end="")
    print(f" ({told(storming['refusal_ms'])}), {storming['without_retry_after']} without Retry-After")
    print("a lone question: " + ", ".join(f"{value:.1f} ms {name}" for name, value in storming["lone_ms"].items()))
    quick = storming["refusal_ms"].get("p99", 0.0) <= options.refusal
    passed = storming["recovered"] and quick and not storming["without_retry_after"] and not storming["other"]
    print("overload passed" if passed else "overload NOT passed")
    if options.json is not None:
        options.json.write_text(json.dumps({**about, **found, "overload": storming, "passed": passed}, indent=1) + "\n")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
