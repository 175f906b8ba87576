"""Compressed search from disk: vectors that never lie in memory together, made, compressed and searched in pieces.

Made vectors (see `made.clustered`) are written in shards, realm's compressed index is built from the mapped shards at
a recall, and opened again. "first touch": the vectors are put out of the system's cache before, so every candidate
that is scored again is read from the disk; "again": what was read stays in the cache. Memory is what the process holds
of its own (RssAnon), which the mapped vectors are no part of, and the peak of building (with mapped pages, VmHWM).
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from argparse import Namespace, _ArgumentGroup
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.memory import peak_of
from benchmarks.core.record import Row
from benchmarks.core.timing import Contestant
from benchmarks.suites.search import K, recall, turning
from realm.search import tuning
from realm.search.compressed import CompressedIndex
from realm.search.exact import ExactIndex
from realm.search.shards import pack, seal, shard_name, write_shard

SHARD_ROWS = 1 << 20
CHECKED = 256
QUICK = {"rows": 6000, "dim": 32, "batches": [1, 8]}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--scratch", type=Path, help="folder on the disk that is measured; rows x dim x 4 bytes free")


def run(bench: Bench, options: Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "index"
        most = max(*options.batches, CHECKED)
        bench.say(f"writing {4e-9 * options.rows * options.dim:.1f} GB of vectors")
        query = torch.from_numpy(write(folder, options.rows, options.dim, 2 * most))
        size = {"size": options.rows, "of": "vectors"}
        before = own_bytes()
        index = bench.once(
            "compress on disk",
            "realm",
            partial(_make, folder, options.recall),
            items=options.rows,
            unit="vectors",
            **size,
        )
        facts = {
            name: index.chosen[name] for name in ("kind", "effort", "ratio", "bytes_a_row") if name in index.chosen
        }
        for tried in index.chosen["tried"]:
            bench.say(f"  {tried}")
        del index
        gc.collect()
        forget(folder)
        held = own_bytes()
        opened = bench.once("open from disk", "realm", partial(CompressedIndex.open, folder / "compressed"), **size)
        facts["own_bytes_a_row"] = round((own_bytes() - held) / options.rows, 1)
        bench.note(
            f"own memory before building {before / 1e9:.2f} GB, of the opened index {(own_bytes() - held) / 1e9:.2f} GB"
        )
        forget(folder)
        cold = timed(opened, query[:most], 100 if not bench.quick else 5)
        bench.add(
            Row(work="search from disk, first touch", who="realm", role="realm", seconds=cold, facts=facts, **size)
        )
        checked = query[most : most + CHECKED]
        right = opened.exact.search(checked, K).rows.numpy()
        facts[f"recall@{K}"] = recall(opened.search(checked, K).rows.numpy(), right)
        for batch in options.batches:
            contestants = [
                Contestant(
                    who="realm",
                    role="realm",
                    run=turning(opened.search, query[:most], batch, K),
                    items=batch,
                    facts=facts,
                ),
                Contestant(
                    who="realm, exact",
                    role="variant",
                    run=turning(opened.exact.search, query[:most], batch, K),
                    items=batch,
                    facts={f"recall@{K}": 1.0},
                ),
            ]
            bench.contest(
                f"search from disk, again, batch {batch}", contestants, unit=None if batch == 1 else "queries", **size
            )


def write(folder: Path, rows: int, dim: int, queries: int) -> np.ndarray:
    """The index of made vectors, a shard in memory at a time; the queries behind them."""
    folder.mkdir(parents=True)
    kept: list[np.ndarray] = []
    ranges: list[tuple[int, int]] = []
    first = waiting = 0

    def shard(vector_ND: np.ndarray) -> None:
        nonlocal first
        last = first + len(vector_ND)
        write_shard(folder / shard_name(len(ranges), first, last), pack(torch.from_numpy(vector_ND), "float32"))
        ranges.append((first, last))
        first = last

    for part_ND in made.clustered_parts(rows, dim, queries=queries):
        kept.append(part_ND)
        waiting += len(part_ND)
        if waiting >= SHARD_ROWS and first + waiting <= rows:
            shard(np.concatenate(kept))
            kept, waiting = [], 0
    rest_ND = np.concatenate(kept)
    left = rows - first
    if left:
        shard(rest_ND[:left])
    seal(folder, ranges, dim=dim, dtype="float32", facts={"snapshot": "made", "encoder": "made"})
    return np.ascontiguousarray(rest_ND[left:])


def _make(folder: Path, wanted: float) -> CompressedIndex:
    index = tuning.build(ExactIndex.open(folder), wanted)
    index.save(folder / "compressed", beside=True)
    return index


def timed(index: CompressedIndex, query: torch.Tensor, count: int) -> tuple[float, ...]:
    """Seconds of single queries, each asked once."""
    found = []
    for number in range(min(count, len(query))):
        began = time.perf_counter()
        index.search(query[number : number + 1], K)
        found.append(time.perf_counter() - began)
    return tuple(found)


def forget(folder: Path) -> None:
    """Put the vectors out of the system's cache; pages that a process has mapped stay."""
    for file in folder.glob("*.npy"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def own_bytes() -> int:
    """What the process holds that no file backs; 0 where the system doesn't say."""
    peak_of(lambda: None)  # hands back what was freed
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return 1024 * int(line.split()[1])
