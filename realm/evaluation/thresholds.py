"""Below which confidence not to answer.

Legend: P questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realm.errors import UsageError
from realm.evaluation.calibration import FloatArray, by_confidence, finite


def threshold_for_accuracy(
    confidence: Sequence[float] | FloatArray, right: Sequence[bool] | FloatArray, target: float
) -> float:
    """The lowest confidence from which on answers are right in at least the share `target`. Answer at or above it.

    UsageError when no threshold reaches it, with what can be reached.
    """
    confidence_P, right_P = by_confidence(confidence, right)
    accuracy_P = np.cumsum(right_P[::-1])[::-1] / np.arange(len(right_P), 0, -1)
    first_P = np.append(True, confidence_P[1:] > confidence_P[:-1])  # a threshold takes all of equal confidence or none
    (reached,) = np.nonzero(first_P & (accuracy_P >= target - 1e-12))
    if not len(reached):
        best = float(accuracy_P[first_P].max())
        raise UsageError(f"found at best {best:.3f} right at any confidence: expected a target up to it, not {target}")
    return float(confidence_P[reached[0]])


def threshold_for_coverage(confidence: Sequence[float] | FloatArray, coverage: float) -> float:
    """The highest confidence such that at least the share `coverage` of the questions lies at or above it."""
    if not 0 < coverage <= 1:
        raise UsageError(f"found coverage {coverage}: expected above 0 and at most 1")
    confidence_P = np.sort(finite(confidence))[::-1]
    return float(confidence_P[int(np.ceil(coverage * len(confidence_P) - 1e-9)) - 1])


def threshold_between(
    confidence: Sequence[float] | FloatArray, answerable: Sequence[bool], ratio: float = 1.0
) -> float:
    """The confidence that best parts questions with an answer from those without: the largest difference between
    the shares abstained from (Youden 1950), the lowest such one.

    ratio: only thresholds that abstain from unanswerable questions at least so many times as often as from answerable
    ones. UsageError unless both kinds are there, or where no threshold does.
    """
    confidence_P, answerable_P = finite(confidence), np.asarray(answerable, bool)
    if len(confidence_P) != len(answerable_P) or answerable_P.all() or not answerable_P.any():
        raise UsageError("found one kind of question only: expected answerable and unanswerable ones to part")
    with_P, without_P = np.sort(confidence_P[answerable_P]), np.sort(confidence_P[~answerable_P])
    candidates = np.unique(confidence_P)
    refused, wrongly = (np.searchsorted(of, candidates) / len(of) for of in (without_P, with_P))
    allowed = refused >= ratio * wrongly
    if ratio > 1:  # to abstain from nothing is no way to do it
        allowed &= refused > 0
    if not allowed.any():
        raise UsageError(
            f"found no threshold that abstains from unanswerable questions {ratio:g} times as often as from others: "
            "expected a lower ratio"
        )
    return float(candidates[int(np.argmax(np.where(allowed, refused - wrongly, -np.inf)))])
