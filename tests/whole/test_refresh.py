"""A refresher in its own process: same vectors as sync, and killed, hanging or orphaned at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_search import ToyEncoder, ToySource, open_toy

from realm.errors import TrainingError, UsageError
from realm.files import MANIFEST
from realm.search.embed import embed_rows
from realm.search.exact import ExactIndex
from realm.search.jobs import Job, steps
from realm.search.priorities import Priorities
from realm.search.refresh import Async, open_refresh, reference
from realm.search.shelf import Fresh
from realm.training.cadence import Cadence
from realm.workflows.refreshing import Refreshing

pytestmark = pytest.mark.slow

LONG = 60.0
"""Seconds after which a test gives up; nothing here needs more than a few."""


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        # A zombie whose new parent has not collected it yet is dead as well.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def job_of(tmp_path: Path, rows: int = 60, **options: object) -> Job:
    if not (tmp_path / "snapshot").exists():
        ToySource(rows).save(tmp_path / "snapshot")
    return Job(
        folder=str(tmp_path / "run"),
        snapshot=str(tmp_path / "snapshot"),
        opener=reference(open_toy),
        options=options,
        rows_per_shard=10,
        batch_tokens=40,
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Async]]:
    made: list[Async] = []

    def one(job: Job, **settings: object) -> Async:
        refresh = open_refresh("async", job, **settings)  # type: ignore[arg-type]
        assert isinstance(refresh, Async)
        made.append(refresh)
        return refresh

    yield one
    for refresh in made:
        refresh.close()


def test_async_gives_the_vectors_of_sync(tmp_path: Path, opened: Callable[..., Async]) -> None:
    refresh = opened(job_of(tmp_path))
    pid = refresh.pid
    assert refresh.poll() is None
    for step in (1, 2):
        refresh.publish(step, ToyEncoder(seed=step).save)
        fresh = refresh.wait(LONG)
        assert fresh is not None
        assert fresh.step == step
        other = open_refresh("sync", Job(**{**vars(job_of(tmp_path)), "folder": str(tmp_path / f"sync{step}")}))
        other.publish(step, ToyEncoder(seed=step).save)
        wanted = other.poll()
        assert wanted is not None
        assert wanted.encoder == fresh.encoder
        shards = [sorted(folder.glob("shard-*")) for folder in (fresh.folder, wanted.folder)]
        assert [p.read_bytes() for p in shards[0]] == [p.read_bytes() for p in shards[1]]
    assert refresh.pid == pid  # one process served both
    refresh.close()
    assert pid is not None
    assert not alive(pid)
    refresh.close()  # twice is once
    with pytest.raises(UsageError, match="closed"):
        refresh.publish(3, ToyEncoder().save)


def test_the_trainer_does_not_wait_and_outdated_parameters_are_dropped(
    tmp_path: Path, opened: Callable[..., Async]
) -> None:
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    refresh = opened(job_of(tmp_path, journal=str(journal), gate=str(gate)))
    refresh.publish(1, ToyEncoder(seed=1).save)
    until(lambda: journal.exists() and journal.read_text() == "step-000001\n")
    for step in (2, 3, 4):
        refresh.publish(step, ToyEncoder(seed=step).save)
    assert refresh.poll() is None  # and yet we are here
    gate.touch()
    fresh = refresh.wait(LONG)
    assert fresh is not None
    assert fresh.step == 4
    assert journal.read_text() == "step-000001\nstep-000004\n"


def test_a_slow_refresher_lets_nothing_pile_up(tmp_path: Path, opened: Callable[..., Async]) -> None:
    """It embeds one step for as long as some more are published."""
    job = job_of(tmp_path, rows=200, delay=0.4)
    refresh = opened(job)
    refreshing = Refreshing(refresh, ToyEncoder(seed=1), Cadence(1))
    assert refreshing.before_step(1) is None
    until(lambda: len(list(job.indexes.glob(".step-000001.partial-*/shard-*"))) >= 1)
    for step in range(2, 7):
        with torch.no_grad():
            refreshing.encoder.words.weight.add_(1.0)  # type: ignore[attr-defined]
        assert refreshing.before_step(step) is None
        until(lambda step=step: refresh.pending() == {1, step})  # type: ignore[misc]
        assert len(refreshing.copies) <= 3, "the one that is embedded, and what waited before this step"
    until(lambda: len(list(job.parameters.iterdir())) == 2)
    assert {1, 6} <= set(refreshing.copies) and list(steps(job.indexes, MANIFEST)) == []


def test_a_killed_refresher_is_restarted_and_leaves_no_half_index(tmp_path: Path, opened: Callable[..., Async]) -> None:
    events: list[str] = []
    refresh = opened(job_of(tmp_path, rows=200, delay=0.02), on_event=events.append)
    job = job_of(tmp_path)
    refresh.publish(1, ToyEncoder(seed=1).save)
    until(lambda: len(list(job.indexes.glob(".step-000001.partial-*/shard-*"))) >= 3)
    first = refresh.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first))
    assert list(steps(job.indexes, MANIFEST)) == []
    kept = {path.name: path.stat().st_mtime_ns for path in job.indexes.glob(".step-*/shard-*")}
    fresh = refresh.wait(LONG)
    assert fresh is not None
    assert len(events) == 1
    assert "SIGKILL" in events[0]
    assert refresh.pid != first
    found = ExactIndex.open(fresh.folder).vectors(torch.arange(200))
    assert torch.allclose(found, embed_rows(ToyEncoder(seed=1), ToySource(200), max_tokens=16), atol=1e-6)
    assert {name: (fresh.folder / name).stat().st_mtime_ns for name in kept} == kept  # finished shards were kept
    assert [path.name for path in job.indexes.iterdir()] == ["step-000001"]


def test_parts_come_back_while_the_rest_is_embedded_and_a_kill_loses_none(
    tmp_path: Path, opened: Callable[..., Async]
) -> None:
    job = replace(job_of(tmp_path, rows=200, delay=0.02), partial=0.25)
    events: list[str] = []
    refresh = opened(job, on_event=events.append)
    refresh.publish(1, ToyEncoder(seed=1).save)
    whole = refresh.wait(LONG)
    assert whole is not None and whole.rows_of is None, "there was nothing to carry over"

    def save(folder: Path) -> None:
        ToyEncoder(seed=2).save(folder)
        seen = Priorities(200)
        seen.observe(torch.tensor([[150, 199]]), torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
        seen.save(folder)

    refresh.publish(2, save)
    parts: list[Fresh] = []

    def another() -> bool:
        fresh = refresh.poll()
        parts.extend([fresh] if fresh is not None else [])
        return fresh is not None

    until(another)
    first = refresh.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first))
    assert parts[0].rows_of is not None and parts[0].step == 2
    urgent = ExactIndex.open(parts[0].folder).vectors(torch.tensor([150, 199]))
    new = embed_rows(ToyEncoder(seed=2), ToySource(200), max_tokens=16)
    assert torch.allclose(urgent, new[[150, 199]], atol=1e-6)
    embedded = {path.name: path.stat().st_mtime_ns for path in job.indexes.glob(".step-*/shard-*")}
    assert embedded
    until(lambda: another() and parts[-1].rows_of is not None and len(parts) >= 2)
    left = list(job.indexes.glob(".step-*/shard-*"))
    kept = {path.name: path.stat().st_mtime_ns for path in left if path.name in embedded}
    assert kept.items() <= embedded.items() and (kept or not left), "finished chunks were kept"
    until(lambda: another() and parts[-1].rows_of is None)
    assert len(events) == 1 and "SIGKILL" in events[0]
    assert torch.allclose(ExactIndex.open(parts[-1].folder).vectors(torch.arange(200)), new, atol=1e-6)
    shares = [part.rows_of[2] for part in parts if part.rows_of is not None]
    assert shares == sorted(set(shares)) and shares[-1] < 200
    until(lambda: sorted(path.name for path in job.indexes.iterdir()) == ["step-000001", "step-000002"])


def test_a_refresher_that_always_fails_is_reported_with_its_reason(
    tmp_path: Path, opened: Callable[..., Async]
) -> None:
    refresh = opened(job_of(tmp_path, fail="the layer is missing"), max_restarts=0)
    refresh.publish(1, ToyEncoder().save)
    with pytest.raises(TrainingError, match=r"the layer is missing.*0 restarts"):
        refresh.wait(LONG)
    assert refresh.pid is None


def test_a_hanging_refresher_is_not_waited_on_for_ever(tmp_path: Path, opened: Callable[..., Async]) -> None:
    refresh = opened(job_of(tmp_path, delay=1000.0), patience=0.5, max_restarts=1)
    first = refresh.pid
    refresh.publish(1, ToyEncoder().save)
    with pytest.raises(TrainingError, match="no progress"):
        refresh.wait(LONG)
    assert first is not None
    assert not alive(first)


TRAINER = """
import json, sys, time
from pathlib import Path
from realm.search.refresh import open_refresh
from realm.search.jobs import Job
from toy_search import ToyEncoder
refresh = open_refresh("async", Job(**json.loads(sys.argv[1])))
refresh.publish(1, ToyEncoder().save)
print(refresh.pid, flush=True)
time.sleep(1000)
"""


def test_a_refresher_dies_with_its_trainer(tmp_path: Path) -> None:
    job = job_of(tmp_path, rows=200, delay=0.05)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, job.to_json()], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert trainer.stdout is not None
    with trainer.stdout:
        pid = int(trainer.stdout.readline())
    until(lambda: len(list(job.indexes.glob(".step-000001.partial-*/shard-*"))) >= 1)
    assert alive(pid)
    trainer.kill()
    trainer.wait()
    until(lambda: not alive(pid))
    assert list(steps(job.indexes, MANIFEST)) == []
