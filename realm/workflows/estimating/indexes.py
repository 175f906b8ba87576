"""What an index of each kind takes, from its layout, and what building it costs.

Compressed kinds are those of `realm.search.codes`, whose bytes a row they are; `hnsw` is a graph over the float32
vectors as faiss has it (M links of 4 bytes, twice as many in the lowest layer; Malkov & Yashunin 2018), `lance` the
inverted file that a knowledge base keeps. Building is k-means (10 rounds over 64 rows a cell), one look for each row's
cell, and codes of 16 words; or a walk through the graph for each row.

Legend: N rows, D vector size, C cells, M links.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from realm.errors import UsageError
from realm.search.codes import PER_LIST, Plan
from realm.workflows.estimating.machine import Machine

LINKS, BREADTH = 32, 80
"""Of the graph over float32: M, and how many candidates it is built with."""
CODED_LINKS = 16
"""Of the graph over bytes."""
LOOKS = 1.25
"""Distances for each link and candidate of a row's way into a graph: 4,100 at a million rows (M 32, breadth 100)."""
ROUNDS, CODE_ROUNDS, CODE_ROWS, CODE_WORDS = 10, 25, 65_536, 16
KINDS = ("exact", "bf16", "int8", "ivf-pq", "ivf-rabitq", "ivf-sq", "hnsw-sq", "hnsw", "lance")


@dataclass(frozen=True)
class IndexCost:
    """Of one index."""

    kind: str
    memory: float
    """Bytes that a search reads again and again: held, or in the system's cache."""
    disk: float
    """With the vectors that the last choice is made by."""
    seconds: float | None
    """Of building it from vectors that are there; None: not known for this kind."""
    formula: str
    """Of the memory."""
    building: str


def cells(rows: int) -> int:
    """About twice the root of the rows, and a power of two, as `realm.search.tuning` has it."""
    return 1 << max(4, round(math.log2(max(1.0, 2 * math.sqrt(rows)))))


def index_cost(kind: str, rows: int, dim: int, machine: Machine | None, *, documents: float = 0.0) -> IndexCost:
    """Of an index of `kind` over Float[rows, dim]. documents: headers in the knowledge base's table, for "lance".

    machine: whose rates building is reckoned with; None leaves its time out. UsageError for another kind.
    """
    if kind not in KINDS:
        raise UsageError(f"found the index {kind!r}: expected one of {', '.join(KINDS)}")
    n, d = rows, dim
    exact = 4.0 * n * d
    plain = {"exact": (exact, "4 N D"), "bf16": (exact / 2, "2 N D"), "int8": (n * (d + 4.0), "N (D + 4)")}
    if kind in plain:
        size, formula = plain[kind]
        return IndexCost(kind, size, size, 0.0, formula, "written by embedding")
    if kind in ("hnsw", "hnsw-sq"):
        links = LINKS if kind == "hnsw" else CODED_LINKS
        row = 4.0 * d + 8.0 * links + 4.0 * links / (links - 1) + 12.0
        formula = f"N (4 D + 8 M + 16), M = {links}"
        if kind == "hnsw-sq":
            row, formula = Plan(kind, d, links=links).bytes_a_row(), f"N (D + 8.5 M + 12), M = {links}"
        looks = LOOKS * links * BREADTH
        took = None if machine is None else n * looks * machine.distance / max(1, machine.threads)
        told = f"{looks:,.0f} distances a row: {LOOKS:g} x M x {BREADTH}"
        return IndexCost(kind, n * row, n * row + (exact if kind == "hnsw-sq" else 0.0), took, formula, told)
    c = cells(n) if kind != "lance" else max(1, round(math.sqrt(n)))
    if kind == "lance":
        row, formula = d + 8.0, "N (D + 8) + 4 D C, C = sqrt(N)"
    else:
        row = Plan(kind, d, lists=c, pieces=d if kind == "ivf-pq" else 0).bytes_a_row()
        code = {"ivf-pq": "D / 2 + 8", "ivf-rabitq": "D / 8 + 20", "ivf-sq": "D + 8"}[kind]
        formula = f"N ({code}) + 4 D C, C = 2 sqrt(N)"
    size = n * row + c * 4.0 * d
    learn = ROUNDS * 2.0 * min(n, PER_LIST * c) * c * d + 2.0 * n * c * d
    coded = (CODE_ROUNDS * min(n, CODE_ROWS) + n) * 2.0 * CODE_WORDS * d if kind == "ivf-pq" else 0.0
    # Both are products of many rows with few: at about half of the best rate.
    seconds = None if machine is None else (learn + coded) / (machine.matmul / 2)
    told = "10 rounds of k-means over 64 rows a cell, each row's cell" + (", codes of 16 words" if coded else "")
    return IndexCost(
        kind, size, size + (4.0 * d * (n + documents) if kind == "lance" else exact), seconds, formula, told
    )
