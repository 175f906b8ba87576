"""Search for the nearest vectors: exact against faiss and the memory bandwidth, and compressed at a stated recall.

Unit vectors of an encoder's kind (see `made.clustered`), inner products, k = 10. Exact: realm's index in each of its
storage types, faiss flat and usearch exact, with memory bandwidth (one query) or the matrix product (many) as limit;
vectors that fit a cache are read faster than memory.
Compressed: every index is set to what reaches the recall against the exact result in the least time, over 256 queries
that are not those that are timed; realm's chooses its kind by the same queries, half of which check what it chose.
Memory: bytes a row are what the index holds, for realm's the codes; its exact vectors lie beside them, mapped where the
index was opened from disk (`python -m benchmarks ondisk`), in memory here.
"""

from __future__ import annotations

import math
import tempfile
import time
from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.timing import Contestant
from benchmarks.suites.indexes import PEERS, Approximate
from realm.search import tuning
from realm.search.compressed import CompressedIndex
from realm.search.exact import ExactIndex

K = 10
TUNING = 256
ENOUGH = 8
"""Settings that reach a recall and are timed: behind the cheapest there may be a faster one of another balance."""
QUICK = {"rows": [500, 1000, 2000], "dim": 32, "batches": [1, 8], "dtypes": ["float32", "int8"], "approximate": [2000]}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.95, 0.99])
    parser.add_argument("--approximate", type=int, nargs="*", default=[1_000_000], help="rows of the compressed search")


def run(bench: Bench, options: Namespace) -> None:
    for rows in options.rows:
        if not bench.fits(f"search over {rows:,} vectors", 2.3 * 4 * rows * options.dim):
            continue
        most = max([*options.batches, TUNING])
        vector_ND = made.clustered(rows, options.dim, queries=2 * most)
        query_QD, vector_ND = vector_ND[rows:].copy(), vector_ND[:rows]
        ours = {dtype: ExactIndex(torch.from_numpy(vector_ND), dtype=dtype) for dtype in options.dtypes}
        for batch in options.batches:
            exact(bench, options, ours, vector_ND, query_QD[:most], batch)
        if rows in options.approximate:
            approximate(bench, options, ours, vector_ND, query_QD, most)


def exact(
    bench: Bench,
    options: Namespace,
    ours: dict[str, ExactIndex],
    vector_ND: np.ndarray,
    query_QD: np.ndarray,
    batch: int,
) -> None:
    rows, first_BD = len(vector_ND), query_QD[:batch]
    query = torch.from_numpy(first_BD)
    right = next(iter(ours.values())).search(query, K).rows.numpy()
    contestants = []
    for dtype, index in ours.items():
        facts = {"storage": dtype, f"recall@{K}": recall(index.search(query, K).rows.numpy(), right)}
        role, name = ("realm", "realm") if not contestants else ("variant", f"realm, {dtype}")
        contestants.append(
            Contestant(
                who=name,
                role=role,
                run=turning(index.search, torch.from_numpy(query_QD), batch, K),
                items=batch,
                facts=facts,
            )
        )
    faiss = bench.peer("faiss", "faiss flat")
    if faiss is not None and bench.fits("faiss flat", 1.2 * vector_ND.nbytes):
        faiss.omp_set_num_threads(options.threads)
        flat = faiss.IndexFlatIP(vector_ND.shape[1])
        flat.add(vector_ND)
        facts = {f"recall@{K}": recall(flat.search(first_BD, K)[1], right)}
        contestants.append(
            Contestant(who="faiss flat", run=turning(flat.search, query_QD, batch, K), items=batch, facts=facts)
        )
    usearch = bench.peer("usearch.index", "usearch exact")
    if usearch is not None:
        metric, threads = usearch.MetricKind.IP, options.threads
        find = partial(usearch.search, vector_ND, count=K, metric=metric, exact=True, threads=threads)
        keys = np.asarray(find(query=first_BD).keys).reshape(batch, -1)
        facts = {f"recall@{K}": recall(keys, right)}
        contestants.append(
            Contestant(
                who="usearch exact",
                run=turning(lambda query: find(query=query), query_QD, batch),
                items=batch,
                facts=facts,
            )
        )
    contestants.append(_limit(bench, vector_ND, batch))
    bench.contest(
        f"exact search, batch {batch}",
        contestants,
        unit=None if batch == 1 else "queries",
        size=rows,
        of="vectors",
    )


def _limit(bench: Bench, vector_ND: np.ndarray, batch: int) -> Contestant:
    """One query must read every vector; many must be multiplied with each."""
    one = bench.reads(vector_ND.nbytes) if batch <= 4 else bench.products(2.0 * vector_ND.size * batch)
    one.items = batch
    return one


