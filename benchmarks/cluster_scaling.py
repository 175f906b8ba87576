"""What a cluster would take: a refresh and a search over 13.35M and 1B passages with 1 to 64 workers, simulated.

    python -m benchmarks cluster [--passages 13353718 1000000000] [--workers 1 2 4 8 16 32 64]
        [--embed-rate PASSAGES_A_SECOND] [--latency-ms 0.25] [--link-gbit 10] [--store-gbit 20]
        [--processor-time] [--json FILE] [--quick]

What one worker does is measured here, on this machine (embedding, searching, writing and hashing a shard, merging hits,
a call through Ray where it is installed); what lies between workers is a model with the arguments' latency and
bandwidths. No machine but this one took part: the tables say what to expect where the model holds, and the formula of
each column stands below them. --embed-rate: of a worker that is measured elsewhere, such as a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from realm.errors import MissingLibraryError
from realm.search.cluster.sharded import merge
from realm.search.embed import ROWS_PER_SHARD, embed_rows
from realm.search.exact import ExactIndex
from realm.search.shards import pack, shard_hashes, write_shard
from realm.types import Tokens

GUESSED_CALL = 3e-4
"""Seconds of a call through Ray where it is not installed: of the order that its makers tell."""


@dataclass(frozen=True)
class Network:
    """What lies between the machines."""

    latency: float
    """Seconds one way."""
    link: float
    """Bytes a second into or out of one machine."""
    store: float
    """Bytes a second into or out of the shared folder, all machines together."""

    def shared(self, workers: int) -> float:
        """Bytes a second that each of so many workers gets from the shared folder at once."""
        return min(self.link, self.store / workers)


@dataclass(frozen=True)
class Worker:
    """What one does, and the index."""

    embed: float
    """Passages a second."""
    search: dict[int, float]
    """Seconds a row, by queries at once."""
    merge: dict[str, float]
    """Seconds, by "queries x parts"."""
    call: float
    """Seconds of the caller's for one call and its answer."""
    write: float
    """Bytes a second to this machine's disk, flushed."""
    hashed: float
    """Bytes a second."""
    parameters: int = 440_000_000
    """Bytes of the encoder as published; BERT-base in float32."""
    dim: int = 128
    bytes_a_number: int = 4
    rows_a_shard: int = ROWS_PER_SHARD
    k: int = 10

    @property
    def shard(self) -> int:
        """Bytes."""
        return self.rows_a_shard * self.dim * self.bytes_a_number


def refresh_seconds(worker: Worker, net: Network, passages: int, workers: int) -> dict[str, float]:
    """From published parameters to a sealed index, by part."""
    share = net.shared(workers)
    waves = math.ceil(math.ceil(passages / worker.rows_a_shard) / workers)
    return {
        "load": worker.parameters / share,
        "embed": waves * min(worker.rows_a_shard, passages) / worker.embed,
        "write": waves * (worker.shard / min(share, worker.write) + worker.shard / worker.hashed),
        "calls": waves * (2 * net.latency + workers * worker.call),
    }


def search_seconds(worker: Worker, net: Network, passages: int, workers: int, queries: int) -> dict[str, float]:
    """From query vectors at one machine to the merged hits there, by part."""
    return {
        "scan": math.ceil(passages / workers) * worker.search[queries],
        "send": workers * queries * worker.dim * 4 / net.link + 2 * net.latency,
        "gather": workers * queries * worker.k * 12 / net.link,
        "calls": workers * worker.call,
        "merge": worker.merge[f"{queries} x {workers}"],
    }


FORMULAS = """\
N passages, W workers, D numbers a vector of b bytes, S rows a shard, R passages/s of a worker, P bytes of parameters;
B queries, K hits; s(B) seconds a row; c seconds a call; L latency one way, G bytes/s of a link, F of the shared folder;
d bytes/s of a disk, h of the hash; G' = min(G, F / W).
refresh   P / G'  +  waves * (S / R  +  S D b / min(G', d)  +  S D b / h  +  2 L  +  W c); waves: ceil(ceil(N / S) / W)
speedup   refresh with one worker / refresh with W
memory    N / W * D * b, of each worker that holds a part of the index
search    2 L + W B D 4 / G + ceil(N / W) s(B) + W B K 12 / G + W c + merge of W K hits for B queries
scan      the share of `search` that is ceil(N / W) s(B); the rest is the price of being many"""


# ---------------------------------------------------------------- measuring


