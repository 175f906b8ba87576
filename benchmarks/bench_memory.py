"""Peak memory and speed of ingest and snapshot on synthetic passages.

    python benchmarks/bench_memory.py 1000000

Documents of ten passages of about 100 words, drawn from a Zipf-like vocabulary, are streamed into a knowledge base,
scanned, ingested a second time (nothing may change), edited one by one, and laid out as a snapshot. Peak resident
memory is the operating system's figure for this process. The folder is temporary and needs about 4 kB a passage.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.types import Document, Passage

PASSAGES = 10
WORDS = 100


def peak_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1024**2 / 1.073741824)


def vocabulary() -> list[str]:
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfw"))
    return ["".join(letters[rng.integers(0, 16, size)]) for size in rng.integers(2, 10, 20_000)]


def documents(count: int, words: list[str]) -> Iterator[Document]:
    for number in range(count):
        rng = np.random.default_rng(number)
        rank = (len(words) ** rng.random((PASSAGES, WORDS))).astype(int) - 1
        text = " ".join(" ".join(words[i] for i in line) + "." for line in rank)
        yield Document(f"document-{number}", f"Title {number}", text, source=f"s{number % 7}", metadata={"n": number})


def split(batch: Sequence[Document]) -> list[list[Passage]]:
    """One sentence a passage, found by its full stop: the cost of a real splitter is not measured here."""
    return [list(_passages(document)) for document in batch]


def _passages(document: Document) -> Iterator[Passage]:
    start = 0
    for number, piece in enumerate(document.text[:-1].split(". ")):
        yield Passage(document.id, number, document.title, piece, start, start + len(piece), ((0, len(piece)),))
        start += len(piece) + 2


def tokenizer(words: list[str]) -> Any:
    from transformers import BertTokenizerFast

    vocab = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "title", *map(str, range(10)), *words])
    return BertTokenizerFast(vocab={word: index for index, word in enumerate(vocab)}, do_lower_case=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("passages", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    arguments = parser.parse_args()
    count, words = arguments.passages // PASSAGES, vocabulary()

    def clock() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def report(what: str, began: tuple[float, float], rows: int, unit: str = "passages") -> None:
        seconds, busy = (now - then for now, then in zip(clock(), began, strict=True))
        rates = f"{seconds:8.1f} s {rows / seconds:10,.0f} {unit}/s {busy:8.1f} core-s"
        print(f"{what:<28} {rates}   peak {peak_gb():.2f} GB", flush=True)

    print(f"{count * PASSAGES:,} passages in {count:,} documents; before: peak {peak_gb():.2f} GB")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        kb = KnowledgeBase.create(Path(folder) / "kb", split=split)
        began = clock()
        for _ in documents(count, words):
            pass
        report("making the text", began, count * PASSAGES)
        began = clock()
        kb.upsert(documents(count, words))
        report("ingest (with making it)", began, kb.num_passages())
        began = clock()
        assert kb.upsert(documents(count, words)).unchanged == count
        report("ingest again (no change)", began, kb.num_passages())
        began = clock()
        scanned = sum(batch.num_rows for batch in kb.batches(["text"]))
        report("scan of the text", began, scanned)
        edits = 20
        began = clock()
        for number in range(edits):
            kb.update(Document(f"document-{number * 31 % count}", "Edited", f"{words[number]} changed. again."))
        report("edits", began, edits, "edits")
        began = clock()
        found = [kb.search_text(f"{words[number]} {words[-1 - number]}", k=10) for number in range(edits)]
        report("text searches", began, len(found), "queries")
        loaded = tokenizer(words)
        began = clock()
        snapshot = Snapshot.build(kb, loaded, Path(folder) / "snapshot")
        report("snapshot (order by address)", began, len(snapshot))


if __name__ == "__main__":
    main()
