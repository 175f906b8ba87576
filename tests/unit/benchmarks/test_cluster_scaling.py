"""The simulated cluster: the formulas of its columns, and where they lead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.cluster_scaling import Network, Worker, refresh_seconds, rows_of, search_seconds

FREE = Network(latency=0.0, link=1e30, store=1e30)
WORKER = Worker(
    embed=100.0,
    search={1: 1e-8, 64: 1e-7},
    merge={f"{b} x {w}": 0.0 for b in (1, 64) for w in (1, 2, 3, 4, 64)},
    call=0.0,
    write=1e30,
    hashed=1e30,
    rows_a_shard=1000,
)


def test_a_free_network_leaves_the_work_alone() -> None:
    for workers in (1, 2, 4):
        assert sum(refresh_seconds(WORKER, FREE, 8000, workers).values()) == pytest.approx(80 / workers)
        assert sum(search_seconds(WORKER, FREE, 8000, workers, 64).values()) == pytest.approx(8e-4 / workers)


def test_workers_that_wait_for_the_last_shard_save_nothing() -> None:
    """8 shards on 3 workers take 3 waves, as on 4 they take 2; 64 workers can't be faster than one shard."""
    taken = {w: sum(refresh_seconds(WORKER, FREE, 8000, w).values()) for w in (3, 4, 64)}
    assert taken == pytest.approx({3: 30, 4: 20, 64: 10})


def test_every_column_by_hand() -> None:
    net = Network(latency=0.5, link=1000.0, store=2000.0)
    worker = replace(WORKER, call=0.25, write=400.0, hashed=256.0, parameters=1500, dim=2, merge={"64 x 4": 7.0})
    # Each of four gets 500 bytes/s of the folder's 2000; a shard is 1000 * 2 * 4 bytes; 5 shards make 2 waves of 4.
    assert refresh_seconds(worker, net, 5000, 4) == pytest.approx(
        {"load": 3.0, "embed": 20.0, "write": 2 * (8000 / 400 + 8000 / 256), "calls": 2 * (1.0 + 1.0)}
    )
    assert search_seconds(worker, net, 5001, 4, 64) == pytest.approx(
        {
            "scan": 1251 * 1e-7,
            "send": 4 * 64 * 2 * 4 / 1000 + 1.0,
            "gather": 4 * 64 * 10 * 12 / 1000,
            "calls": 1.0,
            "merge": 7.0,
        }
    )


def test_rows_of_the_table() -> None:
    one, four = rows_of(WORKER, FREE, 8000, [1, 4])
    assert (one["speedup"], four["speedup"]) == pytest.approx((1, 4))
    assert (one["memory_bytes"], four["memory_bytes"]) == (8000 * 512, 2000 * 512)
    assert four["search_1_scan"] == 1.0
