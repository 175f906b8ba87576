"""Search under a predicate that leaves 50%, 1% or 0.01% of the passages, beside the search without one.

    python benchmarks/bench_filters.py [--rows 200000] [--dim 128] [--queries 50] [--vectors clustered random]
                                       [--json FILE] [--quick]

For each share: how long the exact search and that by the approximate index take for one question (the median, and the
95th percentile), whether the exact one found what brute force over the filtered subset finds, and recall@10 of the
approximate one against it. "clustered" vectors are of an encoder's kind; "random" ones have no structure, the worst for
an inverted file. Searches take turns, question by question. Wanted: exact equal to brute force, recall at least 0.95.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import torch

import realm
from realm.answering.held import HeldVectors, search_version
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.types import Document, Passage

K = 10
PASSAGES = 10
"""Of a document."""
SHARES = (0.5, 0.01, 0.0001)
ENCODER = "bench"


def split(documents: Sequence[Document]) -> list[list[Passage]]:
    """A passage a line."""
    found = []
    for document in documents:
        at, passages = 0, []
        for number, line in enumerate(document.text.split("\n")):
            passages.append(Passage(document.id, number, document.title, line, at, at + len(line), ((0, len(line)),)))
            at += len(line) + 1
        found.append(passages)
    return found


def drawn(kind: str, rows: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32[N, D] and queries float32[Q, D]."""
    draw = np.random.default_rng(0)
    if kind == "random":
        vector_ND = draw.standard_normal((rows + queries, dim), dtype=np.float32)
    else:
        centre_CD = draw.standard_normal((max(1, rows // 100), dim), dtype=np.float32)
        vector_ND = centre_CD[draw.integers(0, len(centre_CD), rows + queries)]
        vector_ND = vector_ND + 0.7 * draw.standard_normal(vector_ND.shape, dtype=np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return vector_ND[:rows], vector_ND[rows:]


def build(folder: Path, vector_ND: np.ndarray) -> tuple[KnowledgeBase, np.ndarray, dict[str, float]]:
    """A knowledge base over the vectors, the figure float[N] that predicates ask for, and what making it took."""
    rows = len(vector_ND)
    share_N = np.repeat(np.random.default_rng(1).permutation(rows // PASSAGES) * PASSAGES / rows, PASSAGES)

    def documents() -> Iterator[Document]:
        for first in range(0, rows, PASSAGES):
            text = "\n".join(f"passage {row}" for row in range(first, first + PASSAGES))
            yield Document(str(first // PASSAGES), "", text, metadata={"share": float(share_N[first])})

    encoder = PassageEncoder(
        ENCODER, lambda passages: vector_ND[[int(p.document_id) * PASSAGES + p.number for p in passages]]
    )
    kb = KnowledgeBase.create(folder / "kb", split=split, splitter={"splitter": "lines"})
    began = time.perf_counter()
    kb.add(documents(), encoder=encoder)
    added = time.perf_counter()
    facts = kb.index_vectors(ENCODER)
    return kb, share_N, {**facts, "add_seconds": added - began, "index_seconds": time.perf_counter() - added}


def measure(
    kb: KnowledgeBase, vector_ND: np.ndarray, share_N: np.ndarray, query_QD: np.ndarray
) -> list[dict[str, Any]]:
    here, held = kb.at(kb.version), HeldVectors()
    found = []
    for share in (1.0, *SHARES):
        where = None if share == 1.0 else f"share < {share!r}"
        allowed = np.flatnonzero(share_N < share)
        subset_ND = np.ascontiguousarray(vector_ND[allowed])
        searches: dict[str, Callable[[np.ndarray], list[int]]] = {
            "exact": lambda query, where=where: rows_of(here.search_vectors(query, K, where, ENCODER)),
            "approximate": lambda query, where=where: rows_of(here.search_vectors(query, K, where, ENCODER, True)),
        }
        if where is None:
            searches["exact, held in memory"] = lambda query: rows_of(
                search_version(here, held, torch.from_numpy(query[None]), K, None, ENCODER)[0]
            )
        times: dict[str, list[float]] = {name: [] for name in searches}
        hits: dict[str, list[float]] = {name: [] for name in searches}
        for search in searches.values():
            search(query_QD[0]), search(query_QD[0])
        for query in query_QD:
            best = allowed[np.argsort(-(subset_ND @ query), kind="stable")[:K]].tolist()
            for name, search in searches.items():
                began = time.perf_counter()
                rows = search(query)
                times[name].append(time.perf_counter() - began)
                hits[name].append(len(set(rows) & set(best)) / max(1, len(best)))
        for name in searches:
            found.append(
                {
                    "share": share,
                    "passages": len(allowed),
                    "search": name,
                    "p50_ms": 1e3 * float(np.median(times[name])),
                    "p95_ms": 1e3 * float(np.quantile(times[name], 0.95)),
                    f"recall@{K}": float(np.mean(hits[name])),
                }
            )
    return found


def rows_of(matches: Sequence[Any]) -> list[int]:
    return [int(match.passage.document_id) * PASSAGES + match.passage.number for match in matches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--vectors", nargs="+", choices=["clustered", "random"], default=["clustered", "random"])
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--quick", action="store_true", help="seconds, at sizes that say nothing about speed")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.dim, options.queries, options.vectors = 20_000, 16, 5, ["clustered"]
    options.rows -= options.rows % PASSAGES
    machine = {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "lancedb": lancedb.__version__,
        "realm": realm.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    report: dict[str, Any] = {"machine": machine, "rows": options.rows, "dim": options.dim, "kinds": {}}
    for kind in options.vectors:
        with tempfile.TemporaryDirectory() as folder:
            vector_ND, query_QD = drawn(kind, options.rows, options.dim, options.queries)
            kb, share_N, index = build(Path(folder), vector_ND)
            figures = measure(kb, vector_ND, share_N, query_QD)
        report["kinds"][kind] = {"index": index, "figures": figures}
        print(f"\n{kind}: {options.rows:,} x {options.dim}; {options.queries} questions, k {K}; added in "
              f"{index['add_seconds']:.0f} s, indexed in {index['index_seconds']:.0f} s: {index['probed']} of "
              f"{index['lists']} lists, recall {index['recall']:.3f} on the index's own sample")  # fmt: skip
        plain = {one["search"]: one["p50_ms"] for one in figures if one["share"] == 1.0}
        print(
            f"{'share':>8} {'passages':>9}  {'search':22} {'p50 ms':>8} {'p95 ms':>8} {'to unfiltered':>13} recall@{K}"
        )
        for one in figures:
            ratio = one["p50_ms"] / plain[one["search"]]
            print(f"{one['share']:8.2%} {one['passages']:9,}  {one['search']:22} {one['p50_ms']:8.1f} "
                  f"{one['p95_ms']:8.1f} {ratio:13.2f} {one[f'recall@{K}']:9.3f}")  # fmt: skip
        exact = min(one[f"recall@{K}"] for one in figures if one["search"].startswith("exact"))
        near = min(one[f"recall@{K}"] for one in figures if one["search"] == "approximate")
        print(f"exact equal to brute force: {'yes' if exact == 1 else f'NO, {exact:.4f}'}; "
              f"least recall of the index: {near:.3f} (wanted: at least 0.95)")  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
