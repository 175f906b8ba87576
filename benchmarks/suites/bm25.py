"""BM25: realm's postings beside bm25s as its documentation uses it, building and asking.

Made passages of about 90 words. Both look words up with the English stop words and their own default tokenising, find
ten passages, and ask without a process pool; bm25s with the threads that it is given. `LanceDB, full text` is the
store's own index, which realm's knowledge base searches.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace, _ArgumentGroup
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.timing import Contestant
from realm.search.postings import Bm25

K = 10
QUICK = {"passages": [50, 100, 200], "words": 20, "batches": [1, 8]}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--words", type=int, default=90, help="of a passage")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])


def run(bench: Bench, options: Namespace) -> None:
    library = bench.peer("bm25s")
    queries = made.questions(max(options.batches), 6)
    for count in options.passages:
        if not bench.fits(f"BM25 over {count:,} passages", 80.0 * count * options.words):
            continue
        pairs = [(one.title, one.text) for one in made.documents(count, options.words, spread=0.3)]
        texts = [f"{title} {text}" for title, text in pairs]
        facts: dict[str, Any] = {"unit": "passages", "items": count, "size": count, "of": "passages"}
        ours = bench.once("BM25, build", "realm", partial(Bm25.build, pairs, stopwords="en"), **facts)
        theirs = None
        if library is not None:
            theirs = bench.once("BM25, build", "bm25s", partial(_bm25s, library, texts), role="peer", **facts)
        with tempfile.TemporaryDirectory() as folder:
            table = None
            if bench.peer("lancedb", "LanceDB, full text") is not None:
                make = partial(_lance, texts, Path(folder))
                table = bench.once("BM25, build", "LanceDB, full text", make, role="peer", **facts)
            for batch in options.batches:
                asked = queries[:batch]
                hits = ours(asked, K)
                contestants = [Contestant(who="realm", role="realm", run=partial(ours, asked, K))]
                if theirs is not None:
                    find = partial(_ask, library, theirs, asked, options.threads)
                    same = _overlap(hits.rows.tolist(), find().tolist())
                    contestants.append(Contestant(who="bm25s", run=find, facts={"same passages": same}))
                if table is not None:
                    contestants.append(Contestant(who="LanceDB, full text", run=partial(_ask_lance, table, asked)))
                for one in contestants:
                    one.items = batch
                bench.contest(
                    f"BM25, batch {batch}",
                    contestants,
                    unit=None if batch == 1 else "queries",
                    size=count,
                    of="passages",
                )


def _bm25s(library: Any, texts: list[str]) -> Any:
    engine = library.BM25(method="lucene")
    engine.index(library.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    return engine


def _ask(library: Any, engine: Any, queries: list[str], threads: int) -> Any:
    tokens = library.tokenize(queries, stopwords="en", show_progress=False)
    many = threads if len(queries) > 1 and threads > 1 else 0
    return engine.retrieve(tokens, k=K, show_progress=False, n_threads=many).documents


def _lance(texts: list[str], folder: Path) -> Any:
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS

    table = lancedb.connect(folder).create_table("passages", pa.table({"row": range(len(texts)), "text": texts}))
    table.create_index("text", config=FTS(with_position=False))
    return table


def _ask_lance(table: Any, queries: list[str]) -> list[Any]:
    return [table.search(query, query_type="fts").select(["row", "_score"]).limit(K).to_arrow() for query in queries]


def _overlap(ours: list[list[int]], theirs: list[list[int]]) -> float:
    shares = [len(set(a) & set(b)) / max(len(set(a)), 1) for a, b in zip(ours, theirs, strict=True)]
    return round(sum(shares) / len(shares), 3)
