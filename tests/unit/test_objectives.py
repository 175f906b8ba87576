"""Objectives: identities against autograd, candidates that don't exist, half precision, shapes and permutations."""

from __future__ import annotations

import ast
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from realm import objectives

LEVELS = ("sequence", "token")


def example(batch: int = 4, candidates: int = 5, pieces: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random scores, log probabilities and a mask with at least one piece an example, in float64."""
    generator = torch.Generator().manual_seed(seed)
    score_BK = 3 * torch.randn(batch, candidates, generator=generator, dtype=torch.float64)
    logp_BKT = -4 * torch.rand(batch, candidates, pieces, generator=generator, dtype=torch.float64)
    mask_BT = torch.rand(batch, pieces, generator=generator) < 0.6
    mask_BT[:, 0] = True
    return score_BK, logp_BKT, mask_BT


def slow_nll(score_BK: Tensor, logp_BKT: Tensor, mask_BT: Tensor, level: str) -> float:
    """Equation 1 in plain numbers, one example after the other."""
    losses = []
    for score_K, logp_KT, mask_T in zip(score_BK.tolist(), logp_BKT.tolist(), mask_BT.tolist(), strict=True):
        weights = [math.exp(score) for score in score_K]
        prior = [weight / sum(weights) for weight in weights]
        masked = [j for j, masked in enumerate(mask_T) if masked]
        if level == "token":
            losses += [
                -math.log(sum(p * math.exp(logp[j]) for p, logp in zip(prior, logp_KT, strict=True))) for j in masked
            ]
        else:
            joint = [p * math.prod(math.exp(logp[j]) for j in masked) for p, logp in zip(prior, logp_KT, strict=True)]
            losses.append(-math.log(sum(joint)))
    return sum(losses) / len(losses)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**16))


@settings(max_examples=30, derandomize=True, deadline=None)
@given(shapes, st.sampled_from(LEVELS))
def test_loss_is_equation_1_for_any_shape(shape: tuple[int, int, int, int], level: str) -> None:
    score_BK, logp_BKT, mask_BT = example(*shape)
    found = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
    assert found.shape == ()
    assert found.item() == pytest.approx(slow_nll(score_BK, logp_BKT, mask_BT, level), rel=1e-10)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(shapes, st.sampled_from(LEVELS))
def test_loss_does_not_depend_on_the_order_of_candidates_or_examples(
    shape: tuple[int, int, int, int], level: str
) -> None:
    score_BK, logp_BKT, mask_BT = example(*shape)
    generator = torch.Generator().manual_seed(shape[-1])
    rows, columns = (
        torch.randperm(len(score_BK), generator=generator),
        torch.randperm(score_BK.shape[1], generator=generator),
    )
    expected = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
    moved = objectives.marginal_nll(score_BK[rows][:, columns], logp_BKT[rows][:, columns], mask_BT[rows], level=level)
    assert_close(moved, expected)
    posterior_BK = objectives.posterior_BK(score_BK, logp_BKT, mask_BT)
    moved_BK = objectives.posterior_BK(score_BK[rows][:, columns], logp_BKT[rows][:, columns], mask_BT[rows])
    assert_close(moved_BK, posterior_BK[rows][:, columns])


@settings(max_examples=20, derandomize=True, deadline=None)
@given(shapes)
def test_gradients_are_r_and_the_posterior(shape: tuple[int, int, int, int]) -> None:
    score_BK, logp_BKT, mask_BT = example(*shape)
    score_BK.requires_grad_()
    logp_BKT.requires_grad_()
    likelihood = -objectives.marginal_nll(score_BK, logp_BKT, mask_BT) * len(score_BK)
    by_score_BK, by_logp_BKT = torch.autograd.grad(likelihood, (score_BK, logp_BKT))
    r_BK = objectives.retrieval_weights_BK(score_BK, logp_BKT, mask_BT)
    assert_close(by_score_BK, r_BK.detach())
    assert_close(r_BK.sum(-1), torch.zeros_like(r_BK[:, 0]))
    posterior_BK = objectives.posterior_BK(score_BK, logp_BKT, mask_BT).detach()
    assert_close(by_logp_BKT, posterior_BK[..., None] * mask_BT[:, None])
    # r > 0 exactly where a passage beats the average of the candidates under the prior.
    logp_BK = objectives.sequence_logp_BK(logp_BKT, mask_BT)
    average_B1 = (objectives.log_prior_BK(score_BK) + logp_BK).logsumexp(-1, keepdim=True)
    clear_BK = (logp_BK - average_B1).abs() > 1e-9
    assert torch.equal((r_BK > 0)[clear_BK], (logp_BK > average_B1)[clear_BK])


def test_one_passage_that_explains_all_makes_it_maximum_likelihood_on_a_gold_passage() -> None:
    score_BK = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    logp_BKT = torch.tensor([[[-math.inf], [0.0], [-math.inf]]], dtype=torch.float64)
    mask_BT = torch.ones(1, 1, dtype=torch.bool)
    for level in LEVELS:
        loss = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
        (found,) = torch.autograd.grad(loss, score_BK)
        (expected,) = torch.autograd.grad(-score_BK.log_softmax(-1)[0, 1], score_BK)
        assert_close(found, expected)
    assert objectives.posterior_BK(score_BK, logp_BKT, mask_BT).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("garbage", [0.0, -math.inf, math.nan])
def test_missing_candidates_change_nothing_and_get_no_gradient(level: str, garbage: float) -> None:
    score_BK, logp_BKT, mask_BT = example()
    expected = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
    padded_BK = torch.cat([score_BK, torch.full((4, 2), -math.inf)], 1).requires_grad_()
    padded_BKT = torch.cat([logp_BKT, torch.full((4, 2, 3), garbage)], 1).requires_grad_()
    found = objectives.marginal_nll(padded_BK, padded_BKT, mask_BT, level=level)
    assert_close(found, expected)
    found.backward()
    assert padded_BK.grad is not None and padded_BKT.grad is not None
    assert torch.equal(padded_BK.grad[:, 5:], torch.zeros(4, 2))
    assert torch.equal(padded_BKT.grad[:, 5:], torch.zeros(4, 2, 3))
    assert padded_BK.grad.isfinite().all() and padded_BKT.grad.isfinite().all()
    # The mask says the same as a score of -inf.
    kept_BK = torch.arange(7).expand(4, 7) < 5
    masked = objectives.marginal_nll(
        padded_BK.detach().nan_to_num(neginf=9.0), padded_BKT, mask_BT, level=level, candidate_mask_BK=kept_BK
    )
    assert_close(masked, expected)


@pytest.mark.parametrize("level", LEVELS)
def test_examples_without_candidates_or_masked_pieces_are_not_counted(level: str) -> None:
    score_BK, logp_BKT, mask_BT = example()
    expected = objectives.marginal_nll(score_BK[:2], logp_BKT[:2], mask_BT[:2], level=level)
    score_BK[2], mask_BT[3] = -math.inf, False
    score_BK.requires_grad_()
    logp_BKT.requires_grad_()
    found = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
    assert_close(found, expected)
    for gradient in torch.autograd.grad(found, (score_BK, logp_BKT)):
        assert gradient.isfinite().all()
        assert torch.equal(gradient[2:], torch.zeros_like(gradient[2:]))
    counted = mask_BT[:2].sum() if level == "token" else 2
    assert objectives.loss_count(score_BK, mask_BT, level=level) == counted


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_at_all_is_zero_with_zero_gradient(level: str) -> None:
    score_BK = torch.full((2, 3), -math.inf, requires_grad=True)
    logp_BKT = torch.full((2, 3, 1), math.nan, requires_grad=True)
    loss = objectives.marginal_nll(score_BK, logp_BKT, torch.ones(2, 1, dtype=torch.bool), level=level)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (score_BK, logp_BKT)):
        assert torch.equal(gradient, torch.zeros_like(gradient))
    for name, value in objectives.marginal_stats(score_BK, logp_BKT, torch.ones(2, 1, dtype=torch.bool)).items():
        assert value.item() == 0, name
    assert objectives.prior_BK(score_BK).sum() == 0


def test_a_broken_number_that_counts_is_not_hidden() -> None:
    score_BK, logp_BKT, mask_BT = example()
    logp_BKT[1, 2, 0] = math.nan
    assert objectives.marginal_nll(score_BK, logp_BKT, mask_BT).isnan()
    logp_BKT[1, 2, 0] = -1.0
    score_BK[0, 0] = math.nan
    assert objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level="token").isnan()


def test_unmasked_positions_may_hold_anything() -> None:
    score_BK, logp_BKT, _ = example()
    mask_BT = torch.tensor([[True, False, False]]).expand(4, 3)
    expected = objectives.marginal_stats(score_BK, logp_BKT, mask_BT)
    logp_BKT[:, :, 1], logp_BKT[:, :, 2] = math.nan, -math.inf
    for name, value in objectives.marginal_stats(score_BK, logp_BKT, mask_BT).items():
        assert_close(value, expected[name])
    for level in LEVELS:
        assert objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level).isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    score_BK, logp_BKT, mask_BT = example()
    # Scores of a LayerNorm'd 128-dimensional encoder: half precision alone would lose the differences.
    score_BK, logp_BKT = (40 * score_BK).to(dtype), logp_BKT.to(dtype)
    for level in LEVELS:
        found = objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level)
        assert found.dtype == torch.float32
        assert_close(found, objectives.marginal_nll(score_BK.float(), logp_BKT.float(), mask_BT, level=level))
    assert objectives.posterior_BK(score_BK, logp_BKT, mask_BT).dtype == torch.float32
    query_BD, passage_ND = score_BK, logp_BKT.flatten(0, 1).T.contiguous().T[:5, [0, 1, 2, 0, 1]]
    assert objectives.in_batch_softmax(query_BD, passage_ND).dtype == torch.float32


def test_extreme_scores_stay_finite() -> None:
    score_BK = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    logp_BKT = torch.tensor([[[-900.0], [-1.0], [-300.0]]], requires_grad=True)
    mask_BT = torch.ones(1, 1, dtype=torch.bool)
    loss = objectives.marginal_nll(score_BK, logp_BKT, mask_BT)
    assert loss.item() == pytest.approx(900.0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (score_BK, logp_BKT)))


@pytest.mark.parametrize("level", LEVELS)
def test_micro_batches_add_up_to_the_whole_batch(level: str) -> None:
    score_BK, logp_BKT, mask_BT = example(batch=6)
    count = objectives.loss_count(score_BK, mask_BT, level=level)
    parts = [
        objectives.marginal_nll(score_BK[part], logp_BKT[part], mask_BT[part], level=level, count=count)
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert_close(sum(parts), objectives.marginal_nll(score_BK, logp_BKT, mask_BT, level=level))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'word': expected one of sequence, token"):
        objectives.marginal_nll(*example(), level="word")


def test_in_batch_softmax_is_cross_entropy_over_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    query_BD = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    passage_ND = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels_B = torch.tensor([4, 0, 2])
    expected = torch.nn.functional.cross_entropy(query_BD @ passage_ND.T, labels_B)
    assert_close(objectives.in_batch_softmax(query_BD, passage_ND, labels_B), expected)
    own = objectives.in_batch_softmax(query_BD, passage_ND)
    assert_close(own, torch.nn.functional.cross_entropy(query_BD @ passage_ND.T, torch.arange(3)))


def test_in_batch_duplicates_can_be_left_out() -> None:
    query_BD = torch.eye(3, dtype=torch.float64)
    passage_ND = torch.eye(3, dtype=torch.float64)[[0, 1, 0]]
    allowed_BN = torch.tensor([[True, True, False], [True, True, True], [False, True, False]])
    found = objectives.in_batch_softmax(query_BD, passage_ND, None, allowed_BN)
    # Query 0 chooses between 1 and 0, query 1 between 0, 1, 0, query 2 (its own passage always stays) between 0 and 0.
    expected = -(math.log(math.e / (math.e + 1)) + math.log(math.e / (math.e + 2)) + math.log(1 / 2)) / 3
    assert found.item() == pytest.approx(expected)
    assert objectives.in_batch_correct_B(query_BD, passage_ND, None, allowed_BN).tolist() == [True, True, False]
    assert objectives.in_batch_correct_B(query_BD, passage_ND).tolist() == [False, True, False]


def test_entropy_runs_from_zero_to_log_k() -> None:
    found_B = objectives.entropy_B(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]))
    assert_close(found_B, torch.tensor([0.0, math.log(4)]))


def test_objectives_import_torch_and_nothing_else() -> None:
    tree = ast.parse(inspect.getsource(objectives))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} == {"__future__", "torch"}


@pytest.mark.parametrize("shape", [(6, 64), (3, 6, 64)], ids=["shared", "own"])
def test_scores_are_as_exact_under_autocast_as_without(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    query_BD, passages = (3 * torch.randn(size, generator=generator) for size in ((3, 64), shape))
    query_BD.requires_grad_()
    expected = torch.einsum("bd,nd->bn" if len(shape) == 2 else "bd,bnd->bn", query_BD.double(), passages.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objectives.scores(query_BD, passages)
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    (gradient_BD,) = torch.autograd.grad(found.sum(), query_BD)
    assert_close(gradient_BD, passages.sum(0).expand(3, -1) if len(shape) == 2 else passages.sum(1))


def test_the_in_batch_softmax_is_the_same_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    query_BD, passage_ND = (3 * torch.randn(5, 64, generator=generator) for _ in range(2))
    expected = objectives.in_batch_softmax(query_BD, passage_ND)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(objectives.in_batch_softmax(query_BD, passage_ND), expected)
