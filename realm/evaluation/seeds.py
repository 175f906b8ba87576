"""A figure over several seeds, with an interval that knows both why it could have come out otherwise.

Legend: S seeds, P questions, G groups of questions, X samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from realm.errors import UsageError
from realm.evaluation.retrieval import FloatArray, Interval

SAMPLES = 4000
AT_ONCE = 2_000_000
"""Numbers of a block of samples in memory."""


def seed_interval(
    value_SP: FloatArray, groups: Sequence[str], *, samples: int = SAMPLES, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean over seeds and questions with its percentile bootstrap interval (Efron & Tibshirani 1993).

    value_SP: Float[S, P], one figure a question and seed, the same questions in all; a difference of two systems, seed
    by seed, gives a paired interval. groups: of each question, the document it is about; its questions succeed and fail
    together. Groups are drawn again with replacement, the same ones for all seeds, because all seeds were asked the
    same questions; and seeds are drawn again. With three seeds their part is a rough one, and narrow by a fifth: three
    numbers. UsageError without a seed or a question.
    """
    if value_SP.ndim != 2 or 0 in value_SP.shape or value_SP.shape[1] != len(groups):
        raise UsageError(f"found figures {value_SP.shape} with {len(groups)} groups: expected [seeds, questions], some")
    group_P = np.unique(list(groups), return_inverse=True)[1]
    size_G = np.bincount(group_P).astype(float)
    total_SG = np.stack([np.bincount(group_P, weights=value_P) for value_P in value_SP])
    rng = np.random.default_rng(seed)
    count_S, count_G = len(value_SP), len(size_G)
    block, means = max(1, AT_ONCE // count_G), []
    for first in range(0, samples, block):
        number = min(block, samples - first)
        weight_XG = rng.multinomial(count_G, np.full(count_G, 1 / count_G), number).astype(float)
        mean_XS = (weight_XG @ total_SG.T) / (weight_XG @ size_G)[:, None]
        drawn_XS = rng.integers(0, count_S, (number, count_S))
        means.append(np.take_along_axis(mean_XS, drawn_XS, axis=1).mean(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(np.mean(value_SP)), float(low), float(high))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (of the sample; 0 for one), and the values."""
    found = np.asarray(values, float)
    return {
        "mean": float(found.mean()),
        "deviation": float(found.std(ddof=1)) if len(found) > 1 else 0.0,
        "values": [float(value) for value in found],
    }
