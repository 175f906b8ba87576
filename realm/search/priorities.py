"""Which rows a refresh should embed first: those that recent queries got, the more the further their scores moved.

A REALM step scores its candidates with live parameters anyway (Guu et al. 2020, section 3.3), so the difference between
the index's score and the live one is known for every proposal, at no cost.

Legend: B queries, K proposals, N rows of the snapshot, M rows that were proposed lately.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from realm.errors import ArtefactError
from realm.files import staged_file
from realm.search.jobs import PRIORITIES
from realm.types import NO_ROW

KEPT = 0.5
"""Of what was known at a publication; what was asked for before the last few of them fades."""
COUNTED = 1e-3
"""Worth of being proposed, against a movement of the score by 1: where nothing moved yet, what is asked for leads."""


class Priorities:
    """Movement of scores by row, summed over the steps since the last publications. Memory: 4 bytes a row."""

    def __init__(self, rows: int) -> None:
        self.priority_N = torch.zeros(rows)

    @torch.no_grad()
    def observe(self, rows_BK: Tensor, index_BK: Tensor, live_BK: Tensor) -> None:
        """Add one batch's proposals: their rows Long[B, K], the index's scores Float[B, K] and the live ones.

        A row's share is |live - index - m| with m the mean of live - index over its query's proposals: what all scores
        of a query have in common moves no rank. Where one of the scores is not finite there was no proposal.
        """
        rows_BK = rows_BK.cpu()
        moved_BK = (live_BK.float() - index_BK.to(live_BK.device).float()).cpu()
        known_BK = torch.isfinite(moved_BK) & (rows_BK != NO_ROW)
        moved_BK = moved_BK.masked_fill(~known_BK, 0.0)
        mean_B1 = moved_BK.sum(1, keepdim=True) / known_BK.sum(1, keepdim=True).clamp(min=1)
        worth_BK = (moved_BK - mean_B1).abs() + COUNTED
        self.priority_N.index_add_(0, rows_BK[known_BK], worth_BK[known_BK])

    def save(self, folder: Path) -> None:
        """Write the rows of a priority above 0, Int64[M], and it, Float32[M], into a folder of parameters; let what was
        seen so far fade."""
        rows_M = self.priority_N.nonzero()[:, 0]
        with staged_file(Path(folder) / PRIORITIES) as staged:
            save_file({"rows": rows_M, "priority": self.priority_N[rows_M]}, staged)
        self.priority_N *= KEPT


def order_of(folder: Path, rows: int) -> Tensor:
    """Long[rows]: all rows, those of the highest priority in `folder` first, the rest in the order of rows.

    ArtefactError: the file is damaged, or of a snapshot with other rows. Without a file it is the order of rows.
    """
    path = Path(folder) / PRIORITIES
    if not path.exists():
        return torch.arange(rows)
    try:
        found = load_file(path)
        listed_M, priority_M = found["rows"], found["priority"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ArtefactError(f"{path} can't be read ({error}): expected rows and priorities; publish again") from error
    if listed_M.shape != priority_M.shape or bool(((listed_M < 0) | (listed_M >= rows)).any()):
        raise ArtefactError(f"{path} names rows outside 0..{rows - 1}: expected those of this snapshot; publish again")
    priority_N = torch.zeros(rows)
    priority_N[listed_M] = priority_M
    return priority_N.argsort(descending=True, stable=True)
