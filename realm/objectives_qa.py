"""Objectives of open-domain question answering: pure functions of tensors (Guu et al. 2020, section 3.2; Lee et al.
2019, section 3 and the released code for how a softmax is taken).

Legend for shapes: B questions, K passages that are read, S spans of a passage, E passages of the early loss, C choices.

Rules as in `realm.objectives`: at least float32; what is not valid gets probability 0 and no gradient; a question in
which nothing is correct adds nothing and is not counted in a mean; NaN that counts reaches the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realm import objectives

LEVELS = ("joint", "passage")
NEGATIVE_INFINITY = float("-inf")


def span_log_prob_BKS(score_BK: Tensor, span_BKS: Tensor, valid_BKS: Tensor, *, level: str = "joint") -> Tensor:
    """log p(s, z | x): of span s in passage z. Float[B, K, S]; -inf where not valid.

    level: "joint" adds the retrieval score to every span of its passage and takes one softmax over all spans of all
    passages, as the released code does; then a passage with many good spans has more mass than f(x, z) alone gives it.
    "passage" is p(z|x) p(s|z,x) with both normalised, the latter within its passage. The paper writes a proportionality
    and leaves the choice open.

    Raises ValueError for another level.
    """
    if level not in LEVELS:
        raise ValueError(f"found span level {level!r}: expected one of {', '.join(LEVELS)}")
    score_BK, span_BKS = _at_least_float32(score_BK), _at_least_float32(span_BKS)
    readable_BK = valid_BKS.any(-1)
    if level == "joint":
        # A passage that does not exist has the score -inf, and no valid span: 0 keeps its gradient a number.
        score_BK = score_BK.masked_fill(~readable_BK, 0.0)
        return _log_softmax((span_BKS + score_BK[..., None]).flatten(1), valid_BKS.flatten(1)).view_as(span_BKS)
    log_prior_BK = objectives.log_prior_BK(score_BK, readable_BK).masked_fill(~readable_BK, 0.0)
    within_BKS = _log_softmax(span_BKS, valid_BKS)
    return (log_prior_BK[..., None] + within_BKS).masked_fill(~valid_BKS, NEGATIVE_INFINITY)


def reader_nll_B(
    score_BK: Tensor, span_BKS: Tensor, correct_BKS: Tensor, valid_BKS: Tensor, *, level: str = "joint"
) -> tuple[Tensor, Tensor]:
    """-log p(y|x), p(y|x) the sum of p(s, z | x) over all correct spans of all passages: the reader's loss.

    So the answer is marginalised over passages and over the places where it stands in them. The gradient by a span's
    score is p(s, z | x) - p(s, z | x, y) at both levels, for the part of it that the level normalises over.

    (Float[B], 0 where nothing is correct; Bool[B], whether something is.)
    """
    joint_BC = span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level=level).flatten(1)
    return _nll_B(joint_BC, (correct_BKS & valid_BKS).flatten(1))


def early_nll_B(score_BE: Tensor, correct_BE: Tensor, valid_BE: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """- log of the share of p(z|x), z over many retrieved passages, that falls on those which hold an answer.

    The "early" loss (Lee et al. 2019): it needs no reader, so it can look at thousands of passages, and teaches the
    retriever where the reader's few passages hold no answer yet. The retriever's gradient by f(x, z) is
    p(z|x) - p(z | x, z holds an answer).

    (Float[B], 0 where nothing is correct; Bool[B], whether something is.)
    """
    valid_BE = score_BE != NEGATIVE_INFINITY if valid_BE is None else valid_BE & (score_BE != NEGATIVE_INFINITY)
    return _nll_B(_log_softmax(_at_least_float32(score_BE), valid_BE), correct_BE & valid_BE)


def mean_of_counted(values_B: Tensor, counted_B: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Sum over the questions that count, divided by their number, or by `count`. Float[]; 0 when none counts.

    With `count` the number of all questions, a question weighs the same whatever becomes of the others, as when each
    is a step of its own (the release); parts of a step and ranks then add up, too.
    """
    total = values_B.masked_fill(~counted_B, 0.0).sum()
    return total / (counted_B.sum().clamp(min=1) if count is None else count)


def _log_softmax(logit: Tensor, valid: Tensor) -> Tensor:
    """Over the last dimension; -inf where not valid; rows without anything valid have no gradient."""
    empty = ~valid.any(-1, keepdim=True)
    safe = logit.masked_fill(~valid, NEGATIVE_INFINITY).masked_fill(empty, 0.0)
    return safe.log_softmax(-1).masked_fill(~valid, NEGATIVE_INFINITY)


def _nll_B(log_prob_BC: Tensor, correct_BC: Tensor) -> tuple[Tensor, Tensor]:
    counted_B = correct_BC.any(-1)
    # A sum over nothing is -inf, and its gradient NaN: rows that don't count go through as zeros.
    kept_BC = log_prob_BC.masked_fill(~correct_BC, NEGATIVE_INFINITY).masked_fill(~counted_B[:, None], 0.0)
    return torch.where(counted_B, -kept_BC.logsumexp(-1), 0.0), counted_B


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
