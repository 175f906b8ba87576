"""Batches made ahead: which, when, by whom, and what becomes of one that can't be made."""

from __future__ import annotations

import threading

import pytest

from realm.training.ahead import Ahead


class Numbers:
    """Batches that tell who made them."""

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad
        self.made: list[tuple[int, bool]] = []

    def batch(self, step: int) -> str:
        self.made.append((step, threading.current_thread() is threading.main_thread()))
        if step == self.bad:
            raise ValueError(f"batch {step}")
        return f"batch {step}"


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


def test_the_next_one_is_made_beside_the_block_and_once(numbers: Numbers) -> None:
    ahead = Ahead(numbers, 3)
    found = []
    for step in range(3):
        found.append(ahead.batch(step))
        with ahead.meanwhile(step + 1):
            pass
        assert len(numbers.made) == min(step + 2, 3), "made when the block is left, and none behind the last"
    ahead.close()
    assert found == ["batch 0", "batch 1", "batch 2"]
    assert numbers.made == [(0, True), (1, False), (2, False)]


def test_another_number_is_made_when_it_is_asked_for(numbers: Numbers) -> None:
    ahead = Ahead(numbers, 9)
    with ahead.meanwhile(5):
        pass
    assert ahead.batch(2) == "batch 2"
    assert ahead.batch(5) == "batch 5"
    assert ahead.batch(5) == "batch 5"
    assert numbers.made == [(5, False), (2, True), (5, True)]
    ahead.close()


def test_what_goes_wrong_is_raised_by_the_step_that_wanted_it() -> None:
    ahead = Ahead(Numbers(bad=1), 9)
    with ahead.meanwhile(1):
        pass
    assert ahead.batch(0) == "batch 0"
    with pytest.raises(ValueError, match="batch 1"):
        ahead.batch(1)
    ahead.close()


def test_a_block_that_fails_waits_too(numbers: Numbers) -> None:
    ahead = Ahead(numbers, 9)
    with pytest.raises(KeyboardInterrupt), ahead.meanwhile(4):
        raise KeyboardInterrupt
    assert numbers.made == [(4, False)]
    ahead.close()
