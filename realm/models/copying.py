"""A head that lets a masked-token reader copy word pieces from the passage.

Legend for shapes: N sequences, L tokens, T target tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from realm.types import Tokens


class Copy(NamedTuple):
    """What the copy head says about each target token; everything is finite where `possible_N` is False, and unused."""

    log_attention_NTL: Tensor
    """log of the attention on each token; -inf outside the body."""
    gate_NT: Tensor
    """logit of g, the share of probability that is copied."""
    possible_N: Tensor
    """Bool[N]: the body is not empty. Elsewhere, as for the null passage, g = 0."""


class CopyHead(nn.Module):
    """p(y_j|z,x) = (1 - g_j) softmax_V(y_j) + g_j * (attention from [MASK]_j on the tokens of z that equal y_j).

    In the manner of pointer networks (Vinyals et al. 2015; See et al. 2017), here inside REALM's p(y|z,x). Attention
    starts as the scaled inner product of the backbone's own hidden states (identity projections), so that a pretrained
    encoder's geometry gives the retriever a signal from the first step. The gate starts at 0.12: a passage without the
    answer then costs little against the null passage, (1 - g) a piece, and one with it gains as much as with any gate.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Linear(2 * hidden_size, 1)
        for projection in (self.query, self.key):
            nn.init.eye_(projection.weight)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, target_NTH: Tensor, hidden_NLH: Tensor, body_NL: Tensor) -> Copy:
        """target_NTH: hidden states at the masked positions. body_NL: True on the tokens that may be copied."""
        with torch.autocast(hidden_NLH.device.type, enabled=False):
            possible_N = body_NL.any(-1)
            # Attention over nothing is NaN, and so is its gradient: an empty body attends everywhere and is not used.
            attended_NL = body_NL | ~possible_N[:, None]
            logits_NTL = self.query(target_NTH) @ self.key(hidden_NLH).mT / math.sqrt(hidden_NLH.shape[-1])
            log_attention_NTL = logits_NTL.masked_fill(~attended_NL[:, None], -math.inf).log_softmax(-1)
            context_NTH = log_attention_NTL.exp() @ hidden_NLH
            gate_NT = self.gate(torch.cat([target_NTH, context_NTH], -1))[..., 0]
        return Copy(log_attention_NTL, gate_NT, possible_N)


def copied_logp(copy: Copy, tokens: Tokens, wanted_NT: Tensor) -> tuple[Tensor, Tensor]:
    """log of the attention mass on tokens equal to `wanted_NT` (Long[N, T]), and where there are such tokens.

    (Float[N, T], Bool[N, T]); the first is finite, and has no gradient, where the second is False.
    """
    match_NTL = (tokens.ids[:, None] == wanted_NT[..., None]) & (copy.log_attention_NTL > -math.inf)
    found_NT = match_NTL.any(-1) & copy.possible_N[:, None]
    # logsumexp over nothing would give NaN gradients, so rows without a match sum over zeros instead.
    masked_NTL = copy.log_attention_NTL.masked_fill(~match_NTL, -math.inf).masked_fill(~found_NT[..., None], 0.0)
    return masked_NTL.logsumexp(-1), found_NT


def mix(logp_NT: Tensor, gate_NT: Tensor, copied_NT: Tensor, found_NT: Tensor, possible_NT: Tensor) -> Tensor:
    """log of the mixture of the vocabulary's and the copied probability, in log space. Float[N, T]."""
    kept_NT = logp_NT + nn.functional.logsigmoid(-gate_NT)
    both_NT = torch.logaddexp(kept_NT, nn.functional.logsigmoid(gate_NT) + copied_NT)
    return torch.where(possible_NT, torch.where(found_NT, both_NT, kept_NT), logp_NT)


def mix_vocabulary(logp_NTV: Tensor, copy: Copy, tokens: Tokens) -> Tensor:
    """`mix` for every word piece of the vocabulary at once. Float[N, T, V]; for predicting, not for training."""
    size, length = logp_NTV.shape[:2], tokens.ids.shape[1]
    mass_NTV = torch.zeros_like(logp_NTV).scatter_add(
        2, tokens.ids[:, None].expand(*size, length), copy.log_attention_NTL.exp().to(logp_NTV.dtype)
    )
    gate_NT1 = copy.gate_NT[..., None]
    kept_NTV = logp_NTV + nn.functional.logsigmoid(-gate_NT1)
    mixed_NTV = torch.logaddexp(kept_NTV, nn.functional.logsigmoid(gate_NT1) + mass_NTV.log())
    return torch.where(copy.possible_N[:, None, None], mixed_NTV, logp_NTV)
