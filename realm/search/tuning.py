"""Which compressed index reaches a recall in the least time: measured, on the vectors themselves.

Several kinds are built. Of each, every effort a search can make is tried on one half of held-out queries: how many
candidates it takes for the recall asked for, and how long the search then takes. The fastest setting that reaches the
recall on the other half, too, is taken. Between kinds bytes count a little, too: times on a machine that does other
work besides are not so exact that a tenth is worth seven times the memory.

Legend: B queries, C candidates, K hits, N rows, S rows of a sample, D vector size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from realm.errors import UsageError
from realm.search.codes import PER_LIST, Cells, Codes, Plan, cells, library, strongest
from realm.search.compressed import CompressedIndex, Level
from realm.search.exact import ExactIndex
from realm.types import Hits, Progress

FEW = 1_024
"""Up to so many rows nothing is faster than looking at all of them."""
DEPTHS = ((10, 1.0), (30, 1.0), (100, 1.0), (100, 0.3), (100, 0.1))
"""K, and the share of rows that are allowed, at which settings are measured; beyond the deepest, search is exact."""
QUERIES = 512
GRAPH_ROWS = 2_000_000
"""Up to so many rows graphs are tried: they take ten times as long to build as lists."""
MANY_ROWS = 500_000
"""From so many rows on, twice as many lists are tried, too: of a million made vectors 3 of 4,096 hold 95% of the hits,
12 of 2,048; of 200,000 4 of 2,048, and 2 of 1,024."""
_NOISE = 0.5
_RATIOS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
_LATER = 3
"""Efforts that are tried beyond the least that reaches the recall: more lists and fewer candidates may be faster."""
_MEMORY = 0.1
"""Twice the bytes a row are worth it for a search that is 7% faster, or more."""
_LONG = 2.0
"""Seconds from which on a timing is not repeated."""
_TIMED = 32
"""Single queries of a timing, ..."""
_TIMES = 3
"""... which is the least of so many."""


class Trial(NamedTuple):
    """A setting that reaches the recall."""

    effort: int
    ratio: float
    recall: float


class Asked(NamedTuple):
    """Held-out queries, and the score that a hit has at least."""

    query_BD: Tensor
    least_B: np.ndarray
    k: int
    allowed: Tensor | None

    def half(self, second: bool) -> Asked:
        at = slice(len(self.least_B) // 2, None) if second else slice(len(self.least_B) // 2)
        return Asked(self.query_BD[at], self.least_B[at], self.k, self.allowed)


def build(
    vectors: Tensor | ExactIndex,
    recall: float = 0.95,
    *,
    queries: Tensor | None = None,
    plans: Sequence[Plan] | None = None,
    batches: Sequence[int] = (1, 64),
    seed: int = 0,
    progress: Progress | None = None,
) -> CompressedIndex:
    """The fastest compressed index that reaches a recall, or one that is hardly slower and much smaller; exact search
    where that is the fastest.

    vectors: Float[N, D], or an exact index in memory or mapped from disk, which is read in pieces.
    recall: of the 10 and of the 100 best, on held-out queries. It counts scores, so that any of several equal rows is
    right. queries: Float[B, D] like those to come; stored rows, moved a little, where there are none.
    plans: the kinds to try; None tries those of `plans_for`, and takes exact search where that is as fast.
    batches: queries asked at once that the speed is judged by.
    UsageError: an impossible recall. MissingLibraryError: faiss is not installed.
    """
    if not 0 < recall < 1:
        raise UsageError(f"recall is {recall}: expected it between 0 and 1; exact search has 1")
    exact = vectors if isinstance(vectors, ExactIndex) else ExactIndex(vectors)
    best = CompressedIndex(exact, None)
    told: dict[str, Any] = {"recall": recall, "kind": "exact", "tried": []}
    if plans is None and len(exact) <= FEW:
        best.chosen = {**told, "because": f"{len(exact):,} rows are searched exactly in no time"}
        return best
    library()
    draw = np.random.default_rng(seed)
    asked = list(_questions(exact, queries, draw))
    cost = _seconds(best.search, asked[0], batches)
    least = _mean(cost) * (4.0 * exact.dim) ** _MEMORY
    told |= {"measured_recall": 1.0, "microseconds": _told(cost, batches), "exact_microseconds": _told(cost, batches)}
    sample_SD = _sample(exact, draw)
    listed = plans_for(len(exact), sample_SD) if plans is None else list(plans)
    shared: dict[tuple[int, int], Cells] = {}
    for number, plan in enumerate(listed):
        if progress is not None:
            progress(number, len(listed))
        began = time.perf_counter()
        if plan.lists and (plan.lists, plan.dims) not in shared:
            shared = {(plan.lists, plan.dims): cells(sample_SD, _pieces(exact), plan.lists, plan.dims, seed)}
        codes = Codes.build(plan, sample_SD, _pieces(exact), shared.get((plan.lists, plan.dims)), seed)
        report: dict[str, Any] = {"kind": str(plan), "bytes_a_row": round(plan.bytes_a_row(), 1)}
        report["build_seconds"] = round(time.perf_counter() - began, 1)
        told["tried"].append(report)
        found = _tuned(CompressedIndex(exact, codes), asked, recall, batches)
        if not found.levels:
            report["because"] = f"does not reach recall {recall:g}"
            continue
        cost = _seconds(found.search, asked[0], batches)
        first = found.levels[0]
        report |= {"effort": first.effort, "ratio": first.ratio, "measured_recall": first.recall}
        report["microseconds"] = _told(cost, batches)
        # Who names the kinds wants one of them: exact search is then what is left where none reaches the recall.
        worth = _mean(cost) * plan.bytes_a_row() ** _MEMORY
        if worth < least or (plans is not None and best.codes is None):
            best, least = found, worth
            names = ("kind", "bytes_a_row", "effort", "ratio", "measured_recall", "microseconds")
            told |= {name: report[name] for name in names}
    if progress is not None:
        progress(len(listed), len(listed))
    best.chosen = told
    return best


def plans_for(rows: int, sample_SD: np.ndarray) -> list[Plan]:
    """Kinds that are worth trying for so many rows, of those that are smaller than the vectors themselves."""
    dim = sample_SD.shape[1]
    found = dict[Plan, None]()
    few, *more = _lists(rows)
    for count, share, part in ((few, 0.95, 1), (few, 0.95, 2), *((many, 0.95, 1) for many in more), (few, 0.99, 1)):
        dims = min(dim - dim % 8, -(-strongest(sample_SD, share) // 8) * 8) or dim
        plan = Plan("ivf-pq", dims, lists=count, pieces=dims // part if dims % part == 0 else dims)
        if plan.bytes_a_row() < 4 * dim:
            found[plan] = None
    graph = Plan("hnsw-sq", dims, links=16)
    if rows <= GRAPH_ROWS and graph.bytes_a_row() < 4 * dim:
        found[graph] = None
    return list(found)


def _lists(rows: int) -> tuple[int, ...]:
    """About twice the root of the rows, and a power of two; of many rows twice as many besides."""
    few = 1 << max(4, round(math.log2(max(1.0, 2 * math.sqrt(rows)))))
    return (few, 2 * few) if rows >= MANY_ROWS else (few,)


def recall_of(index: CompressedIndex, asked: Asked) -> float:
    """Share of the hits that exact search would give, or equally good ones."""
    score_BK = index.search(asked.query_BD, asked.k, allowed=asked.allowed).scores.numpy()
    return float((score_BK >= asked.least_B[:, None]).sum(1).clip(max=asked.k).mean() / asked.k)


# ---------------------------------------------------------------- trying


def _tuned(index: CompressedIndex, asked: Sequence[Asked], recall: float, batches: Sequence[int]) -> CompressedIndex:
    """The index with its levels: none where not even the first reaches the recall."""
    assert index.codes is not None
    levels: list[Level] = []
    for number, one in enumerate(asked):
        depth = round(one.k / (1.0 if one.allowed is None else DEPTHS[number][1]))
        fastest: list[tuple[float, Level]] = []
        for trial in _trials(index, one.half(False), recall):
            level = Level(depth, trial.effort, trial.ratio, 0.0)
            with_it = CompressedIndex(index.exact, index.codes, [level])
            seconds = _mean(_seconds(with_it.search, one, batches if number == 0 else batches[-1:]))
            fastest.append((seconds, level))
        for _, level in sorted(fastest, key=lambda found: found[0]):
            checked = recall_of(CompressedIndex(index.exact, index.codes, [level]), one.half(True))
            if checked >= recall:
                levels.append(Level(level.depth, level.effort, level.ratio, round(checked, 4)))
                break
        else:
            break
    return CompressedIndex(index.exact, index.codes, levels)


def _trials(index: CompressedIndex, asked: Asked, recall: float) -> Iterator[Trial]:
    """Of each effort the least candidates that reach the recall, and one step more; cheap efforts first."""
    assert index.codes is not None
    query_BD, rows = asked.query_BD.numpy(), len(index)
    keep = None if asked.allowed is None else np.packbits(asked.allowed.numpy(), bitorder="little")
    beyond = 0
    for effort in index.codes.plan.efforts:
        most = min(math.ceil(_RATIOS[-1] * asked.k), rows)
        if index.codes.plan.links:
            most = min(most, effort)  # more would widen the walk
        if most < asked.k:
            continue
        row_BC = index.codes.candidates(query_BD, most, effort, keep)
        right_BC = index.score(query_BD, row_BC) >= asked.least_B[:, None]
        curve_C = right_BC.cumsum(1).clip(max=asked.k).mean(0) / asked.k
        enough = [
            ratio for ratio in _RATIOS if (at := math.ceil(ratio * asked.k)) <= most and curve_C[at - 1] >= recall
        ]
        for ratio in enough[:2]:
            yield Trial(effort, ratio, float(curve_C[math.ceil(ratio * asked.k) - 1]))
        beyond += bool(enough)
        if beyond > _LATER or (enough and enough[0] == 1.0):
            return


def _seconds(search: Callable[..., Hits], asked: Asked, batches: Sequence[int]) -> dict[int, float]:
    """Of a query, by how many are asked at once; the least of some times."""
    found = {}
    for batch in batches:
        parts = asked.query_BD[: max(batch, _TIMED)].split(batch)
        count = sum(len(part) for part in parts)
        search(parts[0], asked.k, allowed=asked.allowed)
        least, spent = math.inf, 0.0
        for _ in range(_TIMES):
            began = time.perf_counter()
            for part in parts:
                search(part, asked.k, allowed=asked.allowed)
            least = min(least, time.perf_counter() - began)
            spent += least
            if spent > _LONG:
                break
        found[batch] = least / count
    return found


def _mean(seconds: dict[int, float]) -> float:
    """Geometric, so that no batch outweighs another."""
    return math.exp(sum(math.log(one) for one in seconds.values()) / len(seconds))


def _told(seconds: dict[int, float], batches: Sequence[int]) -> dict[str, float]:
    return {str(batch): round(1e6 * seconds[batch], 1) for batch in batches}


# ---------------------------------------------------------------- vectors and queries


def _pieces(exact: ExactIndex) -> Iterator[np.ndarray]:
    return (piece.numpy() for piece in exact.pieces())


def _sample(exact: ExactIndex, draw: np.random.Generator) -> np.ndarray:
    count = min(len(exact), max(PER_LIST * _lists(len(exact))[-1], 65_536))
    rows = np.sort(draw.choice(len(exact), count, replace=False))
    sample_SD = exact.vectors(torch.from_numpy(rows)).numpy()
    return sample_SD[draw.permutation(count)]


def _questions(exact: ExactIndex, queries: Tensor | None, draw: np.random.Generator) -> Iterator[Asked]:
    """The held-out queries of every depth, and what exact search finds."""
    if queries is None:
        rows = draw.choice(len(exact), min(QUERIES, len(exact)), replace=False)
        vector_BD = exact.vectors(torch.from_numpy(rows)).numpy()
        moved_BD = draw.standard_normal(vector_BD.shape, dtype=np.float32) * vector_BD.std(axis=0)
        queries = torch.from_numpy(vector_BD + _NOISE * moved_BD)
    if len(queries) < 2:
        raise UsageError(f"{len(queries)} queries: expected at least two, one to choose by and one to check with")
    query_BD = queries.detach().to("cpu", torch.float32).contiguous()
    every = {}
    for k, share in DEPTHS:
        if k / share > len(exact) / 2:
            return
        if share not in every:
            allowed = None if share == 1 else torch.from_numpy(draw.random(len(exact)) < share)
            deepest = min(max(k for k, other in DEPTHS if other == share), len(exact))
            every[share] = allowed, exact.search(query_BD, deepest, allowed=allowed).scores.numpy()
        allowed, score_BK = every[share]
        least_B = score_BK[:, k - 1]
        # The same product summed in another order differs in the last bits.
        yield Asked(query_BD, least_B - 1e-6 * np.abs(least_B), k, allowed)
