"""The worked example of REALM's objective: figures computed elsewhere in numpy and checked by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from realm import objectives

SCORE_BK = torch.tensor([[0.5, 1.5, -0.5]], dtype=torch.float64)
LOGP_BKT = torch.tensor([[[0.10, 0.20], [0.60, 0.05], [0.30, 0.90]]], dtype=torch.float64).log()
MASK_BT = torch.ones(1, 2, dtype=torch.bool)


def gold(*figures: float) -> torch.Tensor:
    return torch.tensor([figures], dtype=torch.float64)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert_close(found, expected, rtol=0, atol=6e-7)


def test_prior_is_the_softmax_of_the_scores() -> None:
    near(objectives.prior_BK(SCORE_BK), gold(0.244728, 0.665241, 0.090031))


def test_posterior_and_retrieval_weights() -> None:
    near(objectives.posterior_BK(SCORE_BK, LOGP_BKT, MASK_BT), gold(0.099564, 0.405964, 0.494472))
    near(objectives.retrieval_weights_BK(SCORE_BK, LOGP_BKT, MASK_BT), gold(-0.145165, -0.259277, 0.404441))


@pytest.mark.parametrize(
    ("level", "loss", "gradient"),
    [
        ("sequence", 3.012674, (-0.145165, -0.259277, 0.404441)),
        ("token", 1.304840, (-0.067650, -0.120480, 0.188130)),
    ],
)
def test_both_marginals_and_their_gradients(level: str, loss: float, gradient: tuple[float, ...]) -> None:
    score_BK = SCORE_BK.clone().requires_grad_()
    found = objectives.marginal_nll(score_BK, LOGP_BKT, MASK_BT, level=level)
    near(found[None, None], gold(loss))
    (by_autograd,) = torch.autograd.grad(-found, score_BK)
    near(by_autograd, gold(*gradient))


def test_single_tokens_of_the_token_marginal() -> None:
    for index, expected in enumerate((0.797116, 1.812563)):
        one_BT = torch.arange(2)[None] == index
        near(objectives.marginal_nll(SCORE_BK, LOGP_BKT, one_BT, level="token")[None, None], gold(expected))
        # With a single masked piece the two levels are the same thing.
        near(objectives.marginal_nll(SCORE_BK, LOGP_BKT, one_BT)[None, None], gold(expected))


def test_retrieval_utility_in_the_papers_and_the_codes_form() -> None:
    near(objectives.retrieval_utility_BK(LOGP_BKT, MASK_BT), gold(0.0, 0.405465, 2.602690))
    near(objectives.retrieval_utility_marginal(SCORE_BK, LOGP_BKT, MASK_BT)[None, None], gold(0.651172))


def test_figures_to_log_agree_with_the_worked_example() -> None:
    stats = objectives.marginal_stats(SCORE_BK, LOGP_BKT, MASK_BT)
    expected = {
        "retrieval_utility": (0.405465 + 2.602690) / 2,
        "retrieval_utility_top1": 0.405465,
        "retrieval_utility_marginal": 0.651172,
        "null_prior": 0.244728,
        "null_posterior": 0.099564,
        "log_likelihood": -3.012674,
    }
    for name, value in expected.items():
        assert stats[name].item() == pytest.approx(value, abs=6e-7), name
        assert not stats[name].requires_grad
