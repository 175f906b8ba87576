"""Top k that is exact, ordered and deterministic, without sorting what can't win.

Legend: B queries, N scores a query, K wanted, G scores a group, M groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realm.errors import DataError
from realm.types import NO_ROW, Hits

GROUP = 64
"""Scores a group. The K groups with the largest maxima hold the K largest scores, so only K * GROUP are sorted."""

_FEW_SCORES = 1 << 20
_ALONE = 32_000
"""Numbers of which torch makes the most in one thread: fewer than its grain of 32,768."""

NO_SCORE = float("-inf")


def top(score_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `min(k, N)` largest scores and their positions: best first, among equals the lower position first.

    score_BN: Float[B, N]. Returns (Float[B, K], Long[B, K]). Positions of -inf scores mean nothing.
    """
    queries, length = score_BN.shape
    groups = length // GROUP
    if groups <= 2 * k:
        return _top(score_BN, min(k, length))
    # Under the order (score descending, position ascending) a score among the best K lies in one of the best K
    # groups under (maximum descending, group ascending): each better group would hold a better score.
    grouped_BMG = score_BN[:, : groups * GROUP].view(queries, groups, GROUP)
    _, best_BK = _top(_maxima(grouped_BMG), k)
    best_BK = best_BK.sort(dim=1).values
    candidate_BKG = grouped_BMG.gather(1, best_BK[:, :, None].expand(-1, -1, GROUP))
    position_BKG = best_BK[:, :, None] * GROUP + torch.arange(GROUP, device=score_BN.device)
    tail = torch.arange(groups * GROUP, length, device=score_BN.device).expand(queries, -1)
    position_BC = torch.cat([position_BKG.flatten(1), tail], 1)
    value_BK, index_BK = _top(torch.cat([candidate_BKG.flatten(1), score_BN[:, groups * GROUP :]], 1), k)
    return value_BK, position_BC.gather(1, index_BK)


def _maxima(grouped_BMG: Tensor) -> Tensor:
    """Float[B, M]. Of few scores on a CPU in pieces too small for torch's helpers, which would go on looking for more
    work, and keep a core from the threads that score the next query."""
    if grouped_BMG.device.type != "cpu" or grouped_BMG.numel() > _FEW_SCORES:
        return grouped_BMG.amax(-1)
    groups = max(1, _ALONE // (GROUP * max(1, len(grouped_BMG))))
    return torch.cat([part.amax(-1) for part in grouped_BMG.split(groups, 1)], 1)


def _top(score_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` with its freedom among equal scores taken away."""
    length = score_BN.shape[1]
    value_BK, index_BK = score_BN.topk(min(k + 1, length), dim=1)  # one more shows a tie across the cut
    # Ties are rare in real scores: one comparison, and the work below is saved.
    if not (value_BK[:, 1:] == value_BK[:, :-1]).any():
        return value_BK[:, :k], index_BK[:, :k]
    if k < length:
        crossing = (value_BK[:, k] == value_BK[:, k - 1]) & (value_BK[:, k] > NO_SCORE)
        tied = crossing.nonzero()[:, 0]
        if len(tied):
            order_TN = score_BN[tied].sort(dim=1, descending=True, stable=True).indices
            index_BK[tied] = order_TN[:, : k + 1]
    index_BK = index_BK[:, :k].sort(dim=1).values
    value_BK, order_BK = score_BN.gather(1, index_BK).sort(dim=1, descending=True, stable=True)
    return value_BK, index_BK.gather(1, order_BK)


class Running:
    """The best K of scores that arrive in pieces, rows ascending from piece to piece."""

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.k = k
        self._any = False
        self.score_BK = torch.full((queries, k), NO_SCORE, device=device)
        self.row_BK = torch.full((queries, k), NO_ROW, dtype=torch.long, device=device)

    def add(self, score_BN: Tensor, rows: Tensor | int) -> None:
        """Scores Float[B, N] of the rows Long[N], or of the N rows from a first row on."""
        value_BK, position_BK = top(score_BN, self.k)
        if torch.isnan(value_BK).any():
            raise DataError("a score is not a number: the index or the query holds NaN or infinity; embed again")
        row_BK = position_BK + rows if isinstance(rows, int) else rows[position_BK]
        if not self._any and value_BK.shape[1] == self.k:  # nothing to merge with yet
            self.score_BK, self.row_BK, self._any = value_BK, row_BK, True
            return
        self._any = True
        score = torch.cat([self.score_BK, value_BK], 1)
        self.score_BK, chosen_BK = _top(score, self.k)
        self.row_BK = torch.cat([self.row_BK, row_BK], 1).gather(1, chosen_BK)

    def hits(self) -> Hits:
        """Padded with NO_ROW and -inf."""
        return Hits(self.row_BK.masked_fill(self.score_BK == NO_SCORE, NO_ROW), self.score_BK)
