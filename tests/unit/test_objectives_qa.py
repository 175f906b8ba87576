"""The losses of question answering: probabilities add up, gradients are what the papers say, nothing correct is nothing
to learn from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from realm import objectives_qa
from realm.objectives_qa import early_nll_B, mean_of_counted, reader_nll_B, span_log_prob_BKS

LEVELS = st.sampled_from(objectives_qa.LEVELS)


def example(seed: int, b: int = 3, k: int = 4, s: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, span scores, correct and valid spans; some passages are missing, some have no valid span."""
    draw = torch.Generator().manual_seed(seed)
    score_BK = torch.randn(b, k, dtype=torch.float64, generator=draw)
    span_BKS = 3 * torch.randn(b, k, s, dtype=torch.float64, generator=draw)
    valid_BKS = torch.rand(b, k, s, generator=draw) < 0.7
    missing_BK = torch.rand(b, k, generator=draw) < 0.2
    valid_BKS &= ~missing_BK[..., None]
    correct_BKS = torch.rand(b, k, s, generator=draw) < 0.2
    return score_BK.masked_fill(missing_BK, -torch.inf), span_BKS, correct_BKS, valid_BKS


@given(st.integers(0, 10_000), LEVELS)
def test_spans_are_a_distribution(seed: int, level: str) -> None:
    score_BK, span_BKS, _, valid_BKS = example(seed)
    prob_BKS = span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level=level).exp()
    assert not prob_BKS[~valid_BKS].any()
    assert_close(prob_BKS.flatten(1).sum(-1), valid_BKS.flatten(1).any(-1).double())


@given(st.integers(0, 10_000))
def test_the_level_decides_what_a_passage_weighs(seed: int) -> None:
    score_BK, span_BKS, _, valid_BKS = example(seed)
    readable_BK = valid_BKS.any(-1)
    mass_BK = span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level="passage").exp().sum(-1)
    some_B = readable_BK.any(-1)
    prior_BK = score_BK.masked_fill(~readable_BK, -torch.inf).softmax(-1)
    assert_close(mass_BK[some_B], prior_BK[some_B])
    joint_BK = span_log_prob_BKS(score_BK, span_BKS, valid_BKS).exp().sum(-1)
    evidence_BK = (span_BKS.exp() * valid_BKS).sum(-1) * score_BK.exp()
    assert_close(joint_BK, evidence_BK / evidence_BK.sum(-1, keepdim=True).clamp(min=1e-30))


@given(st.integers(0, 10_000), LEVELS)
def test_gradients_are_probability_minus_posterior(seed: int, level: str) -> None:
    score_BK, span_BKS, correct_BKS, valid_BKS = example(seed)
    score_BK.requires_grad_(), span_BKS.requires_grad_()
    nll_B, counted_B = reader_nll_B(score_BK, span_BKS, correct_BKS, valid_BKS, level=level)
    assert_close(counted_B, (correct_BKS & valid_BKS).flatten(1).any(-1))
    by_score_BK, by_span_BKS = torch.autograd.grad(nll_B.sum(), (score_BK, span_BKS))
    with torch.no_grad():
        prob_BKS = span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level=level).exp()
        right_BKS = prob_BKS * (correct_BKS & valid_BKS)
        posterior_BKS = right_BKS / right_BKS.flatten(1).sum(-1)[:, None, None].clamp(min=1e-300)
        # Within a passage at the level "passage": p(s|z) times what the passage is worth afterwards.
        prior_BK, after_BK = prob_BKS.sum(-1), posterior_BKS.sum(-1)
        expected_BKS = prob_BKS
        if level == "passage":
            expected_BKS = prob_BKS * (after_BK / prior_BK.clamp(min=1e-300))[..., None]
        counted_B11 = counted_B[:, None, None]
    assert_close(by_score_BK, (prior_BK - after_BK).masked_fill(~counted_B[:, None], 0.0), rtol=1e-6, atol=1e-9)
    assert_close(by_span_BKS, (expected_BKS - posterior_BKS).masked_fill(~counted_B11, 0.0), rtol=1e-6, atol=1e-9)


@given(st.integers(0, 10_000))
def test_early_gradient(seed: int) -> None:
    score_BK, _, correct_BKS, _ = example(seed)
    correct_BE = correct_BKS[..., 0]
    score_BK.requires_grad_()
    nll_B, counted_B = early_nll_B(score_BK, correct_BE)
    (by_score_BE,) = torch.autograd.grad(nll_B.sum(), score_BK)
    prior_BE = score_BK.detach().softmax(-1)
    right_BE = prior_BE * correct_BE
    expected_BE = prior_BE - right_BE / right_BE.sum(-1, keepdim=True)
    assert_close(by_score_BE, torch.where(counted_B[:, None], expected_BE, 0.0), rtol=1e-6, atol=1e-9)
    assert_close(nll_B[counted_B], -right_BE.sum(-1).log()[counted_B])
    assert (nll_B[~counted_B] == 0).all()


def test_nothing_correct_is_nothing_to_learn() -> None:
    score_BK, span_BKS, _, valid_BKS = example(1)
    span_BKS.requires_grad_()
    nll_B, counted_B = reader_nll_B(score_BK, span_BKS, torch.zeros_like(valid_BKS), torch.zeros_like(valid_BKS))
    mean_of_counted(nll_B, counted_B).backward()
    assert not counted_B.any() and not nll_B.any() and span_BKS.grad is not None and not span_BKS.grad.any()


def test_the_mean_is_over_those_that_count_or_over_all() -> None:
    values_B, counted_B = torch.tensor([2.0, 5.0, 4.0]), torch.tensor([True, False, True])
    assert mean_of_counted(values_B, counted_B) == 3
    assert mean_of_counted(values_B, counted_B, 3.0) == 2


def test_nan_that_counts_is_not_hidden() -> None:
    score_BK, span_BKS, _, _ = example(2)
    everything_BKS = torch.ones_like(span_BKS, dtype=torch.bool)
    span_BKS[0, 0, 0] = torch.nan
    nll_B, _ = reader_nll_B(score_BK.nan_to_num(neginf=0), span_BKS, everything_BKS, everything_BKS)
    assert nll_B[0].isnan() and not nll_B[1:].isnan().any()


def test_half_precision_is_computed_with_in_full() -> None:
    score_BK, span_BKS, correct_BKS, valid_BKS = example(3)
    nll_B, _ = reader_nll_B(score_BK.bfloat16(), span_BKS.bfloat16(), correct_BKS, valid_BKS)
    assert nll_B.dtype == torch.float32


def test_another_level_is_refused() -> None:
    score_BK, span_BKS, _, valid_BKS = example(4)
    with pytest.raises(ValueError, match="expected one of joint, passage"):
        span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level="document")
