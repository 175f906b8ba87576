"""Embedding, refreshing and searching on a Ray cluster of several nodes on this machine, nodes killed under way."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_search import ToyEncoder, ToySource, open_toy

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: tests report to nobody
pytest.importorskip("ray")

from realm.errors import ArtefactError, MismatchError, TrainingError, UnavailableError, UsageError
from realm.files import MANIFEST, write_json
from realm.search.cluster import engine
from realm.search.cluster.embedding import Fleet
from realm.search.cluster.sharded import ShardedIndex
from realm.search.exact import ExactIndex
from realm.search.jobs import PUBLISHED, Job
from realm.search.refresh import Refresh, open_refresh, reference
from realm.search.refresher import build

LONG = 200.0
"""Seconds after which a test gives up; a node takes a few to start, ten times as long on a busy machine."""
SOON = 2.0
"""Seconds that a call of the trainer's may take on a busy machine, whoever is dead. It measures milliseconds."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def started_in_time(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 seconds, and its helpers 15, which a busy machine may not keep."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return start()
    return start()


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


class Nodes:
    """A cluster of one head that takes no work, and nodes that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # Of the loopback addresses Ray replaces 127.0.0.1 by the machine's own, which a test has no business with.
        self._args: dict[str, Any] = {
            "node_ip_address": "127.0.0.2",
            "object_store_memory": 80 << 20,
            "include_dashboard": False,
            "include_log_monitor": False,
        }
        head = {"num_cpus": 0, "no_monitor": True, **self._args}
        self._cluster = started_in_time(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.address: str = self._cluster.address

    def add(self, cpus: int = 1) -> Any:
        return started_in_time(lambda: self._cluster.add_node(num_cpus=cpus, **self._args))

    def kill(self, node: Any) -> None:
        """Every process of it, by SIGKILL."""
        for raylet in node.all_processes["raylet"]:
            for child in children(raylet.process.pid):
                os.kill(child, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def clear(self) -> None:
        for node in list(self._cluster.worker_nodes):
            self.kill(node)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def started() -> Iterator[Nodes]:
    import ray

    # Nodes give their workers what they have themselves.
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_ADDRESS")}
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    nodes = Nodes()
    os.environ["RAY_ADDRESS"] = nodes.address
    engine.connect()
    yield nodes
    ray.shutdown()
    nodes.close()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def nodes(started: Nodes) -> Iterator[Nodes]:
    yield started
    started.clear()


def job_of(folder: Path, rows: int = 120, **options: object) -> Job:
    if not (folder / "snapshot").exists():
        ToySource(rows).save(folder / "snapshot")
    return Job(
        folder=str(folder / "run"),
        snapshot=str(folder / "snapshot"),
        opener=reference(open_toy),
        options=options,
        rows_per_shard=10,
        batch_tokens=40,
        workers=2,
    )


def published(folder: Path, step: int = 3) -> Path:
    """Parameters as a trainer leaves them."""
    place = folder / f"step-{step:06d}"
    place.mkdir(parents=True)
    ToyEncoder(seed=step).save(place)
    write_json(place / PUBLISHED, {"step": step, "time": 12.5})
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---------------------------------------------------------------- embedding


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_workers_write_what_one_process_writes(tmp_path: Path, nodes: Nodes, dtype: str) -> None:
    nodes.add(cpus=2)
    parameters, job = published(tmp_path / "parameters"), replace(job_of(tmp_path), dtype=dtype)
    alone = build(replace(job, folder=str(tmp_path / "alone")), parameters)
    told: list[str] = []
    seen: list[int] = []
    fleet = Fleet(job, tell=told.append)
    found = fleet.build(job, parameters, progress=lambda done, total: seen.append(done))
    fleet.close()
    assert contents(found) == contents(alone)
    assert seen == sorted(seen) and seen[-1] == 120
    assert not any("lost" in line for line in told)
    assert [path.name for path in found.parent.iterdir()] == ["step-000003"]


def test_a_node_that_dies_has_its_part_done_by_another(tmp_path: Path, nodes: Nodes) -> None:
    first, parameters = nodes.add(), published(tmp_path / "parameters")
    nodes.add()
    job = job_of(tmp_path, delay=0.05)
    told: list[str] = []
    killed = False

    def progress(done: int, total: int | None) -> None:
        nonlocal killed
        if done >= 30 and not killed:
            nodes.kill(first)
            killed = True

    fleet = Fleet(job, tell=told.append)
    until(lambda: len(fleet.look()) == 2)
    found = fleet.build(job, parameters, progress=progress)
    fleet.close()
    assert killed and any("lost" in line for line in told), told
    assert contents(found) == contents(build(replace(job, folder=str(tmp_path / "alone")), parameters))


def test_either_goes_on_with_what_the_other_began(tmp_path: Path, nodes: Nodes) -> None:
    class Enough(Exception):
        pass

    nodes.add(cpus=2)
    parameters, job = published(tmp_path / "parameters"), job_of(tmp_path, delay=0.01)

    def stop(done: int, total: int | None) -> None:
        if done >= 40:
            raise Enough

    whole = contents(build(replace(job, folder=str(tmp_path / "whole")), parameters))
    fleet = Fleet(job, tell=lambda line: None)
    for name, begin, finish in (("one", fleet.build, build), ("two", build, fleet.build)):
        mine = replace(job, folder=str(tmp_path / name))
        with pytest.raises(Enough):
            begin(mine, parameters, progress=stop)
        (unfinished,) = mine.indexes.iterdir()
        until(lambda: not list(unfinished.glob(".shard-*")))  # noqa: B023
        kept = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("shard-*")}
        assert 3 <= len(kept) < 12
        found = finish(mine, parameters)
        assert {name: (found / name).stat().st_mtime_ns for name in kept} == kept
        assert contents(found) == whole
    fleet.close()


def test_what_a_worker_raises_is_raised_here(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    job = job_of(tmp_path, fail="the layer is missing")
    fleet = Fleet(job, tell=lambda line: None)
    with pytest.raises(TrainingError, match="the layer is missing"):
        fleet.build(job, published(tmp_path / "parameters"))
    assert not list(job.indexes.glob("step-*"))


# ---------------------------------------------------------------- refreshing


@pytest.fixture
def opened() -> Iterator[Callable[..., Refresh]]:
    made: list[Refresh] = []

    def one(job: Job, **settings: Any) -> Refresh:
        made.append(open_refresh("ray", job, **settings))
        return made[-1]

    yield one
    for refresh in made:
        refresh.close()


def test_a_trainer_goes_on_while_a_node_is_dead(tmp_path: Path, nodes: Nodes, opened: Callable[..., Refresh]) -> None:
    told: list[str] = []
    slowest = 0.0

    def timed(call: Callable[[], Any]) -> Any:
        nonlocal slowest
        began = time.monotonic()
        answer = call()
        slowest = max(slowest, time.monotonic() - began)
        return answer

    only = nodes.add(cpus=2)
    job = job_of(tmp_path, delay=0.05)
    refresh = opened(job, on_event=told.append)
    timed(lambda: refresh.publish(1, ToyEncoder(seed=1).save))
    until(lambda: len(list(job.indexes.glob(".step-000001.partial-*/shard-*"))) >= 2)
    nodes.kill(only)  # now there is no worker at all
    died = time.monotonic()
    while not told:
        assert timed(refresh.poll) is None
        assert time.monotonic() < died + 20, "a lost worker is told within seconds"
        time.sleep(0.02)
    assert "lost" in told[0]
    timed(lambda: refresh.publish(2, ToyEncoder(seed=2).save))
    assert timed(refresh.poll) is None
    nodes.add(cpus=2)
    fresh = refresh.wait(LONG)
    assert fresh is not None and fresh.step == 2
    assert slowest < SOON, slowest
    sync = open_refresh("sync", replace(job, folder=str(tmp_path / "sync")))
    sync.publish(2, ToyEncoder(seed=2).save)
    wanted = sync.poll()
    assert wanted is not None and wanted.encoder == fresh.encoder
    assert {n: b for n, b in contents(fresh.folder).items() if n != MANIFEST} == {
        n: b for n, b in contents(wanted.folder).items() if n != MANIFEST
    }


# ---------------------------------------------------------------- searching


def index_of(folder: Path, rows: int = 300, dim: int = 8) -> ExactIndex:
    index = ExactIndex(
        torch.randint(-3, 4, (rows, dim), generator=torch.Generator().manual_seed(0)).float(),
        facts={"snapshot": "s", "encoder": "e"},
    )
    index.save(folder, rows_per_shard=70)
    return ExactIndex.open(folder)


def same(sharded: ShardedIndex, index: ExactIndex, seed: int = 0) -> None:
    """Hits, filtered and not, and vectors. Integers: every score is exact, and many are equal."""
    draw = torch.Generator().manual_seed(seed)
    query_BD = torch.randint(-3, 4, (5, index.dim), generator=draw).float()
    exclude = torch.randint(-1, len(index), (5, 40), generator=draw)
    allowed = torch.rand(len(index), generator=draw) < 0.5
    for given in ((None, None), (exclude, allowed)):
        found, wanted = sharded.search(query_BD, 20, *given), index.search(query_BD, 20, *given)
        assert torch.equal(found.rows, wanted.rows) and torch.equal(found.scores, wanted.scores)
    rows = torch.randint(-1, len(index), (3, 4), generator=draw)
    assert torch.equal(sharded.vectors(rows), index.vectors(rows))


def test_searching_goes_on_when_a_node_dies(tmp_path: Path, nodes: Nodes) -> None:
    index, told = index_of(tmp_path / "index"), list[str]()
    first = nodes.add(cpus=2)
    nodes.add(cpus=2)
    sharded = ShardedIndex.open(tmp_path / "index", shards=2, replicas=2, tell=told.append, snapshot="s", encoder="e")
    assert (len(sharded), sharded.dim, sharded.facts["encoder"]) == (300, 8, "e")
    same(sharded, index)
    nodes.kill(first)
    for seed in range(20):
        same(sharded, index, seed)
    until(lambda: sharded.alive() == [1, 1])
    assert len(told) >= 2 and all("lost" in line for line in told)
    nodes.add(cpus=2)
    until(lambda: sharded.alive() == [2, 2])
    same(sharded, index)
    sharded.close()


def test_a_part_of_the_rows_is_never_an_answer(tmp_path: Path, nodes: Nodes) -> None:
    index = index_of(tmp_path / "index")
    first = nodes.add()
    nodes.add()
    sharded = ShardedIndex.open(tmp_path / "index", shards=2, replicas=1)
    same(sharded, index)
    nodes.kill(first)
    with pytest.raises(UnavailableError, match=r"no worker is left for the rows .* of the index") as raised:
        for _ in range(1000):
            same(sharded, index)
    assert "\n" not in str(raised.value)
    nodes.add()
    until(lambda: sharded.alive() == [1, 1])
    same(sharded, index)
    sharded.close()


def test_what_cannot_be_opened_is_told(tmp_path: Path, nodes: Nodes) -> None:
    index_of(tmp_path / "index")
    with pytest.raises(UnavailableError, match="found no place"):
        ShardedIndex.open(tmp_path / "index", shards=2, opening=0.2)
    nodes.add()
    with pytest.raises(MismatchError, match="snapshot s"):
        ShardedIndex.open(tmp_path / "index", shards=1, snapshot="another")
    with pytest.raises(UsageError, match="0 shards"):
        ShardedIndex.open(tmp_path / "index", shards=0)
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "index", damaged)
    next(damaged.glob("shard-*")).unlink()
    with pytest.raises(ArtefactError, match="missing"):
        ShardedIndex.open(damaged, shards=1)