def approximate(
    bench: Bench,
    options: Namespace,
    ours: dict[str, ExactIndex],
    vector_ND: np.ndarray,
    query_QD: np.ndarray,
    most: int,
) -> None:
    index = next(iter(ours.values()))
    tuning_QD = query_QD[most : most + TUNING]
    right = index.search(torch.from_numpy(tuning_QD), K).rows.numpy()
    with tempfile.TemporaryDirectory() as folder:
        built: list[tuple[Approximate, dict[str, Any], int | None]] = []
        for who, peer in PEERS.items():
            if bench.peer(peer.module, who) is None or not bench.fits(
                who, peer.bytes_a_row(vector_ND) * len(vector_ND)
            ):
                continue
            bench.say(f"building {who}")
            made_index, cost = bench.build(partial(peer.build, vector_ND, options.threads, Path(folder)))
            facts = {"build_seconds": round(cost.seconds, 1), **made_index.facts}
            built.append((made_index, facts, cost.peak_bytes))
        for wanted in options.recalls:
            chosen = []
            for one, facts, peak in built:
                reached, setting = tune(one, tuning_QD, right, wanted)
                if reached < wanted:
                    bench.absent(f"{one.who} at recall {wanted:g}", f"reaches {reached:.3f} with {setting}")
                    continue
                chosen.append((one, setting, {**facts, **setting, f"recall@{K}": round(reached, 3)}, peak))
            ours_at, ours_facts, ours_peak = compressed(bench, index, tuning_QD, right, wanted)
            for batch in options.batches:
                contestants = [
                    Contestant(
                        who=who,
                        role=role,
                        run=turning(one.search, torch.from_numpy(query_QD[:most]), batch, K),
                        items=batch,
                        facts=facts,
                        held_bytes=held,
                    )
                    for who, role, one, facts, held in (
                        ("realm", "realm", ours_at, ours_facts, ours_peak),
                        ("realm, exact", "variant", index, {f"recall@{K}": 1.0}, None),
                    )
                ]
                for one, setting, facts, peak in chosen:
                    find = turning(partial(one.search, **setting), query_QD[:most], batch, K)
                    contestants.append(Contestant(who=one.who, run=find, items=batch, facts=facts, held_bytes=peak))
                bench.contest(
                    f"compressed search at recall {wanted:g}, batch {batch}",
                    contestants,
                    unit=None if batch == 1 else "queries",
                    size=len(vector_ND),
                    of="vectors",
                )


def turning(find: Callable[..., object], query_QD: Any, batch: int, *more: Any) -> Callable[[], None]:
    """Asks the next `batch` queries at every call: one that is asked again finds its way in the processor's caches."""
    firsts = cycle(range(0, len(query_QD) - batch + 1, batch))

    def run() -> None:
        first = next(firsts)
        find(query_QD[first : first + batch], *more)

    return run


def compressed(
    bench: Bench, exact: ExactIndex, tuning_QD: np.ndarray, right: np.ndarray, wanted: float
) -> tuple[CompressedIndex, dict[str, Any], int | None]:
    """Realm's compressed index for a recall, what it tells of itself, and the most memory that its making took."""
    bench.say(f"building realm's at recall {wanted:g}")
    query = torch.from_numpy(tuning_QD)
    index, cost = bench.build(partial(tuning.build, exact, wanted, queries=query))
    chosen = index.chosen
    for one in chosen["tried"]:
        bench.say(f"  {one}")
    facts = {
        "build_seconds": round(cost.seconds, 1),
        "kind": chosen["kind"],
        **{name: chosen[name] for name in ("effort", "ratio", "bytes_a_row") if name in chosen},
        f"recall@{K}": round(recall(index.search(query, K).rows.numpy(), right), 3),
        "kinds_tried": len(chosen["tried"]),
    }
    return index, facts, cost.peak_bytes


def tune(index: Approximate, query_QD: np.ndarray, right: np.ndarray, wanted: float) -> tuple[float, dict[str, Any]]:
    """Of the first settings that reach a recall the fastest; the last setting and its recall if none does."""
    found, setting = 0.0, {}
    reaching: list[tuple[float, float, dict[str, Any]]] = []
    for setting in index.settings:
        found = recall(index.search(query_QD, K, **setting), right)
        if found >= wanted:
            reaching.append((_seconds(index, query_QD, setting), found, setting))
        if len(reaching) == ENOUGH:
            break
    if reaching:
        _, found, setting = min(reaching, key=lambda one: one[0])
    return found, setting


def _seconds(index: Approximate, query_QD: np.ndarray, setting: dict[str, Any]) -> float:
    """The geometric mean of a query's time alone and in a batch; the least of three times."""
    least = []
    for batch in (1, 64):
        parts = [query_QD[first : first + batch] for first in range(0, max(batch, 32), batch)]
        times = []
        for _ in range(3):
            began = time.perf_counter()
            for part in parts:
                index.search(part, K, **setting)
            times.append((time.perf_counter() - began) / sum(len(part) for part in parts))
        least.append(min(times))
    return math.sqrt(least[0] * least[1])


def recall(rows_BK: np.ndarray, right_BK: np.ndarray) -> float:
    """Share of the right rows that were found."""
    same = (np.asarray(rows_BK)[:, :, None] == right_BK[:, None, :]).any(1)
    return round(float(same.mean()), 4)