Clock = Callable[[], float]


def timed(work: Callable[[], object], *, least: float, clock: Clock = time.perf_counter) -> float:
    """Median seconds of a call, after one that is not counted."""
    work()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < least:
        began = clock()
        work()
        taken.append(clock() - began)
    return median(taken)


class Even:
    """Passages of one length, of random token ids."""

    fingerprint = "even"

    def __init__(self, passages: int, tokens: int, vocabulary: int) -> None:
        self._ids = torch.randint(1, vocabulary, (passages, tokens), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._ids)

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        return np.full(len(self), min(max_tokens, self._ids.shape[1]), np.int32)

    def passages(self, rows: torch.Tensor, max_tokens: int) -> Tokens:
        ids = self._ids[rows, :max_tokens]
        return Tokens(ids, torch.zeros_like(ids), torch.full((len(ids),), ids.shape[1]))


def embed_rate(layers: int, width: int, tokens: int, passages: int, clock: Clock) -> float:
    from benchmarks.suites.refresh import VOCABULARY, BertEncoder

    encoder, source = BertEncoder(layers, width).eval(), Even(passages, tokens, VOCABULARY)
    return passages / timed(lambda: embed_rows(encoder, source, max_tokens=tokens), least=1.0, clock=clock)


def search_rates(rows: int, dim: int, k: int, batches: tuple[int, ...], storage: str, clock: Clock) -> dict[int, float]:
    vector_ND = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
    index, query_BD = ExactIndex(vector_ND, dtype=storage), torch.randn(max(batches), dim)
    found = {}
    for batch in batches:
        found[batch] = timed(lambda: index.search(query_BD[:batch], k), least=0.5, clock=clock) / rows  # noqa: B023
    return found


def merge_seconds(queries: int, parts: int, k: int, clock: Clock) -> float:
    draw = np.random.default_rng(0)
    score_BK = -np.sort(-draw.standard_normal((parts, queries, k), dtype=np.float32), axis=2)
    rows_BK = np.tile(np.arange(k), (queries, 1))
    found = [(rows_BK, score, 1000 * number) for number, score in enumerate(score_BK)]
    return timed(lambda: merge(found, k), least=0.02, clock=clock)


