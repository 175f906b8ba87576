"""Objectives: pure functions of tensors (Guu et al. 2020, sections 3.2 and 3.3, appendix A; Lee et al. 2019 for ICT;
Sachan et al. 2021 and Izacard et al. 2022 for other ways to teach a retriever).

Legend for shapes: B examples, K candidates (index 0 is the null passage), T masked pieces, N passages, D vector size.

Rules that hold for every function here:

- Scores and log probabilities of half precision are computed with in float32; float64 stays float64.
- A candidate does not exist where its score is -inf or `candidate_mask_BK` is False: it gets probability 0 and no
  gradient.
- An example without a single candidate, or without a single masked piece, adds nothing and is not counted in a mean.
- Where `target_mask_BT` is False, `logp_BKT` may hold anything, NaN included.
- NaN and +inf in a position that counts are never hidden: they reach the loss, where the training loop reports them.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = ("sequence", "token")
NEGATIVE_INFINITY = float("-inf")


# ---------------------------------------------------------------- relevance: f(x, z)


def scores(query_BD: Tensor, passages: Tensor) -> Tensor:
    """f(x, z), the inner product of a query and a passage (section 3.2), in full precision even under autocast.

    passages: one set for all queries, Float[N, D], gives Float[B, N]; one a query, Float[B, K, D], gives Float[B, K].

    Inner products of D numbers near 1 reach tens, where neighbours in bfloat16 lie 0.25 apart and more: a softmax over
    such scores would see ties and jumps that the vectors do not hold.
    """
    with torch.autocast(query_BD.device.type, enabled=False):
        query_BD, passages = _at_least_float32(query_BD), _at_least_float32(passages)
        return query_BD @ passages.T if passages.ndim == 2 else (passages @ query_BD[..., None])[..., 0]


# ---------------------------------------------------------------- which passage: p(z|x)


def log_prior_BK(score_BK: Tensor, candidate_mask_BK: Tensor | None = None) -> Tensor:
    """log p(z|x): log softmax of f(x, z) over the candidates, the null passage included (section 3.2).

    Float[B, K]; -inf where there is no candidate, all of a row's entries where it has none.
    """
    score_BK = _at_least_float32(score_BK)
    valid_BK = _valid_BK(score_BK, candidate_mask_BK)
    empty_B1 = ~valid_BK.any(-1, keepdim=True)
    # A softmax over nothing is NaN, and so is its gradient: rows without candidates go through as zeros.
    safe_BK = score_BK.masked_fill(~valid_BK, NEGATIVE_INFINITY).masked_fill(empty_B1, 0.0)
    return safe_BK.log_softmax(-1).masked_fill(~valid_BK, NEGATIVE_INFINITY)


def prior_BK(score_BK: Tensor, candidate_mask_BK: Tensor | None = None) -> Tensor:
    """p(z|x) over the candidates. Float[B, K]; a row without candidates is all zeros."""
    return log_prior_BK(score_BK, candidate_mask_BK).exp()


def sequence_logp_BK(logp_BKT: Tensor, target_mask_BT: Tensor) -> Tensor:
    """log p(y|z,x) = sum over j of log p(y_j|z,x) (section 3.2). Float[B, K]."""
    return _at_least_float32(logp_BKT).masked_fill(~target_mask_BT[:, None], 0.0).sum(-1)


def posterior_BK(
    score_BK: Tensor, logp_BKT: Tensor, target_mask_BT: Tensor, candidate_mask_BK: Tensor | None = None
) -> Tensor:
    """p(z|y,x), proportional to p(y|z,x) p(z|x): also the weight of each passage in the reader's gradient.

    Float[B, K]; zeros for a row without candidates, and for one in which no candidate allows the target.
    """
    joint_BK = log_prior_BK(score_BK, candidate_mask_BK) + sequence_logp_BK(logp_BKT, target_mask_BT)
    impossible_B1 = (joint_BK == NEGATIVE_INFINITY).all(-1, keepdim=True)
    return joint_BK.masked_fill(impossible_B1, 0.0).softmax(-1).masked_fill(impossible_B1, 0.0)


def retrieval_weights_BK(
    score_BK: Tensor, logp_BKT: Tensor, target_mask_BT: Tensor, candidate_mask_BK: Tensor | None = None
) -> Tensor:
    """r(z) = [p(y|z,x) / p(y|x) - 1] p(z|x) = p(z|y,x) - p(z|x): the gradient of log p(y|x) by f(x, z) (appendix A).

    Float[B, K]; each row sums to 0. Positive where the passage helps more than the candidates do on average.
    """
    weights_BK = posterior_BK(score_BK, logp_BKT, target_mask_BT, candidate_mask_BK)
    return weights_BK - prior_BK(score_BK, candidate_mask_BK)


# ---------------------------------------------------------------- the loss: -log p(y|x)


def marginal_nll(
    score_BK: Tensor,
    logp_BKT: Tensor,
    target_mask_BT: Tensor,
    *,
    level: str = "sequence",
    candidate_mask_BK: Tensor | None = None,
    count: Tensor | float | None = None,
) -> Tensor:
    """-log of p(y|x) = sum over z of p(y|z,x) p(z|x) (equation 1), z running over the candidates.

    level: "sequence" multiplies the pieces of a passage first and then sums over passages, as the paper writes it;
    the mean is over examples. "token" sums over passages for each masked piece alone, as the released code does; the
    mean is over all masked pieces of the batch, so an example with six pieces weighs six times one with a single
    piece. The two agree when every example has one masked piece.

    count: what to divide by instead of this batch's own number of examples or pieces (see `loss_count`), so that
    micro-batches or several ranks add up to the mean of the whole batch.

    Float[]; 0, with zero gradient, when nothing counts. Raises ValueError for another level.
    """
    counted = _counted(score_BK, target_mask_BT, level, candidate_mask_BK)
    marginal = _log_marginal(score_BK, logp_BKT, target_mask_BT, level, candidate_mask_BK)
    total = -marginal.masked_fill(~counted, 0.0).sum()
    return total / (counted.sum().clamp(min=1) if count is None else count)


def loss_count(
    score_BK: Tensor, target_mask_BT: Tensor, *, level: str = "sequence", candidate_mask_BK: Tensor | None = None
) -> Tensor:
    """How many examples ("sequence") or pieces ("token") `marginal_nll` averages over. Long[]."""
    return _counted(score_BK, target_mask_BT, level, candidate_mask_BK).sum()


def _counted(score_BK: Tensor, target_mask_BT: Tensor, level: str, candidate_mask_BK: Tensor | None) -> Tensor:
    """Bool[B] or Bool[B, T]: what has a candidate and something to predict."""
    _check_level(level)
    has_candidate_B = _valid_BK(score_BK, candidate_mask_BK).any(-1)
    if level == "token":
        return target_mask_BT & has_candidate_B[:, None]
    return target_mask_BT.any(-1) & has_candidate_B


def _log_marginal(
    score_BK: Tensor, logp_BKT: Tensor, target_mask_BT: Tensor, level: str, candidate_mask_BK: Tensor | None
) -> Tensor:
    """log p(y|x), Float[B], or log p(y_j|x), Float[B, T]; a finite stand-in where nothing counts."""
    prior = log_prior_BK(score_BK, candidate_mask_BK)
    missing_BK = prior == NEGATIVE_INFINITY
    empty_B1 = missing_BK.all(-1, keepdim=True)
    # What a reader says about a passage that does not exist must not reach the sum, not even as -inf + NaN.
    logp_BKT = _at_least_float32(logp_BKT).masked_fill(missing_BK[..., None] | ~target_mask_BT[:, None], 0.0)
    prior = prior.masked_fill(empty_B1, 0.0)
    if level == "token":
        return (prior[..., None] + logp_BKT).logsumexp(1)
    return (prior + logp_BKT.sum(-1)).logsumexp(1)


# ---------------------------------------------------------------- other objectives of the retriever


def emdr2_nll(
    score_BK: Tensor,
    logp_BKT: Tensor,
    target_mask_BT: Tensor,
    *,
    level: str = "sequence",
    candidate_mask_BK: Tensor | None = None,
    count: Tensor | float | None = None,
) -> Tensor:
    """EMDR2 (Sachan et al. 2021, section 2): the loss of a fused reader plus that of the retriever,

        - log p_fused(y|x) - log sum over z of p(z|x) SG[p(y|z,x)],        SG stops the gradient.

    The paper's reader attends to all passages at once and ignores p(z|x). A reader of one passage at a time fuses by
    the mean over the candidates, p_fused(y|x) = 1/K sum over z of p(y|z,x). So the retriever's gradient is r(z) as
    with `marginal_nll`, and a passage's weight in the reader's gradient does not depend on what the retriever thinks.

    Float[], of two losses the sum; arguments and means as in `marginal_nll`.
    """
    valid_BK = _valid_BK(score_BK, candidate_mask_BK)
    equal_BK = torch.zeros_like(score_BK)
    retriever, reader = (
        marginal_nll(score, logp, target_mask_BT, level=level, candidate_mask_BK=valid_BK, count=count)
        for score, logp in ((score_BK, logp_BKT.detach()), (equal_BK, logp_BKT))
    )
    return retriever + reader


def distillation_nll(
    score_BK: Tensor,
    logp_BKT: Tensor,
    target_mask_BT: Tensor,
    teacher_BK: Tensor,
    *,
    candidate_mask_BK: Tensor | None = None,
    count: Tensor | float | None = None,
) -> Tensor:
    """Teach the retriever which passages the reader found useful (Atlas, Izacard et al. 2022, section 2.2):

        KL(SG[teacher] || p(z|x)) - log sum over z of SG[p(z|x)] p(y|z,x).

    teacher_BK: `perplexity_teacher_BK` or `leave_one_out_teacher_BK`; rows of zeros teach nothing. The gradient of the
    first term by f(x, z) is p(z|x) - teacher(z). Atlas trains its fused reader on the language modelling loss beside
    it; here the reader goes on with its part of the marginal likelihood (the second term, in the sequence form), whose
    gradient by logp_BKT is that of `marginal_nll`, while the retriever hears nothing of it.

    Float[], mean over examples, as in `marginal_nll`.
    """
    counted_B = _counted(score_BK, target_mask_BT, "sequence", candidate_mask_BK)
    log_prior = log_prior_BK(score_BK, candidate_mask_BK)
    teacher_BK = teacher_BK.detach().to(log_prior.dtype)
    # 0 * -inf is NaN: what does not exist, or has no say, leaves the sum before the product.
    silent_BK = (teacher_BK == 0) | (log_prior == NEGATIVE_INFINITY)
    cross_B = -(teacher_BK * log_prior.masked_fill(silent_BK, 0.0)).sum(-1)
    divergence = (cross_B - entropy_B(teacher_BK)).masked_fill(~counted_B, 0.0).sum()
    reader = marginal_nll(score_BK.detach(), logp_BKT, target_mask_BT, candidate_mask_BK=candidate_mask_BK, count=count)
    return reader + divergence / (counted_B.sum().clamp(min=1) if count is None else count)


@torch.no_grad()
def perplexity_teacher_BK(
    score_BK: Tensor,
    logp_BKT: Tensor,
    target_mask_BT: Tensor,
    *,
    temperature: float = 1.0,
    candidate_mask_BK: Tensor | None = None,
) -> Tensor:
    """Perplexity distillation: softmax over z of log p(y|z,x) / temperature, the posterior under a uniform prior.

    Atlas (Izacard et al. 2022), section 2.2. Float[B, K]; zeros for a row without candidates, and for one in which no
    candidate allows the target.
    """
    logp_BK = sequence_logp_BK(logp_BKT, target_mask_BT)
    return _teacher_BK(logp_BK / temperature, _valid_BK(score_BK, candidate_mask_BK))


@torch.no_grad()
def leave_one_out_teacher_BK(
    score_BK: Tensor,
    logp_BKT: Tensor,
    target_mask_BT: Tensor,
    *,
    temperature: float = 1.0,
    candidate_mask_BK: Tensor | None = None,
) -> Tensor:
    """Leave-one-out distillation: softmax over k of -log p(y | x, all candidates but k) / temperature.

    Atlas (Izacard et al. 2022), section 2.2: a passage is worth how much worse the reader gets without it. Atlas runs
    its fused reader K times; a reader of one passage at a time gives the same from one run, as the mixture

        p(y | x, all but k) = sum over z != k of p(z|x) p(y|z,x) / (1 - p(k|x)),

    the prior renormalised over the rest. So, unlike Atlas', these worths depend on p(z|x), through a stopped gradient.

    Float[B, K]; a lone candidate gets 1; zeros for a row without candidates, and for one in which no candidate allows
    the target.
    """
    valid_BK = _valid_BK(score_BK, candidate_mask_BK)
    score_BK = _at_least_float32(score_BK).masked_fill(~valid_BK, NEGATIVE_INFINITY)
    logp_BK = sequence_logp_BK(logp_BKT, target_mask_BT).masked_fill(~valid_BK, NEGATIVE_INFINITY)
    own_KK = torch.eye(score_BK.shape[1], dtype=torch.bool, device=score_BK.device)
    # Sums over the others, not differences from the whole: 1 - p(k|x) loses all digits where p(k|x) is near 1.
    rest_BKK = score_BK[:, None].masked_fill(own_KK, NEGATIVE_INFINITY)
    joint_BKK = (score_BK + logp_BK)[:, None].masked_fill(own_KK, NEGATIVE_INFINITY)
    worth_BK = (rest_BKK.logsumexp(-1) - joint_BKK.logsumexp(-1)) / temperature
    lone_B1 = valid_BK.sum(-1, keepdim=True) == 1
    impossible_B1 = (logp_BK == NEGATIVE_INFINITY).all(-1, keepdim=True)
    return _teacher_BK(worth_BK.masked_fill(lone_B1, 0.0), valid_BK & ~impossible_B1)


def _teacher_BK(worth_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """Softmax of worths over what is valid; a worth of +inf (nothing else explains the target) takes all."""
    worth_BK = worth_BK.clamp(max=torch.finfo(worth_BK.dtype).max).masked_fill(~valid_BK, NEGATIVE_INFINITY)
    impossible_B1 = (worth_BK == NEGATIVE_INFINITY).all(-1, keepdim=True)
    return worth_BK.masked_fill(impossible_B1, 0.0).softmax(-1).masked_fill(impossible_B1, 0.0)


# ---------------------------------------------------------------- retrieval utility


def retrieval_utility_BK(logp_BKT: Tensor, target_mask_BT: Tensor) -> Tensor:
    """RU(z|x) = log p(y|z,x) - log p(y|null,x) (equation 2). Float[B, K]; 0 at index 0, the null passage."""
    logp_BK = sequence_logp_BK(logp_BKT, target_mask_BT)
    return logp_BK - logp_BK[:, :1]


def retrieval_utility_marginal(
    score_BK: Tensor, logp_BKT: Tensor, target_mask_BT: Tensor, candidate_mask_BK: Tensor | None = None
) -> Tensor:
    """The released code's figure: log p(y_j|x) - log p(y_j|null,x), mean over the batch's masked pieces. Float[]."""
    counted_BT = _counted(score_BK, target_mask_BT, "token", candidate_mask_BK)
    marginal_BT = _log_marginal(score_BK, logp_BKT, target_mask_BT, "token", candidate_mask_BK)
    gain_BT = (marginal_BT - _at_least_float32(logp_BKT[:, 0])).masked_fill(~counted_BT, 0.0)
    return gain_BT.sum() / counted_BT.sum().clamp(min=1)


# ---------------------------------------------------------------- in-batch softmax (ICT)


def in_batch_softmax(
    query_BD: Tensor, passage_ND: Tensor, labels_B: Tensor | None = None, allowed_BN: Tensor | None = None
) -> Tensor:
    """Cross entropy of picking each query's passage among all of the batch, by inner product (Lee et al. 2019).

    One direction only, query to passage, without a temperature. labels_B: the passage of each query, Long[B]; by
    default query i belongs to passage i. allowed_BN: False takes a passage out of a query's choice (a duplicate of
    the right one); the right one always stays.

    Float[], mean over queries; 0 for no queries.
    """
    score_BN, labels_B = _in_batch_scores(query_BD, passage_ND, labels_B, allowed_BN)
    picked_B = score_BN.log_softmax(-1).gather(1, labels_B[:, None])[:, 0]
    return -picked_B.sum() / max(len(labels_B), 1)


def in_batch_correct_B(
    query_BD: Tensor, passage_ND: Tensor, labels_B: Tensor | None = None, allowed_BN: Tensor | None = None
) -> Tensor:
    """Whether each query scores its own passage above all others; a tie is not correct. Bool[B]."""
    score_BN, labels_B = _in_batch_scores(query_BD.detach(), passage_ND.detach(), labels_B, allowed_BN)
    own_B1 = score_BN.gather(1, labels_B[:, None])
    others_BN = score_BN.scatter(1, labels_B[:, None], NEGATIVE_INFINITY)
    return (own_B1 > others_BN).all(-1)


def _in_batch_scores(
    query_BD: Tensor, passage_ND: Tensor, labels_B: Tensor | None, allowed_BN: Tensor | None
) -> tuple[Tensor, Tensor]:
    score_BN = scores(query_BD, passage_ND)
    if labels_B is None:
        labels_B = torch.arange(len(query_BD), device=query_BD.device)
    if allowed_BN is not None:
        own_BN = torch.zeros_like(allowed_BN).scatter(1, labels_B[:, None], True)
        score_BN = score_BN.masked_fill(~(allowed_BN | own_BN), NEGATIVE_INFINITY)
    return score_BN, labels_B


# ---------------------------------------------------------------- figures to log


def entropy_B(prior_BK: Tensor) -> Tensor:
    """Entropy of p(z|x), in nats. Float[B]; between 0 (one candidate has all) and log K."""
    entropy: Tensor = torch.special.entr(prior_BK).sum(-1)
    return entropy


@torch.no_grad()
def marginal_stats(
    score_BK: Tensor, logp_BKT: Tensor, target_mask_BT: Tensor, candidate_mask_BK: Tensor | None = None
) -> dict[str, Tensor]:
    """What to watch in a REALM step, as detached scalars; means over the examples that count.

    - ``retrieval_utility``: equation 2, mean over the real passages of each example.
    - ``retrieval_utility_top1``: equation 2 for the passage with the highest prior.
    - ``retrieval_utility_marginal``: the released code's form.
    - ``null_prior``, ``null_posterior``: belief in the null passage before and after seeing the target.
    - ``prior_entropy``: entropy of p(z|x), in nats.
    - ``log_likelihood``, ``log_likelihood_null``: log p(y|x), and log p(y|null,x), what is left without retrieval.
    """
    prior = prior_BK(score_BK, candidate_mask_BK)
    counted_B = _counted(score_BK, target_mask_BT, "sequence", candidate_mask_BK)
    real_BK = _valid_BK(score_BK, candidate_mask_BK)
    real_BK[:, 0] = False
    utility_BK = retrieval_utility_BK(logp_BKT, target_mask_BT).masked_fill(~real_BK, 0.0)
    best_B1 = prior.masked_fill(~real_BK, -1.0).argmax(-1, keepdim=True)
    retrieved_B = counted_B & real_BK.any(-1)
    return {
        "retrieval_utility": _mean(utility_BK.sum(-1) / real_BK.sum(-1).clamp(min=1), retrieved_B),
        "retrieval_utility_top1": _mean(utility_BK.gather(1, best_B1)[:, 0], retrieved_B),
        "retrieval_utility_marginal": retrieval_utility_marginal(score_BK, logp_BKT, target_mask_BT, candidate_mask_BK),
        "null_prior": _mean(prior[:, 0], counted_B),
        "null_posterior": _mean(posterior_BK(score_BK, logp_BKT, target_mask_BT, candidate_mask_BK)[:, 0], counted_B),
        "prior_entropy": _mean(entropy_B(prior), counted_B),
        "log_likelihood": _mean(
            _log_marginal(score_BK, logp_BKT, target_mask_BT, "sequence", candidate_mask_BK), counted_B
        ),
        "log_likelihood_null": _mean(sequence_logp_BK(logp_BKT, target_mask_BT)[:, 0], counted_B),
    }


# ---------------------------------------------------------------- shared small things


def _mean(values_B: Tensor, counted_B: Tensor) -> Tensor:
    return values_B.masked_fill(~counted_B, 0.0).sum() / counted_B.sum().clamp(min=1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _valid_BK(score_BK: Tensor, candidate_mask_BK: Tensor | None) -> Tensor:
    valid_BK = score_BK != NEGATIVE_INFINITY
    return valid_BK if candidate_mask_BK is None else valid_BK & candidate_mask_BK


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"found marginal level {level!r}: expected one of {', '.join(LEVELS)}")
