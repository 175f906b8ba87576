"""The copy head: a distribution, in log space, that copies only from a body that is there."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.testing import assert_close

from realm.models.copying import CopyHead, copied_logp, mix, mix_vocabulary
from realm.types import Tokens

V, H = 9, 4


def setting() -> tuple[CopyHead, Tensor, Tensor, Tokens, Tensor]:
    """A head, hidden states at 2 masks and at 6 places of 3 inputs, the third without a body."""
    torch.manual_seed(0)
    head = CopyHead(H).double()
    torch.nn.init.normal_(head.gate.weight)
    target_NTH = torch.randn(3, 2, H, dtype=torch.float64, requires_grad=True)
    hidden_NLH = torch.randn(3, 6, H, dtype=torch.float64, requires_grad=True)
    ids_NL = torch.tensor([[1, 5, 6, 5, 7, 1], [1, 8, 8, 8, 8, 1], [1, 1, 0, 0, 0, 0]])
    body_NL = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0] * 6], dtype=torch.bool)
    return head, target_NTH, hidden_NLH, Tokens(ids_NL, torch.zeros_like(ids_NL), torch.tensor([6, 6, 2])), body_NL


def test_it_starts_as_scaled_inner_products_and_a_small_gate() -> None:
    head = CopyHead(H)
    target_NTH, hidden_NLH = torch.randn(1, 1, H), torch.randn(1, 3, H)
    copy = head(target_NTH, hidden_NLH, torch.ones(1, 3, dtype=torch.bool))
    expected_L = (hidden_NLH[0] @ target_NTH[0, 0] / math.sqrt(H)).log_softmax(0)
    assert_close(copy.log_attention_NTL[0, 0], expected_L)
    assert copy.gate_NT.item() == -2.0


def test_mixture_is_the_sum_of_both_ways() -> None:
    head, target_NTH, hidden_NLH, tokens, body_NL = setting()
    copy = head(target_NTH, hidden_NLH, body_NL)
    logp_NTV = torch.randn(3, 2, V, dtype=torch.float64).log_softmax(-1)
    g_NT = copy.gate_NT.sigmoid() * copy.possible_N[:, None]
    mass_NTV = torch.zeros(3, 2, V, dtype=torch.float64)
    for n in range(3):
        for place in body_NL[n].nonzero()[:, 0].tolist():
            mass_NTV[n, :, tokens.ids[n, place]] += copy.log_attention_NTL[n, :, place].exp()
    expected_NTV = (1 - g_NT)[..., None] * logp_NTV.exp() + g_NT[..., None] * mass_NTV
    assert_close(mix_vocabulary(logp_NTV, copy, tokens).exp(), expected_NTV)
    assert_close(expected_NTV.sum(-1), torch.ones(3, 2, dtype=torch.float64))
    for piece in range(V):
        wanted_NT = torch.full((3, 2), piece)
        copied_NT, found_NT = copied_logp(copy, tokens, wanted_NT)
        possible_NT = copy.possible_N[:, None].expand(3, 2)
        one_NT = mix(logp_NTV[..., piece], copy.gate_NT, copied_NT, found_NT, possible_NT)
        assert_close(one_NT.exp(), expected_NTV[..., piece])


def test_gradients_are_finite_with_no_body_and_no_match() -> None:
    head, target_NTH, hidden_NLH, tokens, body_NL = setting()
    copy = head(target_NTH, hidden_NLH, body_NL)
    logp_NT = torch.full((3, 2), -5.0, dtype=torch.float64, requires_grad=True)
    copied_NT, found_NT = copied_logp(copy, tokens, torch.tensor([[5, 4], [8, 5], [5, 0]]))
    assert found_NT.tolist() == [[True, False], [True, False], [False, False]]
    mixed_NT = mix(logp_NT, copy.gate_NT, copied_NT, found_NT, copy.possible_N[:, None].expand(3, 2))
    mixed_NT.sum().backward()
    for parameter in (*head.parameters(), target_NTH, hidden_NLH, logp_NT):
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    # Without a body it is the vocabulary's own probability, untouched by the head.
    assert torch.equal(mixed_NT[2], logp_NT[2])
    assert torch.equal(hidden_NLH.grad[2], torch.zeros(6, H, dtype=torch.float64))


def test_a_hopeless_vocabulary_still_leaves_the_copy() -> None:
    """exp(-2000) is 0 in any float: only log space keeps the sum right."""
    one = torch.zeros(1, 1)
    yes = torch.ones(1, 1, dtype=torch.bool)
    assert mix(one - 2000, one, one - 3, yes, yes).item() == torch.tensor(-3 + math.log(0.5)).item()
    assert mix(one - 2000, one - 3000, one - 3, yes, yes).item() == -2000
