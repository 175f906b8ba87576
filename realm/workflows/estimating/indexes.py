"""What an index of each kind takes, from its layout, and what building it costs.

Compressed kinds are those of `realm.search.codes`, whose bytes a row they are; `hnsw` is a graph over the float32
vectors as faiss has it (M links of 4 bytes, twice as many in the lowest layer; Malkov & Yashunin 2018), `lance` the
inverted file that a knowledge base keeps. Building is turning the rows, k-means (10 rounds over 64 rows a cell), a look
for each row's cell, and codes of 16 words; or a walk through the graph for each row.

Legend: N rows, D vector size, C cells, M links.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from realm.errors import UsageError
from realm.search.codes import PER_LIST, Plan
from realm.workflows.estimating.coding import CODED_LINKS, GRAPH_ROWS, WORDS
from realm.workflows.estimating.machine import Machine

LINKS = 32
"""Of the graph over float32: M."""
STARTED, SHARE = 0.12, 0.75
"""Seconds before anything is learnt (the axes' eigenvectors, threads), and of the best rate of products what the many
rows with few have: 0.35 s at 9,052 x 384 and 1.73 s at 102,464, where 200 GFLOP/s were the best."""
BIT_SHARE = 0.7
"""What a row's code of a bit a dimension takes beside its product code: 8.4 and 11.4 microseconds of 384 dimensions."""
GROWS = 0.19
"""A row's way grows as the rows to this power: 0.18 from 9,052 to 102,464 rows of passages on two threads, 0.19 from
4,096 to 21,872 on one, of made vectors 0.22."""
ROUNDS, CODE_ROUNDS, CODE_SHARE = 10, 25, 1.05
"""Of k-means; of learning the words, and a row's cost there beside that of coding one, on two cores."""
CODE_ROWS = 256 * WORDS
"""Most rows that faiss learns the words from."""
SAMPLE = 65_536
"""Most rows that the axes and the codes are learnt from, where cells don't want more."""
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
    """About twice the root of the rows, and a power of two: the smaller number that `realm.search.tuning` tries."""
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
        way = None if machine is None or machine.graphed is None else machine.graphed * links / CODED_LINKS
        took = None
        if machine is not None and way is not None:
            turned = _turning(n, min(n, SAMPLE), d) / (SHARE * machine.host_matmul) if kind == "hnsw-sq" else 0.0
            took = turned + n * way * max(1.0, n / GRAPH_ROWS) ** GROWS
        told = (
            _unknown(machine) if way is None else f"{1e6 * way:,.3g} us a row of {GRAPH_ROWS:,}, growing as N^{GROWS:g}"
        )
        if kind == "hnsw":
            size = n * (4.0 * d + 8.0 * links + 4.0 * links / (links - 1) + 12.0)
            return IndexCost(kind, size, size, took, f"N (4 D + 8 M + 16), M = {links}", told)
        size = n * Plan(kind, d, links=links).bytes_a_row() + 4.0 * d * d
        return IndexCost(kind, size, size + exact, took, f"N (D + 8.5 M + 12) + 4 D D, M = {links}", told)
    if kind == "lance":
        c = max(1, round(math.sqrt(n)))
        size = n * (d + 8.0) + c * 4.0 * d
        took = None if machine is None else _learning(n, n, c, d) / (SHARE * machine.host_matmul)
        disk = size + 4.0 * d * (n + documents)
        return IndexCost(kind, size, disk, took, "N (D + 8) + 4 D C, C = sqrt(N)", "k-means, each row's cell")
    c = cells(n)
    code, filled, more = {
        "ivf-pq": ("D / 2 + 8", 16 * d / 2, " + 8 C D"),
        "ivf-rabitq": ("D / 8 + 20", 16 * d / 8, " + 2 C D"),
        "ivf-sq": ("D + 8", 0.0, ""),
    }[kind]
    row = Plan(kind, d, lists=c, pieces=d if kind == "ivf-pq" else 0).bytes_a_row()
    size = n * row + 4.0 * d * (c + d) + c * filled  # scanned lists are filled up to 32 rows each
    sample = min(n, max(PER_LIST * c, SAMPLE))
    learn = _learning(n, sample, c, d) + _turning(n, sample, d) + 2.0 * d * d * n  # turned for the cells and the codes
    seconds = None if machine is None else STARTED + learn / (SHARE * machine.host_matmul)
    told = f"rows turned, {ROUNDS} rounds of k-means over {PER_LIST} rows a cell, each row's cell"
    if kind != "ivf-sq":
        learning = f", {CODE_ROUNDS} rounds for codes of {WORDS} words" if kind == "ivf-pq" else ""
        told += f"{learning}, each row's code"
        if machine is None or machine.coded is None or seconds is None:
            seconds, told = None, _unknown(machine)
        elif kind == "ivf-pq":
            seconds += machine.coded * (CODE_ROUNDS * CODE_SHARE * min(n, CODE_ROWS) + n)
        else:
            seconds += machine.coded * BIT_SHARE * n
    formula = f"N ({code}) + 4 D (C + D){more}, C = 2 sqrt(N)"
    return IndexCost(kind, size, size + exact, seconds, formula, told)


def _turning(rows: int, sample: int, dim: int) -> float:
    """Operations of finding the axes of a sample, in double precision, and of turning all rows onto them."""
    return 2.0 * dim * dim * (2 * sample + rows)


def _learning(rows: int, sample: int, means: int, dim: int) -> float:
    """Operations of k-means, and of a look for each row's cell and each row of the sample's."""
    return 2.0 * means * dim * (ROUNDS * min(rows, PER_LIST * means) + rows + min(sample, SAMPLE))


def _unknown(machine: Machine | None) -> str:
    return "of no machine in particular" if machine is None else "faiss is not installed here: nothing was measured"
