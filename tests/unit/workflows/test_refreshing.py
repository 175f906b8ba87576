"""What a stage of training keeps of its refresh: copies that an index may come back for, and how old the index is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from toy_search import ToyEncoder, ToySource, open_toy

from realm.search.exact import ExactIndex
from realm.search.refresh import open_refresh, reference
from realm.search.refresher import Job
from realm.workflows.refreshing import Refreshing


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ToySource(30).save(tmp_path / "snapshot")
    return Job(folder=str(tmp_path / "run"), snapshot=str(tmp_path / "snapshot"), opener=reference(open_toy))


def test_an_index_comes_back_with_the_parameters_that_made_it(job: Job) -> None:
    encoder = ToyEncoder(seed=3)
    refreshing = Refreshing(open_refresh("sync", job), encoder, every_steps=2)
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
    refreshing = Refreshing(open_refresh("off", job), ToyEncoder(), every_steps=1)
    assert [refreshing.before_step(step) for step in range(4)] == [None] * 4
    assert refreshing.copies == {}


def test_the_age_goes_on_where_a_checkpoint_left_it(job: Job) -> None:
    first = Refreshing(open_refresh("off", job), ToyEncoder(), every_steps=1, index_step=4, age=100.0)
    facts = first.facts()
    assert facts["index_step"] == 4 and 100 <= facts["index_age_seconds"] < 110
    time.sleep(0.01)  # nothing is trained meanwhile
    age = facts["index_age_seconds"]
    again = Refreshing(open_refresh("off", job), ToyEncoder(), every_steps=1, index_step=4, age=age)
    assert age <= again.age(6)["index_age_seconds"] < age + 10 and again.age(6)["index_age_steps"] == 2
