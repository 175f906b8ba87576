"""How far an index has fallen behind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm.search.drift import top_drift


def test_drift_is_what_the_better_half_loses() -> None:
    nan, none = math.nan, -math.inf
    index = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, nan], [1.0, nan, none, nan]])
    live = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 9.0], [1.0, 5.0, none, 7.0]])
    # Of the first query one of two stays; of the second one of three proposals counts, and goes; the third has no half.
    assert float(top_drift(index, live)) == pytest.approx((0.5 + 1.0) / 2)
    assert float(top_drift(index, index)) == 0.0
    assert float(top_drift(index[2:], live[2:])) == 0.0


@given(seed=st.integers(0, 1000), half=st.integers(1, 4))
def test_drift_bounds_what_the_index_misses(seed: int, half: int) -> None:
    """At most 1 - recall@half of the index over all passages, of which it proposed 2 * half."""
    draw = torch.Generator().manual_seed(seed)
    index_BN = torch.randn(5, 20, generator=draw)
    live_BN = index_BN + torch.randn(5, 20, generator=draw)
    index_BK, rows_BK = index_BN.topk(2 * half, 1)
    drift = float(top_drift(index_BK, live_BN.gather(1, rows_BK)))
    best_BH = live_BN.topk(half, 1).indices
    recall = (rows_BK[:, :half, None] == best_BH[:, None]).any(-1).float().mean()
    assert drift <= 1.0 - float(recall) + 1e-6
