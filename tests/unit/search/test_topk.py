"""Top k against a full stable sort, on scores with many ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import DataError
from realm.search.topk import GROUP, NO_SCORE, Running, top
from realm.types import NO_ROW


def expected(score_BN: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    value, index = score_BN.sort(dim=1, descending=True, stable=True)
    return value[:, :k], index[:, :k]


@given(
    queries=st.integers(1, 3),
    length=st.integers(1, 12 * GROUP),
    k=st.integers(1, 9),
    levels=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_equals_a_stable_sort(queries: int, length: int, k: int, levels: int, seed: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(seed)
    score_BN = torch.randint(0, levels, (queries, length), generator=draw).to(dtype)
    value, index = top(score_BN, k)
    want_value, want_index = expected(score_BN, k)
    assert torch.equal(value, want_value)
    assert torch.equal(index, want_index)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_many_scores_are_looked_through_in_pieces_or_at_once(rows: int) -> None:
    score_BN = torch.rand(rows, 40_000, generator=torch.Generator().manual_seed(rows))
    for found, wanted in zip(top(score_BN, 7), expected(score_BN, 7), strict=True):
        assert torch.equal(found, wanted)


@given(length=st.integers(1, 900), k=st.integers(1, 12), piece=st.integers(1, 400), seed=st.integers(0, 1000))
def test_pieces_give_what_the_whole_gives(length: int, k: int, piece: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    score_BN = torch.randint(0, 6, (2, length), generator=draw).float()
    score_BN[score_BN == 0] = NO_SCORE
    running = Running(2, k, torch.device("cpu"))
    for first in range(0, length, piece):
        running.add(score_BN[:, first : first + piece], first)
    hits = running.hits()
    value, index = expected(score_BN, k)
    found = value > NO_SCORE
    assert hits.rows.shape == (2, k)
    assert torch.equal(hits.rows[:, : index.shape[1]][found], index[found])
    assert (hits.rows == NO_ROW).sum() == 2 * k - found.sum()
    assert torch.equal(hits.rows == NO_ROW, hits.scores == NO_SCORE)


def test_nan_among_the_best_is_an_error() -> None:
    score_BN = torch.zeros(1, 5000)
    score_BN[0, 4321] = float("nan")
    with pytest.raises(DataError, match="not a number"):
        Running(1, 3, torch.device("cpu")).add(score_BN, 0)
