"""Files into a knowledge base: MB of text a second, and what an edit, an unchanged file and a search of words take.

Made documents in one jsonl file go the way of `realm ingest`: read, cut into passages of whole sentences by a
tokenizer, committed, indexed by word. Limits of the same work: the tokenizer alone over the same text, and Lance
writing the same text in one commit without cutting or indexing it.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace, _ArgumentGroup
from functools import partial
from itertools import count, cycle
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.timing import Contestant
from realm.knowledge.base import Counts, KnowledgeBase
from realm.knowledge.formats.sources import read_documents
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text.passages import SentenceSplitter
from realm.types import Document

QUICK = {"documents": [20, 40, 80], "words": 60}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--words", type=int, default=400, help="of a document")
    parser.add_argument("--tokens", type=int, default=288, help="of a passage, at most")


def run(bench: Bench, options: Namespace) -> None:
    for documents in options.documents:
        with tempfile.TemporaryDirectory() as folder:
            at_size(bench, options, documents, Path(folder))


def at_size(bench: Bench, options: Namespace, documents: int, folder: Path) -> None:
    tokenizer = made.tokenizer()
    source = folder / "documents.jsonl"
    told: dict[str, Any] = {"unit": "MB", "items": _write_source(source, documents, options.words) / 1e6}
    where: dict[str, Any] = {"size": documents, "of": "documents"}
    kb = KnowledgeBase.create(folder / "kb", split=SentenceSplitter(tokenizer, options.tokens))
    read = partial(_read, kb, source)
    bench.once("ingest", "realm", read, **told, **where)
    passages = kb.num_passages()
    bench.record.rows[-1].facts["passages"] = passages
    texts = [one.text for one in read_documents(str(source))]
    tokenise = partial(_tokenise, tokenizer.backend_tokenizer, texts)
    bench.once("ingest", "the tokenizer alone", tokenise, role="limit", **told, **where)
    if bench.peer("lancedb", "Lance, the same text written") is not None:
        write = partial(_write, texts, folder / "bare")
        bench.once("ingest", "Lance, the same text written", write, role="limit", **told, **where)
    again = bench.once("ingest again, unchanged", "realm", read, **told, **where)
    assert again.unchanged == documents
    lay = partial(Snapshot.build, kb, tokenizer, folder / "snapshot")
    bench.once("snapshot", "realm", lay, unit="passages", items=passages, **where)

    asked, numbers = cycle(made.questions(1000, 3)), count()

    def search() -> None:
        kb.search_text(next(asked), k=10)

    def edit() -> float:
        """Seconds, of which making the text is no part."""
        number = next(numbers)
        text = f"Edit {number} was made here. It is done."
        document = Document(f"document-{number * 31 % documents}", "Edited", text)
        began = perf_counter()
        kb.update(document)
        return perf_counter() - began

    for work, run in (("search of words in the knowledge base", search), ("edit without a vector", edit)):
        bench.contest(work, [Contestant(who="realm", role="realm", run=run)], **where)


def _write_source(path: Path, documents: int, words: int) -> int:
    """Bytes of text."""
    size = 0
    with open(path, "w", encoding="utf-8") as file:
        for one in made.documents(documents, words):
            size += len(one.text.encode())
            file.write(json.dumps({"id": one.id, "title": one.title, "text": one.text}) + "\n")
    return size


def _read(kb: KnowledgeBase, source: Path) -> Counts:
    return kb.upsert(read_documents(str(source)))


def _tokenise(backend: Any, texts: list[str]) -> None:
    """A thousand at a time, as the splitter does; nothing is kept."""
    for first in range(0, len(texts), 1000):
        backend.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False)


def _write(texts: list[str], folder: Path) -> None:
    import lancedb
    import pyarrow as pa

    lancedb.connect(folder).create_table("texts", pa.table({"text": texts}))
