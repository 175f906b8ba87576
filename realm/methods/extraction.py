"""Probabilities of spans to answers: the same answer in several places, and in several passages, is one answer.

Legend: K passages, S spans of a passage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from realm.types import Answer, Evidence

AGGREGATES = ("marginal", "best-span")
ALTERNATIVES = 4
"""Answers that are told beside the likeliest."""
CONSIDERED_SPANS = 256
"""The likeliest so many spans of a question are turned into text; what is behind them has next to no mass."""


@dataclass
class Extracted:
    """An answer, and where it stands."""

    text: str
    """As it stands in the passage where its likeliest span is."""
    log_prob: float
    """log p(y|x): over all its places, or of the likeliest one."""
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Passage -> (start, end) in characters of its text, of the likeliest span there."""
    log_mass: dict[int, float] = field(default_factory=dict)
    """Passage -> log p(y, z | x)."""

    def log_posterior(self, passage: int) -> float:
        """log p(z | x, y); -inf for a passage in which the answer was not found."""
        if passage not in self.log_mass:
            return -math.inf
        return self.log_mass[passage] - _log_sum(list(self.log_mass.values()))

    @property
    def mass(self) -> float:
        """p(y | x) over the passages."""
        return math.exp(_log_sum(list(self.log_mass.values())))

    def only(self, passages: Collection[int]) -> Extracted | None:
        """The answer as these passages alone give it; None where it is in none of them."""
        log_mass = {passage: value for passage, value in self.log_mass.items() if passage in passages}
        if not log_mass:
            return None
        places = {passage: place for passage, place in self.places.items() if passage in passages}
        return Extracted(self.text, _log_sum(list(log_mass.values())), places, log_mass)


def extract(
    log_joint_KS: Tensor,
    start_S: Tensor,
    end_S: Tensor,
    texts: Sequence[str],
    offsets: Sequence[np.ndarray],
    *,
    normalize: Callable[[str], str],
    aggregate: str = "marginal",
) -> list[Extracted]:
    """Answers by falling probability; spans of equal normalised text are the same answer.

    log_joint_KS: log p(s, z | x), -inf for what is no span. start_S, end_S: word pieces of the body, end exclusive.
    texts, offsets: of each passage its text, and Int[L, 2], the characters of its word pieces. Answers are cut from the
    text, so they stand there letter for letter. Spans of which normalisation leaves nothing are no answers.
    aggregate: "marginal" sums the probability of a text over its spans and passages, "best-span" takes the largest.
    """
    if aggregate not in AGGREGATES:
        raise ValueError(f"found aggregate {aggregate!r}: expected one of {', '.join(AGGREGATES)}")
    num_spans = log_joint_KS.shape[1]
    best = log_joint_KS.flatten().topk(min(CONSIDERED_SPANS, log_joint_KS.numel()))
    start_of, end_of = start_S.tolist(), end_S.tolist()
    answers: dict[str, Extracted] = {}
    places: dict[tuple[str, int], list[float]] = {}
    for log_prob, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if log_prob == -math.inf:
            break
        passage, span = divmod(index, num_spans)
        offset_L2 = offsets[passage]
        start, end = int(offset_L2[start_of[span], 0]), int(offset_L2[end_of[span] - 1, 1])
        text = texts[passage][start:end]
        key = normalize(text)
        if not key:
            continue
        answer = answers.setdefault(key, Extracted(text, -math.inf))
        places.setdefault((key, passage), []).append(log_prob)
        answer.places.setdefault(passage, (start, end))  # they come best first
    for (key, passage), log_probs in places.items():
        answers[key].log_mass[passage] = _log_sum(log_probs) if aggregate == "marginal" else log_probs[0]
    for answer in answers.values():
        masses = list(answer.log_mass.values())
        answer.log_prob = _log_sum(masses) if aggregate == "marginal" else max(masses)
    return sorted(answers.values(), key=lambda answer: -answer.log_prob)


def merged(answers: Sequence[Extracted]) -> Extracted:
    """Several ways to say the same as one answer, in the words of the first; a passage's place is its likeliest's."""
    first, log_mass, places = answers[0], dict[int, float](), dict[int, tuple[int, int]]()
    for passage in dict.fromkeys(passage for answer in answers for passage in answer.log_mass):
        there = [answer for answer in answers if passage in answer.log_mass]
        best = max(there, key=lambda answer: answer.log_mass[passage])
        log_mass[passage] = _log_sum([answer.log_mass[passage] for answer in there])
        if passage in best.places:
            places[passage] = best.places[passage]
    return Extracted(first.text, _log_sum(list(log_mass.values())), places, log_mass)


def signals_of(score_K: Tensor, span_KS: Tensor, valid_KS: Tensor) -> dict[str, float]:
    """What p(y|x) can't say, being normalised over what was read; {} where nothing was.

    ``support``: log of the sum of exp(f(x, z) + s) over all spans, before the softmax: low where no passage has much to
    say. ``prior_entropy``: of p(z|x) over the passages, in nats: high where none stands out.
    """
    if not bool(valid_KS.any()):
        return {}
    weight_KS = (span_KS + score_K[:, None]).masked_fill(~valid_KS, -math.inf)
    log_prior_K = score_K[valid_KS.any(-1)].log_softmax(-1)
    return {
        "support": float(weight_KS.flatten().logsumexp(0)),
        "prior_entropy": float(-(log_prior_K.exp() * log_prior_K).sum()),
    }


def as_answer(
    question: str,
    found: Sequence[Extracted],
    evidence_of: Callable[[Extracted], Sequence[Evidence]],
    version: int | None,
    signals: Mapping[str, float] | None = None,
) -> Answer:
    """The likeliest of the extracted answers, with the others behind it; an abstention where there is none.

    A span reader has no null passage: `null_prior` is 0, and evidence has NaN for a `retrieval_utility`.
    """
    if not found:
        return Answer(question, "", 0.0, True, (), 0.0, knowledge_base_version=version, signals=dict(signals or {}))
    best = found[0]
    return Answer(
        question=question,
        text=best.text,
        confidence=math.exp(best.log_prob),
        abstained=False,
        evidence=tuple(sorted(evidence_of(best), key=lambda e: -e.posterior)),
        null_prior=0.0,
        alternatives=tuple((other.text, math.exp(other.log_prob)) for other in found[1 : 1 + ALTERNATIVES]),
        knowledge_base_version=version,
        signals=dict(signals or {}),
    )


def _log_sum(values: Sequence[float]) -> float:
    """log of the sum of exp. Called for every span of an answer, where a tensor's overhead would be all its time."""
    if len(values) == 1:
        return values[0]
    highest = max(values)
    if highest == -math.inf:
        return -math.inf
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))