def disk_rates(shard_bytes: int, clock: Clock) -> tuple[float, float]:
    vector_ND = torch.randn(shard_bytes // 512, 128)
    with tempfile.TemporaryDirectory() as name:
        places = iter(range(10**6))

        def write() -> None:
            path = Path(name) / f"shard-{next(places)}.npy"
            write_shard(path, pack(vector_ND, "float32"))
            path.unlink()

        kept = Path(name) / "shard-kept.npy"
        write_shard(kept, pack(vector_ND, "float32"))
        size = 4 * vector_ND.numel()
        return size / timed(write, least=0.3), size / timed(lambda: shard_hashes(kept), least=0.3, clock=clock)


class Echo:
    """A worker that does nothing."""

    def echo(self, value: Any) -> Any:
        return value


def call_seconds(calls: int, clock: Clock) -> float | None:
    """Of the caller's, for one call and its answer among many; None where Ray is not installed."""
    from realm.search.cluster import engine

    try:
        engine.connect()
    except MissingLibraryError:
        return None
    worker = engine.start(Echo, (), engine.Needs(1.0), calls=1)
    query = np.zeros((1, 128), np.float32)

    def ask() -> None:
        left = [engine.ask(worker, "echo", query) for _ in range(calls)]
        while left:
            done = set(engine.wait(left, 10.0))
            for call in done:
                engine.result(call)
            left = [call for call in left if call not in done]

    return timed(ask, least=1.0, clock=clock) / calls


def measure(options: argparse.Namespace) -> tuple[Worker, list[str]]:
    """The rates of this machine, and what to say of them."""
    torch.set_num_threads(options.threads)
    batches, quick = (1, 64), options.quick
    clock = time.process_time if options.processor_time else time.perf_counter
    call = options.call_us * 1e-6 if options.call_us else call_seconds(50 if quick else 500, clock)
    write, hashed = disk_rates(1 << 20 if quick else ROWS_PER_SHARD * 512, clock)
    rate = options.embed_rate or embed_rate(options.layers, options.width, options.tokens, 2 if quick else 64, clock)
    worker = Worker(
        embed=rate,
        search=search_rates(20_000 if quick else 500_000, options.dim, options.k, batches, options.storage, clock),
        merge={f"{b} x {w}": merge_seconds(b, w, options.k, clock) for b in batches for w in options.workers},
        call=GUESSED_CALL if call is None else call,
        write=write,
        hashed=hashed,
        dim=options.dim,
        bytes_a_number={"float32": 4, "bfloat16": 2, "int8": 1}[options.storage],
        k=options.k,
    )
    where = "given" if options.embed_rate else f"{options.layers} layers of {options.width}, measured here"
    notes = [
        f"a worker: {options.threads} thread{'s' * (options.threads > 1)}; embeds {rate:,.1f} passages/s of "
        f"{options.tokens} tokens ({where})",
        f"searches {1e9 * worker.search[1]:.3g} ns a row for one query, {1e9 * worker.search[64]:.3g} ns for 64 "
        f"({options.storage}, {options.dim} numbers)",
        f"writes {write / 1e6:,.0f} MB/s, hashes {hashed / 1e6:,.0f} MB/s; a call takes {1e6 * worker.call:,.0f} us"
        + (" (guessed: Ray is not installed)" if call is None else ""),
    ]
    if options.processor_time:
        notes.append("but for the disk's, these are of processor time: the machine was busy with other work")
    return worker, notes


# ---------------------------------------------------------------- showing


def rows_of(worker: Worker, net: Network, passages: int, counts: list[int]) -> list[dict[str, float]]:
    alone = sum(refresh_seconds(worker, net, passages, 1).values())
    rows = []
    for count in counts:
        refresh = sum(refresh_seconds(worker, net, passages, count).values())
        one, many = (search_seconds(worker, net, passages, count, queries) for queries in (1, 64))
        rows.append(
            {
                "workers": count,
                "refresh_hours": refresh / 3600,
                "speedup": alone / refresh,
                "memory_bytes": math.ceil(passages / count) * worker.dim * worker.bytes_a_number,
                "search_1_seconds": sum(one.values()),
                "search_1_scan": one["scan"] / sum(one.values()),
                "search_64_seconds": sum(many.values()),
                "search_64_scan": many["scan"] / sum(many.values()),
            }
        )
    return rows


def show(console: Console, passages: int, rows: list[dict[str, float]]) -> None:
    table = Table(title=f"{passages:,} passages (simulated)", title_justify="left", title_style="bold")
    names = ("workers", "refresh", "speedup", "memory of each", "search, 1 query", "scan", "search, 64 queries", "scan")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row['workers']:.0f}",
            f"{row['refresh_hours']:,.2f} h",
            f"{row['speedup']:.1f}",
            f"{row['memory_bytes'] / 1e9:,.2f} GB",
            f"{1e3 * row['search_1_seconds']:,.1f} ms",
            f"{row['search_1_scan']:.0%}",
            f"{1e3 * row['search_64_seconds']:,.0f} ms",
            f"{row['search_64_scan']:.0%}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, nargs="+", default=[13_353_718, 1_000_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--embed-rate", type=float, help="passages/s of a worker; measured here if not given")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=288)
    parser.add_argument("--threads", type=int, default=1, help="of a worker")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--storage", choices=("float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--latency-ms", type=float, default=0.25, help="one way")
    parser.add_argument("--link-gbit", type=float, default=10.0, help="of a machine")
    parser.add_argument("--store-gbit", type=float, default=20.0, help="of the shared folder, in all")
    parser.add_argument("--call-us", type=float, help="of a call through Ray; measured here if not given")
    parser.add_argument("--processor-time", action="store_true", help="on a busy machine, for workers of one thread")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="seconds, rates that say nothing; for trying it out")
    options = parser.parse_args()
    if options.quick:
        options.layers, options.width = 1, 64
    net = Network(1e-3 * options.latency_ms, 1.25e8 * options.link_gbit, 1.25e8 * options.store_gbit)
    worker, notes = measure(options)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    for note in notes:
        console.print(note)
    console.print(
        f"the network: {options.latency_ms:g} ms one way, {options.link_gbit:g} Gbit/s a machine, "
        f"{options.store_gbit:g} Gbit/s of the shared folder"
    )
    found = {}
    for passages in options.passages:
        found[str(passages)] = rows_of(worker, net, passages, options.workers)
        show(console, passages, found[str(passages)])
    console.print(FORMULAS)
    if options.json is not None:
        told = {"worker": asdict(worker), "network": asdict(net), "passages": found, "notes": notes}
        options.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
