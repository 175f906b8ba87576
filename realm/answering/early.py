"""Early exit: the passages of a question are read in the order of p(z|x), and no further than its answer hangs on.

Let W be the weight of what was read, V a bound on that of what was not, both before they are normalised, and U =
V / (W + V). What is unread belongs to no answer yet, so p(y|x) is taken over W + V. Reading the rest would then change
every p(y|x) by at most U: it adds at most V to an answer, and where the rest weighs less than V, the total shrinks by
no more than that. (That only the likeliest so many spans are considered changes nothing of it: a span that an unread
one pushes out weighs no more than that one.) So an answer that leads by more than 2 U leads in the end.

V depends on how p(s, z | x) is normalised, see `objectives_qa.span_log_prob_BKS`:

- level "passage": the spans of a passage share p(z|x), whatever the reader makes of them, so V is the unread part of
  the softmax over f(x, z): exact.
- level "joint": a passage weighs exp(f(x, z)) times the sum of exp(s) over its spans, which f alone does not bound. But
  the span network ends in a LayerNorm and a linear map, so no s exceeds `SpanHead.highest()`, and a passage has no more
  spans than pieces times widths: exact, and far above what spans score in fact.
- rule "prior" takes U as the unread part of p(z|x) at either level: of "joint" a guess, as if unread passages scored
  like read ones. Only where it is asked for.

Legend: K passages found for a question, S spans of a passage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from realm.errors import UsageError
from realm.methods.extraction import Extracted

SLACK = 1e-5
"""Of a share: that rounding may not decide."""


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """When reading may end before the last passage."""

    mass: float = 0.99
    """What was read has at least this share of the probability."""
    rule: Literal["bound", "prior"] = "bound"
    """How the share is known: by a bound that holds, or by p(z|x) alone."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.mass < 1:
            raise UsageError(f"found early_exit={self.mass}: expected a share from 0.5 to below 1")
        if self.rule not in ("bound", "prior"):
            raise UsageError(f"found early exit by {self.rule!r}: expected bound or prior")

    def first(self, logits: Sequence[float]) -> int:
        """How many passages are read at first: those that have the share of p(z|x). logits: falling, at least one."""
        share_K = torch.tensor(logits, dtype=torch.float64).softmax(0).cumsum(0)
        return min(len(logits), int((share_K < self.mass).sum()) + 1)

    def unread(
        self, logits: Sequence[float], span_KS: Tensor, valid_KS: Tensor, *, level: str, highest: float, most: int
    ) -> float:
        """U after reading the first passages.

        logits: of all K found, as for `first`. span_KS, valid_KS: of those that were read, see `SpanLogits`.
        highest: no span scores more. most: no passage has more spans. 1 where nothing that was read has a span.
        """
        logit_K = torch.tensor(logits, dtype=torch.float64)
        read_K, rest_K = logit_K[: len(span_KS)], logit_K[len(span_KS) :]
        there_K = valid_KS.any(-1)
        if not len(rest_K) or not bool(there_K.any()):
            return 0.0 if not len(rest_K) else 1.0
        if level == "passage" or self.rule == "prior":
            weight, bound = read_K[there_K].logsumexp(0), rest_K.logsumexp(0)
        else:
            joint_KS = (span_KS.double() + read_K[:, None]).masked_fill(~valid_KS, -math.inf)
            weight, bound = joint_KS.flatten().logsumexp(0), rest_K.logsumexp(0) + highest + math.log(most)
        return float((bound - weight).sigmoid())

    def settled(self, found: Sequence[Extracted], unread: float, aggregate: str) -> bool:
        """Whether the first answer stays the first, and every probability within 1 - `mass` of that of a whole reading.

        found: the answers by falling probability, p(y|x) over what was read and what was not; unread: U.
        """
        if not found or unread > 1 - self.mass:
            return False
        first = math.exp(found[0].log_prob)
        second = math.exp(found[1].log_prob) if len(found) > 1 else 0.0
        if aggregate == "best-span":  # single spans: none of what was read changes its weight
            return first - max(second, unread) > SLACK
        return first - second > 2 * unread + SLACK
