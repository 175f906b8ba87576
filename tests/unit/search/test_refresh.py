"""Refresh as the trainer sees it, without another process: order, removal, resume, wrong use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from toy_search import NamedToyEncoder, ToyEncoder, ToySource, open_toy

from realm.errors import TrainingError, UsageError
from realm.files import MANIFEST
from realm.search.embed import embed_rows
from realm.search.exact import ExactIndex
from realm.search.jobs import PUBLISHED, Job, steps
from realm.search.refresh import open_refresh, reference
from realm.search.refresher import build, newest
from realm.search.shelf import Fresh


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ToySource(60).save(tmp_path / "snapshot")
    return Job(
        folder=str(tmp_path / "run"), snapshot=str(tmp_path / "snapshot"), opener=reference(open_toy), rows_per_shard=20
    )


def indexes(job: Job) -> list[int]:
    return [step for step, _ in steps(job.indexes, MANIFEST)]


def test_sync_embeds_the_published_parameters(job: Job) -> None:
    encoder, seen = ToyEncoder(seed=3), []
    refresh = open_refresh("sync", job, progress=lambda done, total: seen.append((done, total)))
    assert refresh.poll() is None
    refresh.publish(5, encoder.save)
    fresh = refresh.poll()
    assert isinstance(fresh, Fresh)
    assert fresh.step == 5
    assert fresh.published_at <= fresh.committed_at + 0.01
    index = ExactIndex.open(fresh.folder, snapshot=ToySource(60).fingerprint, encoder=fresh.encoder)
    assert index.facts["step"] == 5
    assert torch.allclose(index.vectors(torch.arange(60)), embed_rows(encoder, ToySource(60), max_tokens=16), atol=1e-6)
    assert seen[-1] == (60, 60)
    assert refresh.poll() is None
    assert list(job.parameters.iterdir()) == []  # read and gone


def test_sync_is_deterministic_and_leaves_the_random_numbers_alone(job: Job, tmp_path: Path) -> None:
    found, encoder = [], ToyEncoder(seed=3)
    for name in ("one", "two"):
        torch.manual_seed(11)
        state = torch.get_rng_state()
        refresh = open_refresh("sync", Job(**{**vars(job), "folder": str(tmp_path / name)}))
        refresh.publish(1, encoder.save)
        fresh = refresh.poll()
        assert fresh is not None
        found.append(b"".join(path.read_bytes() for path in sorted(fresh.folder.glob("shard-*"))))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]


def test_an_encoder_that_has_a_fingerprint_is_named_by_it(job: Job) -> None:
    encoder = NamedToyEncoder(seed=3)
    refresh = open_refresh("sync", Job(**{**vars(job), "opener": "toy_search:open_named_toy"}))
    refresh.publish(1, encoder.save)
    fresh = refresh.poll()
    assert fresh is not None
    assert fresh.encoder == encoder.fingerprint()
    ExactIndex.open(fresh.folder, encoder=encoder.fingerprint())


def test_older_parameters_are_dropped_unread(job: Job) -> None:
    refresh = open_refresh("sync", job)
    for step in (1, 2, 3):
        refresh.publish(step, ToyEncoder(seed=step).save)
    fresh = refresh.poll()
    assert fresh is not None
    assert fresh.step == 3
    assert indexes(job) == [3]


def test_what_may_still_come_back_is_known(job: Job) -> None:
    refresh = open_refresh("sync", job)
    assert refresh.pending() == set()
    for step in (1, 2, 3):
        refresh.publish(step, ToyEncoder(seed=step).save)
    assert refresh.pending() == {1, 2, 3}
    found = newest(job, building=1)  # as a refresher does while it is busy with the first
    assert found is not None and found[0] == 3 and refresh.pending() == {1, 3}
    build(job, found[1])
    shutil.rmtree(found[1])
    assert refresh.pending() == {1, 3}, "an index that was not taken yet"
    assert newest(job) is not None
    fresh = refresh.poll()
    assert fresh is not None and fresh.step == 3 and refresh.pending() == set()
    assert open_refresh("off", job).pending() == set()


def test_what_is_in_use_stays_and_the_rest_goes(job: Job) -> None:
    pinned: list[Path] = []
    refresh = open_refresh("sync", job, in_use=lambda: pinned, keep=2)
    for step in range(6):
        refresh.publish(step, ToyEncoder(seed=step).save)
        fresh = refresh.poll()
        assert fresh is not None
        if step == 1:
            pinned.append(fresh.folder)
    assert indexes(job) == [1, 4, 5]
    assert sorted(path.name for path in job.indexes.iterdir()) == ["step-000001", "step-000004", "step-000005"]


def test_resume_gives_up_the_future(job: Job) -> None:
    first = open_refresh("sync", job, keep=9)
    for step in (0, 10, 20, 30):
        first.publish(step, ToyEncoder(seed=step).save)
        first.poll()
    first.publish(40, ToyEncoder().save)  # never embedded
    again = open_refresh("sync", job, since=20, current=10, keep=9)
    assert indexes(job) == [0, 10, 20]
    assert list(job.parameters.iterdir()) == []
    fresh = again.poll()
    assert fresh is not None
    assert fresh.step == 20
    assert open_refresh("sync", job, since=20, current=20).poll() is None


@pytest.mark.parametrize("seed", [20, 21])
def test_an_index_of_the_same_step_is_kept_only_if_its_parameters_are_the_same(job: Job, seed: int) -> None:
    first = open_refresh("sync", job)
    first.publish(20, ToyEncoder(seed=20).save)
    first.poll()
    again = open_refresh("sync", job, since=20, current=10)
    if seed == 21:
        assert again.poll() is not None  # already in use when the other parameters come
    again.publish(20, ToyEncoder(seed=seed).save)
    fresh = again.poll()
    assert fresh is not None
    found = ExactIndex.open(fresh.folder).vectors(torch.arange(60))
    assert torch.allclose(found, embed_rows(ToyEncoder(seed=seed), ToySource(60), max_tokens=16), atol=1e-6)


def test_steps_only_go_up(job: Job) -> None:
    refresh = open_refresh("sync", job)
    refresh.publish(20, ToyEncoder().save)
    with pytest.raises(UsageError, match="only go up"):
        refresh.publish(10, ToyEncoder().save)


def test_a_failed_save_publishes_nothing(job: Job) -> None:
    refresh = open_refresh("sync", job)

    def broken(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        refresh.publish(1, broken)
    assert refresh.poll() is None
    assert list(job.parameters.iterdir()) == []


def test_off_does_nothing(job: Job) -> None:
    refresh = open_refresh("off", job)

    def never(folder: Path) -> None:
        raise AssertionError("saved for nothing")

    refresh.publish(1, never)
    assert refresh.poll() is refresh.wait() is None
    refresh.close()
    assert not Path(job.folder).exists()


def test_sync_raises_what_the_opener_raises(job: Job) -> None:
    refresh = open_refresh("sync", Job(**{**vars(job), "options": {"fail": "no such layer"}}))
    refresh.publish(1, ToyEncoder().save)
    with pytest.raises(TrainingError, match="no such layer"):
        refresh.poll()


def test_wrong_use_is_refused_at_once(job: Job) -> None:
    with pytest.raises(UsageError, match="sometimes"):
        open_refresh("sometimes", job)
    with pytest.raises(UsageError, match="no_such_module"):
        open_refresh("async", Job(**{**vars(job), "opener": "no_such_module:f"}))
    with pytest.raises(UsageError, match="no function"):
        open_refresh("sync", Job(**{**vars(job), "opener": "toy_search:VOCABULARY"}))
    with pytest.raises(UsageError, match="top of a module"):
        reference(lambda: None)
    assert reference(open_toy) == "toy_search:open_toy"


def test_an_unfinished_publication_is_not_seen(job: Job) -> None:
    refresh = open_refresh("sync", job)
    (job.parameters / "step-000009").mkdir()
    assert not (job.parameters / "step-000009" / PUBLISHED).exists()
    assert refresh.poll() is None
