"""What an index of each kind takes, from its layout, and what building it costs.

Layouts are those of `realm.search` and of faiss (its wiki, "Faiss indexes"; Douze et al. 2024, "The Faiss library"):
a code of m bytes and an id of 8 in an inverted file, 2 M links of 4 bytes in the lowest layer of a graph. Building is
k-means (10 rounds over at most 256 rows a cell), one look for each row's cell, and the codes.

Legend: N rows, D vector size, C cells, M links.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from realm.errors import UsageError
from realm.workflows.estimating.machine import Machine

LINKS, BREADTH = 32, 80
"""Of the graph: M, and how many candidates it is built with."""
LOOKS = 1.25
"""Distances for each link and candidate of a row's way into the graph: 4,100 at a million rows (M 32, breadth 100)."""
ROUNDS, CODE_ROUNDS, ROWS_A_CELL, CODE_ROWS = 10, 25, 256, 65_536
CODES = 256
"""Codewords of a byte."""
KINDS = ("exact", "bf16", "int8", "pq", "ivf-pq", "ivf-sq8", "hnsw", "lance")


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
    """About four times the root of the rows, and 39 rows to learn each from."""
    return max(1, min(int(4 * math.sqrt(rows)), rows // 39))


def index_cost(kind: str, rows: int, dim: int, machine: Machine | None, *, documents: float = 0.0) -> IndexCost:
    """Of an index of `kind` over Float[rows, dim]. documents: headers in the knowledge base's table, for "lance".

    machine: whose rates building is reckoned with; None leaves its time out. UsageError for another kind.
    """
    if kind not in KINDS:
        raise UsageError(f"found the index {kind!r}: expected one of {', '.join(KINDS)}")
    n, d, c = rows, dim, cells(rows)
    exact = 4.0 * n * d
    inverted = c * 4.0 * d
    codebook = CODES * 4.0 * d
    rate = None if machine is None else machine.matmul / 2
    learn = ROUNDS * 2.0 * min(n, ROWS_A_CELL * c) * c * d + 2.0 * n * c * d
    code = CODE_ROUNDS * 2.0 * min(n, CODE_ROWS) * CODES * d + 2.0 * n * CODES * d
    written = "written by embedding"

    def by(operations: float) -> float | None:
        return None if rate is None else operations / rate

    if kind == "exact":
        return IndexCost(kind, exact, exact, 0.0, "4 N D", written)
    if kind == "bf16":
        return IndexCost(kind, exact / 2, exact / 2, 0.0, "2 N D", written)
    if kind == "int8":
        return IndexCost(kind, n * (d + 4.0), n * (d + 4.0), 0.0, "N (D + 4): a scale a row", written)
    if kind == "pq":
        size = n * d / 4 + codebook / 16
        told = "25 rounds over 65,536 rows, 16 codewords"
        return IndexCost(kind, size, size + exact, by(code / 16), "N D / 4: D / 2 codes of 4 bits", told)
    if kind == "ivf-pq":
        size = n * (d / 4 + 8.0) + inverted + codebook
        told = "k-means of C cells, then 256 codewords"
        return IndexCost(kind, size, size + exact, by(learn + code), "N (D / 4 + 8) + 4 D C, C = 4 sqrt(N)", told)
    if kind == "ivf-sq8":
        size = n * (d + 8.0) + inverted
        return IndexCost(kind, size, size, by(learn), "N (D + 8) + 4 D C, C = 4 sqrt(N)", "k-means of C cells")
    if kind == "lance":
        c = max(1, round(math.sqrt(n)))
        size = n * (d + 8.0) + c * 4.0 * d
        learn = ROUNDS * 2.0 * min(n, ROWS_A_CELL * c) * c * d + 2.0 * n * c * d
        disk = size + 4.0 * d * (n + documents)
        return IndexCost(kind, size, disk, by(learn), "N (D + 8) + 4 D C, C = sqrt(N)", "k-means of C cells")
    links = 8.0 * LINKS + 4.0 * LINKS / (LINKS - 1) + 12.0
    size = n * (4.0 * d + links)
    took = None if machine is None else n * LOOKS * LINKS * BREADTH * machine.distance / max(1, machine.threads)
    return IndexCost(
        kind, size, size, took, f"N (4 D + 8 M + 16), M = {LINKS}", f"{LOOKS:g} x M x {BREADTH} distances a row"
    )
