"""Processes that share a refresh, and the devices and shards that each of them takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore
from toy_search import ToyEncoder, ToySource, open_toy

from realm.errors import UsageError
from realm.search.embed import ROWS_PER_SHARD
from realm.search.jobs import Job
from realm.search.refresh import open_refresh, reference
from realm.training.ranks import Ranks
from realm.workflows import parts
from realm.workflows.shared_refresh import SharedRefresh, share_refresh


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    one = Ranks(HashStore(), 0, 2)
    yield one
    one.leave()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ToySource(30).save(tmp_path / "snapshot")
    return Job(folder=str(tmp_path / "run"), snapshot=str(tmp_path / "snapshot"), opener=reference(open_toy))


def test_what_is_published_is_embedded_together_before_its_index_is_looked_for(job: Job) -> None:
    shared: list[int] = []
    refresh = share_refresh(Ranks(), lambda: open_refresh("sync", job), shared.append)
    assert refresh.poll() is None and shared == []
    refresh.publish(2, ToyEncoder(seed=3).save_pretrained)
    assert shared == [2] and refresh.pending() == {2}
    fresh = refresh.poll()
    assert fresh is not None and fresh.step == 2 and fresh.folder == job.indexes / "step-000002"
    assert refresh.pending() == set() and refresh.poll() is None
    refresh.close()


def test_one_who_follows_publishes_nothing(job: Job) -> None:
    follower = SharedRefresh(None)
    follower.publish(2, lambda folder: pytest.fail("rank 0 saves"))
    assert follower.poll() is None and follower.pending() == set()
    follower.close()
    assert not job.indexes.exists()


def test_every_process_has_a_shard(ranks: Ranks) -> None:
    assert parts.rows_per_shard(24, ranks) == 12 and parts.rows_per_shard(25, ranks) == 13
    assert parts.rows_per_shard(10**7, ranks) == ROWS_PER_SHARD
    assert parts.rows_per_shard(24, Ranks()) == ROWS_PER_SHARD, "an index of one process is as ever"
    assert parts.rows_per_shard(0, ranks) == 1


def test_a_device_for_all_is_refused_and_a_missing_one_named(ranks: Ranks) -> None:
    assert parts.choose_device("cpu", ranks) == torch.device("cpu")
    with pytest.raises(UsageError, match=r"loop.device=cuda:3 with 2 processes: expected auto, cpu or cuda"):
        parts.choose_device("cuda:3", ranks)
    assert parts.choose_device("cuda:3", Ranks()) == torch.device("cuda:3")
    if not torch.accelerator.is_available():
        with pytest.raises(UsageError, match=r"LOCAL_RANK=0 on a machine of 0 devices"):
            parts.choose_device("cuda", ranks)
