"""How far an index has fallen behind the parameters, told by what a step of training computes anyway.

Legend: B queries, K candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_drift(index_BK: Tensor, live_BK: Tensor) -> Tensor:
    """How far live parameters disagree with an index about which of its proposals are the best. Float[], 0 to 1.

    For each query with n proposals: the share of the index's first n // 2 that are not among the first n // 2 by live
    scores; the mean over the queries with two proposals or more, 0 where there are none. Where the proposals are the
    index's best, it is at most 1 - recall@(n // 2) of the index by live scores over all passages: what others of the
    proposals push out of the first half, all passages do. Dropout in the live vectors adds a floor to it.

    index_BK, live_BK: Float[B, K], scores of the same candidates; not finite (NaN, -inf) in either where a candidate is
    none that the index proposed. Equal scores: the earlier candidate first.
    """
    known_BK = torch.isfinite(index_BK) & torch.isfinite(live_BK)
    half_B1 = known_BK.sum(1, keepdim=True) // 2

    def first_half(score_BK: Tensor) -> Tensor:
        order_BK = score_BK.masked_fill(~known_BK, -torch.inf).argsort(dim=1, descending=True, stable=True)
        return order_BK.argsort(dim=1) < half_B1

    kept_B = (first_half(index_BK) & first_half(live_BK)).sum(1)
    half_B = half_B1[:, 0]
    lost_B = torch.where(half_B > 0, 1.0 - kept_B / half_B.clamp(min=1), 0.0)
    return lost_B.sum() / (half_B > 0).sum().clamp(min=1)
