"""Intervals over seeds: what they hold, and what makes them wide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from realm.errors import UsageError
from realm.evaluation.retrieval import paired_bootstrap
from realm.evaluation.seeds import Bootstrap


@given(arrays.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(0, 1)))
def test_the_mean_lies_in_its_interval_and_the_interval_among_the_figures(value_SP: np.ndarray) -> None:
    groups = [str(number // 2) for number in range(value_SP.shape[1])]
    found = Bootstrap(groups, samples=200).interval(value_SP)
    assert found is not None
    mean, low, high = found
    assert mean == pytest.approx(value_SP.mean())
    assert value_SP.min() - 1e-9 <= low <= high <= value_SP.max() + 1e-9


def test_one_seed_is_the_bootstrap_over_questions() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random((2, 300))
    groups = [str(number) for number in range(300)]
    ours = Bootstrap(groups).interval((after - before)[None])
    assert ours is not None
    theirs = paired_bootstrap(before, after, groups=groups)
    assert ours.difference == pytest.approx(theirs.difference)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_seeds_that_disagree_and_questions_that_hang_together_make_it_wider() -> None:
    rng = np.random.default_rng(2)
    alike = rng.random(200)
    single, pairs = [str(n) for n in range(200)], [str(n // 20) for n in range(200)]

    def width(value_SP: np.ndarray, groups: list[str]) -> float:
        found = Bootstrap(groups).interval(value_SP)
        assert found is not None
        return found.high - found.low

    together = np.repeat(rng.random(10), 20)
    assert width(together[None], pairs) > 2 * width(together[None], single)
    assert width(np.stack([alike, alike + 0.5]), single) > 2 * width(np.stack([alike, alike]), single)
    # The same questions in all seeds are drawn together: three equal seeds know no more than one.
    assert width(np.stack([alike] * 3), single) == pytest.approx(width(alike[None], single), rel=0.05)


def test_the_same_figures_give_the_same_interval() -> None:
    value_SP, groups = np.random.default_rng(3).random((2, 50)), list("ab" * 25)
    assert Bootstrap(groups).interval(value_SP) == Bootstrap(groups).interval(value_SP)


def test_what_is_not_defined_counts_nowhere() -> None:
    value_SP = np.random.default_rng(4).random((2, 60))
    groups = [str(number // 3) for number in range(60)]
    value_SP[:, 30:] = np.nan
    found, whole = Bootstrap(groups).interval(value_SP), Bootstrap(groups[:30]).interval(value_SP[:, :30])
    assert found is not None and whole is not None
    assert found.difference == pytest.approx(whole.difference)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high), abs=0.03)
    assert Bootstrap(groups).interval(np.full((2, 60), np.nan)) is None


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 4)])
def test_other_figures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected \[seeds, 3\]"):
        Bootstrap(["a", "b", "c"]).interval(np.zeros(shape))
    with pytest.raises(UsageError, match="found no questions"):
        Bootstrap([])
