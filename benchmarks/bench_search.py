"""Exact search against faiss IndexFlatIP and against the memory bandwidth of the machine, side by side.

    python benchmarks/bench_search.py [--rows 100000 1000000] [--batches 1 64] [--seconds 4]

Each contestant runs with one and with two threads, in turn, round after round in one process; its time is that of its
best round, which is the one the neighbours of a shared machine disturbed least. The bandwidth limit is the time that
the fastest of three plain reads of the same vectors takes, over the same rounds. A ratio above 1 says how many times
longer exact search takes.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

import realm
from realm.search.exact import ExactIndex

DIM, K = 128, 10


def best_times(contestants: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Seconds of the best round of each, all of them in turn until `seconds` each are spent."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    end = time.perf_counter() + seconds * len(contestants)
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: min(found) for name, found in times.items()}


def with_threads(count: int, run: Callable[[], object]) -> Callable[[], object]:
    def wrapped() -> None:
        torch.set_num_threads(count)
        faiss.omp_set_num_threads(count)
        run()

    return wrapped


def contest(rows: int, batches: list[int], seconds: float, threads: list[int]) -> None:
    draw = np.random.default_rng(0)
    vector_ND = draw.standard_normal((rows, DIM), dtype=np.float32)
    peer = faiss.IndexFlatIP(DIM)
    peer.add(vector_ND)
    ours = ExactIndex(torch.from_numpy(vector_ND))
    flat = torch.from_numpy(vector_ND).view(-1)
    reads: dict[str, Callable[[], object]] = {
        "int64 max": flat.view(torch.int64).max,
        "float sum": flat.sum,
        "float max": flat.max,
    }
    for batch in batches:
        query_BD = draw.standard_normal((batch, DIM), dtype=np.float32)
        query = torch.from_numpy(query_BD)
        same = float(np.mean(peer.search(query_BD, K)[1] == ours.search(query, K).rows.numpy()))
        runs: dict[str, Callable[[], object]] = {}
        for count in threads:
            runs[f"ours, {count}T"] = with_threads(count, lambda query=query: ours.search(query, K))
            runs[f"faiss, {count}T"] = with_threads(count, lambda query_BD=query_BD: peer.search(query_BD, K))
            if batch == 1:
                runs.update({f"read {name}, {count}T": with_threads(count, read) for name, read in reads.items()})
        times = best_times(runs, seconds)
        print(f"\n{rows:,} x {DIM} float32, batch {batch}, k {K}; rows equal to those of faiss: {same:.1%}")
        for name, spent in times.items():
            print(f"  {name:20s} {spent * 1e3:9.2f} ms  {batch / spent:9.0f} queries/s")

        def best(who: str, times: dict[str, float] = times) -> float:
            return min(spent for name, spent in times.items() if name.startswith(who))

        print(f"  RATIO ours best : faiss best      {best('ours') / best('faiss'):.2f}  (wanted: at most 1.50)")
        if batch == 1:
            limit = best("read")
            print(f"  memory bandwidth limit in this run: {vector_ND.nbytes / limit / 1e9:.1f} GB/s")
            print(f"  RATIO ours best : bandwidth limit {best('ours') / limit:.2f}  (wanted: at most 1.50)")
            for count in threads:
                own = min(times[f"read {name}, {count}T"] for name in reads)
                print(f"    with {count} thread(s) each: {times[f'ours, {count}T'] / own:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each contestant")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}, faiss {faiss.__version__}, realm {realm.__version__}"
    )
    for rows in options.rows:
        contest(rows, options.batches, options.seconds, sorted({1, min(2, cores)}))


if __name__ == "__main__":
    main()
