"""What a knowledge base in an object store costs beside one in a folder: time, and requests to the store.

    python benchmarks/bench_objects.py [--documents 1000] [--edits 20] [--delays 0,20] [--json FILE] [--quick]

The store is a double of S3 on the loopback interface of this machine (moto, a Python program): it says how many
requests each work makes, and, with a delay added to every request, about what they cost over a
network. It says nothing about the rate of the real service, and its own work is part of the times.

Each work is done on a folder and on the store, in turn; the median of its repetitions is printed. An edit is one update
of a document with its vectors. "open and ask" opens the knowledge base anew, reads every vector as a server does before
its first answer, and searches by words and by vector; "ask" does both searches on one that is open; "ask after an edit"
comes right after somebody else's edit. Needs moto: pip install 'moto[s3,server]'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.core.object_store import Double, running
from realm import __version__
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.text.passages import WordSplitter
from realm.types import Document

WORDS, DIM, ENCODER = 150, 128, "random"


def documents(count: int, edition: str = "") -> list[Document]:
    draw = np.random.default_rng(len(edition))
    texts = (" ".join(f"w{word}" for word in draw.integers(0, 20_000, WORDS)) for _ in range(count))
    return [Document(f"d{at}", f"title {at} {edition}", f"{text}.") for at, text in enumerate(texts)]


def encoder() -> PassageEncoder:
    draw = np.random.default_rng(0)
    return PassageEncoder(ENCODER, lambda passages: draw.standard_normal((len(passages), DIM), dtype=np.float32))


class Bench:
    """One place, and what was measured there."""

    def __init__(self, place: str, double: Double | None) -> None:
        self.place, self.double = place, double
        self.seconds: dict[str, list[float]] = {}
        self.requests: dict[str, list[int]] = {}
        self.split = WordSplitter(100)
        self.query = np.random.default_rng(1).standard_normal(DIM, dtype=np.float32)

    def timed(self, work: str, do: Callable[[], Any]) -> Any:
        asked = self.double.asked.total() if self.double else 0
        began = time.perf_counter()
        found = do()
        self.seconds.setdefault(work, []).append(time.perf_counter() - began)
        self.requests.setdefault(work, []).append((self.double.asked.total() if self.double else 0) - asked)
        return found

    def ask(self, kb: KnowledgeBase) -> None:
        kb.search_text("w17 w4711", 5)
        kb.search_vectors(self.query, 5, encoder=ENCODER)

    def first(self) -> KnowledgeBase:
        kb = KnowledgeBase.open(self.place, split=self.split)
        for _ in kb.embedded(ENCODER):
            pass
        self.ask(kb)
        return kb

    def lay(self, count: int) -> None:
        kb = self.timed("lay", lambda: KnowledgeBase.create(self.place, split=self.split))
        self.timed("ingest", lambda: kb.add(documents(count), encoder=encoder()))

    def round(self, number: int, count: int) -> None:
        kb = self.timed("open and ask", self.first)
        self.timed("ask", lambda: self.ask(kb))
        new = documents(count, f"edition {number}")[number % count]
        editor = KnowledgeBase.open(self.place, split=self.split)
        self.timed("edit", lambda: editor.upsert([new], encoder=encoder()))
        self.timed("ask after an edit", lambda: self.ask(kb))
        assert kb.get(new.id) == new


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--delays", default="0,20", help="milliseconds added to every request, one run each")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.documents, options.edits, options.delays = 40, 2, "0"
    delays = [float(delay) for delay in options.delays.split(",")]
    with tempfile.TemporaryDirectory() as name, running() as double:
        os.environ |= {**double.environment(), "REALM_CACHE": f"{name}/cache"}
        bucket = double.make_bucket("bench")
        benches = {"folder": Bench(f"{name}/kb", None)}
        benches |= {f"S3 double, +{delay:g} ms": Bench(f"{bucket}/kb-{delay:g}", double) for delay in delays}
        waits = dict(zip(benches, [0.0, *delays], strict=True))
        for at in range(-1, options.edits):
            for who, bench in benches.items():
                double.delay = waits[who] / 1000
                bench.lay(options.documents) if at < 0 else bench.round(at, options.documents)
    works = list(benches["folder"].seconds)
    rows = [
        {
            "work": work,
            "place": who,
            "milliseconds": round(1000 * statistics.median(bench.seconds[work]), 1),
            "requests": statistics.median(bench.requests[work]) if bench.double else None,
            "times": len(bench.seconds[work]),
        }
        for work in works
        for who, bench in benches.items()
    ]
    machine = f"realm {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    print(f"{options.documents:,} documents of {WORDS} words, vectors of {DIM} numbers; {machine}")
    for row in rows:
        asked = "" if row["requests"] is None else f"{row['requests']:8.0f} requests"
        print(f"{row['work']:20s} {row['place']:22s} {row['milliseconds']:10,.1f} ms{asked}")
    if options.json is not None:
        options.json.write_text(
            json.dumps({"machine": machine, "documents": options.documents, "rows": rows}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
