"""Peak memory and speed of filling, scanning, editing and laying out a large knowledge base, at several sizes.

Documents of ten passages of about 100 words are streamed into a knowledge base, scanned, given a second time (nothing
may change), edited one by one, and laid out as a snapshot. A passage is a line that ends with a full stop: what a real
splitter costs is measured by `ingest`. Needs about 4 kB of disk a passage.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace, _ArgumentGroup
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.timing import Contestant
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.types import Document, Passage

PASSAGES, WORDS = 10, 100
QUICK = {"passages": [100, 200, 400]}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")


def run(bench: Bench, options: Namespace) -> None:
    tokenizer = made.tokenizer()
    for total in options.passages:
        count = total // PASSAGES
        told: dict[str, Any] = {"unit": "passages", "items": total, "size": total, "of": "passages"}
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            kb = KnowledgeBase.create(Path(name) / "kb", split=split)
            bench.once(
                "filling", "the text, made", lambda count=count: sum(1 for _ in documents(count)), role="limit", **told
            )
            bench.once("filling", "realm", lambda kb=kb, count=count: kb.upsert(documents(count)), **told)
            again = bench.once(
                "filling again, unchanged", "realm", lambda kb=kb, n=count: kb.upsert(documents(n)), **told
            )
            assert again.unchanged == count
            scan = [Contestant(who="realm", role="realm", run=partial(_scan, kb), items=total)]
            bench.contest("scan of the text", scan, unit="passages", size=total, of="passages", rounds=3)
            bench.once("snapshot", "realm", partial(Snapshot.build, kb, tokenizer, Path(name) / "snapshot"), **told)


def documents(count: int) -> Iterator[Document]:
    words = made.words()
    for number in range(count):
        rank = (len(words) ** np.random.default_rng(number).random((PASSAGES, WORDS))).astype(int) - 1
        text = " ".join(" ".join(words[i] for i in line) + "." for line in rank)
        yield Document(f"document-{number}", f"Title {number}", text, source=f"s{number % 7}", metadata={"n": number})


def split(batch: Sequence[Document]) -> list[list[Passage]]:
    return [list(_passages(document)) for document in batch]


def _passages(document: Document) -> Iterator[Passage]:
    start = 0
    for number, piece in enumerate(document.text[:-1].split(". ")):
        yield Passage(document.id, number, document.title, piece, start, start + len(piece), ((0, len(piece)),))
        start += len(piece) + 2


def _scan(kb: KnowledgeBase) -> None:
    """A float would be taken for seconds: nothing is given."""
    for _ in kb.batches(["text"]):
        pass
