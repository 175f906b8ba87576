"""The worked example of fine-tuning's losses: figures computed elsewhere in numpy and checked by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from realm import objectives_qa

SPAN_BKS = torch.tensor([[[1.0, 0.2, -1.0], [0.0, 2.0, 0.5]]], dtype=torch.float64)
SCORE_BK = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
CORRECT_BKS = torch.tensor([[[False, True, False], [False, True, False]]])
VALID_BKS = torch.ones_like(CORRECT_BKS)


@pytest.mark.parametrize(("level", "loss"), [("joint", 0.641838), ("passage", 0.835359)])
def test_both_reader_losses(level: str, loss: float) -> None:
    nll_B, counted_B = objectives_qa.reader_nll_B(SCORE_BK, SPAN_BKS, CORRECT_BKS, VALID_BKS, level=level)
    assert counted_B.all()
    assert_close(nll_B, torch.tensor([loss], dtype=torch.float64), rtol=0, atol=6e-7)


def test_early_loss() -> None:
    score_BE = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
    nll_B, _ = objectives_qa.early_nll_B(score_BE, torch.tensor([[False, True, False, True]]))
    assert_close(nll_B, torch.tensor([1.368254], dtype=torch.float64), rtol=0, atol=6e-7)
