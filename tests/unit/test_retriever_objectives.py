"""EMDR2, perplexity distillation, leave-one-out: by hand, against the papers' gradients, and where nothing counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from realm import objectives

LEVELS = ("sequence", "token")
TEACHERS = (objectives.perplexity_teacher_BK, objectives.leave_one_out_teacher_BK)
Objective = Callable[..., Tensor]


def distilled(teacher: Objective, temperature: float = 1.0) -> Objective:
    """The loss of `teacher`'s objective, called as `marginal_nll` is."""

    def loss(score_BK: Tensor, logp_BKT: Tensor, mask_BT: Tensor, **over: Tensor) -> Tensor:
        kept = {name: value for name, value in over.items() if name == "candidate_mask_BK"}
        teacher_BK = teacher(score_BK, logp_BKT, mask_BT, temperature=temperature, **kept)
        return objectives.distillation_nll(score_BK, logp_BKT, mask_BT, teacher_BK, **over)

    return loss


ALL = {
    "emdr2": objectives.emdr2_nll,
    "perplexity": distilled(objectives.perplexity_teacher_BK),
    "leave-one-out": distilled(objectives.leave_one_out_teacher_BK, 0.5),
}


def example(batch: int = 4, candidates: int = 5, pieces: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random scores, log probabilities and a mask with at least one piece an example, in float64."""
    generator = torch.Generator().manual_seed(seed)
    score_BK = 3 * torch.randn(batch, candidates, generator=generator, dtype=torch.float64)
    logp_BKT = -4 * torch.rand(batch, candidates, pieces, generator=generator, dtype=torch.float64)
    mask_BT = torch.rand(batch, pieces, generator=generator) < 0.6
    mask_BT[:, 0] = True
    return score_BK.requires_grad_(), logp_BKT.requires_grad_(), mask_BT


shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**16))
quick = settings(max_examples=20, derandomize=True, deadline=None)

# ---------------------------------------------------------------- by hand: p(z|x) = 1/2 1/4 1/4, p(y|z,x) = .1 .8 .4

PRIOR, GIVEN = (0.5, 0.25, 0.25), (0.1, 0.8, 0.4)


def by_hand() -> tuple[Tensor, Tensor, Tensor]:
    """The same example for all; the target is of two pieces, of which the first is certain."""
    score_BK = torch.tensor([PRIOR], dtype=torch.float64).log() + 7.0
    logp_BK = torch.tensor([GIVEN], dtype=torch.float64).log()
    logp_BKT = torch.stack([torch.zeros_like(logp_BK), logp_BK], dim=-1)
    return score_BK, logp_BKT, torch.ones(1, 2, dtype=torch.bool)


def test_emdr2_is_the_retriever_s_mixture_and_the_mean_reader() -> None:
    wanted = -math.log(0.5 * 0.1 + 0.25 * 0.8 + 0.25 * 0.4) - math.log((0.1 + 0.8 + 0.4) / 3)
    assert objectives.emdr2_nll(*by_hand()).item() == pytest.approx(wanted)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_the_perplexity_teacher_is_the_reader_alone(temperature: float) -> None:
    weights = [p ** (1 / temperature) for p in GIVEN]
    found_BK = objectives.perplexity_teacher_BK(*by_hand(), temperature=temperature)
    assert found_BK[0].tolist() == pytest.approx([weight / sum(weights) for weight in weights])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_the_leave_one_out_teacher_is_what_the_rest_lacks(temperature: float) -> None:
    without = [(0.25 * 0.8 + 0.25 * 0.4) / 0.5, (0.5 * 0.1 + 0.25 * 0.4) / 0.75, (0.5 * 0.1 + 0.25 * 0.8) / 0.75]
    weights = [p ** (-1 / temperature) for p in without]
    found_BK = objectives.leave_one_out_teacher_BK(*by_hand(), temperature=temperature)
    assert found_BK[0].tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_distillation_is_the_divergence_and_the_marginal_likelihood() -> None:
    teacher = (0.2, 0.8, 0.0)
    divergence = 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.25)
    found = objectives.distillation_nll(*by_hand(), torch.tensor([teacher]).double())
    assert found.item() == pytest.approx(divergence - math.log(0.35))


# ---------------------------------------------------------------- gradients


@quick
@given(shapes, st.sampled_from(LEVELS))
def test_emdr2_moves_scores_as_the_marginal_does_and_readers_by_likelihood_alone(
    shape: tuple[int, int, int, int], level: str
) -> None:
    score_BK, logp_BKT, mask_BT = example(*shape)
    by_score_BK, by_logp_BKT = torch.autograd.grad(
        objectives.emdr2_nll(score_BK, logp_BKT, mask_BT, level=level), (score_BK, logp_BKT)
    )
    marginal = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
    assert_close(by_score_BK, torch.autograd.grad(marginal, score_BK)[0])
    if level == "sequence":
        share_BK = objectives.sequence_logp_BK(logp_BKT, mask_BT).softmax(-1).detach()
        assert_close(by_logp_BKT, -share_BK[..., None] * mask_BT[:, None] / len(score_BK))
    else:
        weight_BKT = logp_BKT.softmax(1).detach() * mask_BT[:, None]
        assert_close(by_logp_BKT, -weight_BKT / mask_BT.sum())


@quick
@given(shapes, st.sampled_from(TEACHERS), st.sampled_from([0.3, 1.0, 4.0]))
def test_distillation_pulls_the_prior_to_the_teacher_and_leaves_the_reader_its_posterior(
    shape: tuple[int, int, int, int], teacher: Objective, temperature: float
) -> None:
    score_BK, logp_BKT, mask_BT = example(*shape)
    loss = distilled(teacher, temperature)(score_BK, logp_BKT, mask_BT)
    by_score_BK, by_logp_BKT = torch.autograd.grad(loss, (score_BK, logp_BKT))
    teacher_BK = teacher(score_BK, logp_BKT, mask_BT, temperature=temperature)
    assert_close(by_score_BK, (objectives.prior_BK(score_BK) - teacher_BK).detach() / len(score_BK))
    posterior_BK = objectives.posterior_BK(score_BK, logp_BKT, mask_BT).detach()
    assert_close(by_logp_BKT, -posterior_BK[..., None] * mask_BT[:, None] / len(score_BK))


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_divergence_s_gradient_is_its_finite_difference(teacher: Objective) -> None:
    score_BK, logp_BKT, mask_BT = example(batch=2, candidates=3)
    teacher_BK = teacher(score_BK, logp_BKT, mask_BT)
    reader = objectives.marginal_nll(score_BK, logp_BKT, mask_BT).detach()

    def divergence(moved_BK: Tensor) -> Tensor:
        # The reader's part moves with the score, too, but its gradient is stopped: take it out by its value.
        loss = objectives.distillation_nll(moved_BK, logp_BKT.detach(), mask_BT, teacher_BK)
        return loss - objectives.marginal_nll(moved_BK.detach(), logp_BKT.detach(), mask_BT) + reader

    assert torch.autograd.gradcheck(divergence, (score_BK,))


@quick
@given(shapes, st.sampled_from(TEACHERS))
def test_teachers_are_distributions_that_the_order_and_the_level_of_scores_do_not_change(
    shape: tuple[int, int, int, int], teacher: Objective
) -> None:
    score_BK, logp_BKT, mask_BT = example(*shape)
    teacher_BK = teacher(score_BK, logp_BKT, mask_BT)
    assert not teacher_BK.requires_grad
    assert_close(teacher_BK.sum(-1), torch.ones_like(teacher_BK[:, 0]))
    order = torch.randperm(score_BK.shape[1], generator=torch.Generator().manual_seed(shape[-1]))
    assert_close(teacher(score_BK[:, order] + 5.0, logp_BKT[:, order], mask_BT), teacher_BK[:, order])


@quick
@given(shapes)
def test_leaving_out_hurts_most_where_the_reader_gains_most(shape: tuple[int, int, int, int]) -> None:
    # With equal priors the worths are ordered as p(y|z,x): what is left is the sum less one's own part.
    score_BK, logp_BKT, mask_BT = example(*shape)
    level_BK = torch.zeros_like(score_BK)
    order_BK = objectives.sequence_logp_BK(logp_BKT, mask_BT).argsort(-1)
    sorted_BK = objectives.leave_one_out_teacher_BK(level_BK, logp_BKT, mask_BT).gather(1, order_BK)
    assert bool((sorted_BK.diff(dim=-1) >= -1e-12).all())


# ---------------------------------------------------------------- what does not exist, what is extreme


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("garbage", [0.0, -math.inf, math.nan])
def test_missing_candidates_change_nothing_and_get_no_gradient(name: str, garbage: float) -> None:
    score_BK, logp_BKT, mask_BT = example()
    expected = ALL[name](score_BK, logp_BKT, mask_BT)
    padded_BK = torch.cat([score_BK.detach(), torch.full((4, 2), -math.inf)], 1).requires_grad_()
    padded_BKT = torch.cat([logp_BKT.detach(), torch.full((4, 2, 3), garbage)], 1).requires_grad_()
    found = ALL[name](padded_BK, padded_BKT, mask_BT)
    assert_close(found, expected)
    for gradient in torch.autograd.grad(found, (padded_BK, padded_BKT)):
        assert gradient.isfinite().all()
        assert not gradient[:, 5:].any()
    # The mask says the same as a score of -inf.
    kept_BK = torch.arange(7).expand(4, 7) < 5
    masked = ALL[name](padded_BK.detach().nan_to_num(neginf=9.0), padded_BKT, mask_BT, candidate_mask_BK=kept_BK)
    assert_close(masked, expected)


@pytest.mark.parametrize("name", ALL)
def test_examples_without_candidates_or_masked_pieces_are_not_counted(name: str) -> None:
    score_BK, logp_BKT, mask_BT = (part.detach().clone() for part in example())
    expected = ALL[name](score_BK[:2], logp_BKT[:2], mask_BT[:2])
    score_BK[2], mask_BT[3] = -math.inf, False
    found = ALL[name](score_BK.requires_grad_(), logp_BKT.requires_grad_(), mask_BT)
    assert_close(found, expected)
    for gradient in torch.autograd.grad(found, (score_BK, logp_BKT)):
        assert gradient.isfinite().all() and not gradient[2:].any()


@pytest.mark.parametrize("name", ALL)
def test_a_lone_candidate_teaches_the_retriever_nothing(name: str) -> None:
    score_BK, logp_BKT, mask_BT = example(candidates=1)
    loss = ALL[name](score_BK, logp_BKT, mask_BT)
    by_score_BK, by_logp_BKT = torch.autograd.grad(loss, (score_BK, logp_BKT))
    assert_close(by_score_BK, torch.zeros_like(by_score_BK))
    assert_close(by_logp_BKT, -mask_BT[:, None].double() / 4)


@pytest.mark.parametrize("name", ALL)
def test_extreme_scores_and_the_only_passage_that_tells_stay_finite(name: str) -> None:
    score_BK = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    logp_BKT = torch.tensor([[[-900.0], [-1.0], [-300.0]], [[-math.inf], [-1.0], [-math.inf]]], requires_grad=True)
    loss = ALL[name](score_BK, logp_BKT, torch.ones(2, 1, dtype=torch.bool))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (score_BK, logp_BKT)))


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_only_passage_that_tells_is_all_that_is_taught(teacher: Objective) -> None:
    logp_BKT = torch.tensor([[[-math.inf], [-9.0], [-math.inf]], [[-math.inf]] * 3])
    teacher_BK = teacher(torch.zeros(2, 3), logp_BKT, torch.ones(2, 1, dtype=torch.bool), temperature=0.1)
    assert teacher_BK.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", ALL)
def test_a_broken_number_that_counts_is_not_hidden(name: str) -> None:
    score_BK, logp_BKT, mask_BT = (part.detach().clone() for part in example())
    logp_BKT[1, 2, 0] = math.nan
    assert ALL[name](score_BK, logp_BKT, mask_BT).isnan()
    logp_BKT[1, 2, 0], score_BK[0, 0] = -1.0, math.nan
    assert ALL[name](score_BK, logp_BKT, mask_BT).isnan()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    score_BK, logp_BKT, mask_BT = example()
    score_BK, logp_BKT = (40 * score_BK.detach()).to(dtype), logp_BKT.detach().to(dtype)
    found = ALL[name](score_BK, logp_BKT, mask_BT)
    assert found.dtype == torch.float32
    assert_close(found, ALL[name](score_BK.float(), logp_BKT.float(), mask_BT))


@pytest.mark.parametrize("name", ALL)
def test_micro_batches_add_up_to_the_whole_batch(name: str) -> None:
    score_BK, logp_BKT, mask_BT = example(batch=6)
    count = objectives.loss_count(score_BK, mask_BT)
    parts = [
        ALL[name](score_BK[part], logp_BKT[part], mask_BT[part], count=count)
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert_close(sum(parts), ALL[name](score_BK, logp_BKT, mask_BT))
