"""What a stage of training keeps of its refresh: copies that an index may come back for, and how old the index is."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_search import ToyEncoder, ToySource, open_toy

from realm.config import LoopConfig, RefreshConfig
from realm.search.exact import ExactIndex
from realm.search.jobs import Job
from realm.search.partial import build_in_parts
from realm.search.priorities import Priorities
from realm.search.refresh import open_refresh, reference
from realm.training.cadence import Cadence
from realm.training.ranks import Ranks
from realm.workflows.refreshing import Refreshing, Swap, _job
from realm.workflows.run import Run


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ToySource(30).save(tmp_path / "snapshot")
    return Job(folder=str(tmp_path / "run"), snapshot=str(tmp_path / "snapshot"), opener=reference(open_toy))


def test_an_index_comes_back_with_the_parameters_that_made_it(job: Job) -> None:
    encoder = ToyEncoder(seed=3)
    refreshing = Refreshing(open_refresh("sync", job), encoder, Cadence(2))
    assert refreshing.before_step(0) is None and refreshing.before_step(1) is None
    swap = refreshing.before_step(2)
    assert swap is not None and swap.step == refreshing.index_step == 2
    with torch.no_grad():
        encoder.words.weight.zero_()  # training goes on
    tokens = ToySource(30).passages(torch.arange(30), 16)
    made = swap.encoder.encode_passages(tokens)
    assert torch.allclose(ExactIndex.open(swap.folder).vectors(torch.arange(30)), made, atol=1e-6)
    assert refreshing.copies == {} and refreshing.age(3)["index_age_steps"] == 1


def test_without_refresh_no_copy_is_kept(job: Job) -> None:
    refreshing = Refreshing(open_refresh("off", job), ToyEncoder(), Cadence(1))
    assert [refreshing.before_step(step) for step in range(4)] == [None] * 4
    assert refreshing.copies == {}


def test_the_age_goes_on_where_a_checkpoint_left_it(job: Job) -> None:
    first = Refreshing(open_refresh("off", job), ToyEncoder(), Cadence(1), index_step=4, age=100.0)
    facts = first.facts()
    assert facts["index_step"] == 4 and 100 <= facts["index_age_seconds"] < 110
    time.sleep(0.01)  # nothing is trained meanwhile
    age = facts["index_age_seconds"]
    again = Refreshing(open_refresh("off", job), ToyEncoder(), Cadence(1), index_step=4, age=age)
    assert age <= again.age(6)["index_age_seconds"] < age + 10 and again.age(6)["index_age_steps"] == 2


def drifting(job: Job, drifts: list[float], facts: dict[str, Any] | None = None, first: int = 0) -> Refreshing:
    """Steps that saw these drifts, with a refresh between them."""
    facts = facts or {}
    cadence = Cadence(9, drift=0.5, facts=facts.get("cadence"))
    start = int(facts.get("index_step", 0))
    refresh = open_refresh("sync", job, since=first, current=start)
    found = Refreshing(refresh, ToyEncoder(seed=1), cadence, index_step=start)
    for step, drift in enumerate(drifts, first):
        found.before_step(step)
        better, worse = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        found.observe(torch.tensor([[0, 1]]), better, worse if drift else better)
    return found


def test_the_measured_drift_publishes_and_goes_on_from_a_checkpoint(job: Job, tmp_path: Path) -> None:
    drifts = [0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert drifting(job, drifts[:4]).index_step == 0
    whole = drifting(replace(job, folder=str(tmp_path / "whole")), drifts)
    assert whole.index_step == 5, "before step 4, which half of four steps called for, and at once before 5"
    other = replace(job, folder=str(tmp_path / "other"))
    first = drifting(other, drifts[:3])
    assert first.facts()["cadence"]["count"] == 3
    again = drifting(other, drifts[3:], json.loads(json.dumps(first.facts())), 3)
    assert again.facts()["cadence"] == whole.facts()["cadence"] and again.index_step == whole.index_step


def test_a_partial_index_tells_the_age_of_its_rows_and_keeps_the_copy(job: Job, tmp_path: Path) -> None:
    encoder, refresh = ToyEncoder(seed=3), open_refresh("sync", job)
    refreshing = Refreshing(refresh, encoder, Cadence(10), priorities=Priorities(30))
    assert refreshing.before_step(10) is not None  # a complete one
    waiting, polls = replace(job, partial=0.5), refresh.poll
    refreshing.observe(torch.tensor([[5, 6]]), torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    refresh.poll = lambda: refresh._shelf.take()  # type: ignore[method-assign, attr-defined]
    assert refreshing.before_step(20) is None and set(refreshing.copies) == {20}
    (parameters,) = job.parameters.glob("step-*")
    found: list[Swap] = []

    def trainer(done: int, total: int | None) -> None:
        swap = refreshing.before_step(21)
        if swap is not None:
            found.append(swap)
            ages = refreshing.age(30)
            assert ages["index_age_steps"] == 10 and swap.step == 20
            assert ages["index_row_age_steps"] == pytest.approx(20 - 10 * swap.embedded)

    build_in_parts(waiting, parameters, progress=trainer)
    assert len(found) == 1 and 0 < found[0].embedded < 1 and set(refreshing.copies) == {20}
    refresh.poll = polls  # type: ignore[method-assign]
    whole = refreshing.before_step(22)
    assert whole is not None and whole.step == 20 and whole.embedded == 1 and refreshing.copies == {}
    assert "index_row_age_steps" not in refreshing.age(30)
    tokens = ToySource(30).passages(torch.arange(30), 16)
    made = whole.encoder.encode_passages(tokens)
    assert torch.allclose(ExactIndex.open(whole.folder).vectors(torch.arange(30)), made, atol=1e-6)


@pytest.mark.parametrize(
    ("trainer", "refresher", "wanted"), [(False, None, False), (False, True, True), (True, False, False)]
)
def test_the_refresher_has_an_arithmetic_of_its_own(
    trainer: bool, refresher: bool | None, wanted: bool, tmp_path: Path
) -> None:
    config, loop = RefreshConfig(bf16=refresher, mode="sync"), LoopConfig(bf16=trainer)
    job = _job(Run(tmp_path), Sized(), config, loop, torch.device("cpu"), 16, Ranks())  # type: ignore[arg-type]
    assert job.bf16 is wanted


class Sized:
    """As much of a snapshot as a job names."""

    path = Path("snapshot")

    def __len__(self) -> int:
        return 5
