"""Figures over several seeds, with intervals that know both why they could have come out otherwise.

Legend: S seeds, P questions, G groups of questions, X samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realm.errors import UsageError
from realm.evaluation.retrieval import FloatArray, Interval

SAMPLES = 2000
AT_ONCE = 4_000_000
"""Numbers of a block of samples in memory."""


class Bootstrap:
    """Percentile bootstrap over questions and seeds (Efron & Tibshirani 1993).

    Groups of questions are drawn again with replacement: those about one document, which succeed and fail together. All
    seeds were asked the same questions, so one draw holds for all of them; and for all figures of these questions,
    which is what makes a table of many cheap.
    """

    def __init__(self, groups: Sequence[str], *, samples: int = SAMPLES, seed: int = 0) -> None:
        """groups: of each question, the document it is about. UsageError when there is no question."""
        if not groups:
            raise UsageError("found no questions: expected at least one to judge")
        self.group_P = np.unique(list(groups), return_inverse=True)[1]
        self.seed, size = seed, int(self.group_P.max()) + 1
        rng = np.random.default_rng(seed)
        draws = (np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(samples))
        self.weight_XG = np.stack([np.minimum(draw, 255).astype(np.uint8) for draw in draws])

    def interval(self, value_SP: FloatArray, *, confidence: float = 0.95) -> Interval | None:
        """Mean over seeds and questions with its interval, which seeds widen, too: they are drawn again.

        value_SP: Float[S, P], NaN where the figure is not defined, in all seeds or in none; None where it nowhere is. A
        difference of two systems, seed by seed, gives a paired interval. With three seeds their part is a rough one,
        and narrow by a fifth: three numbers. UsageError for another number of questions, or no seed.
        """
        if value_SP.ndim != 2 or not len(value_SP) or value_SP.shape[1] != len(self.group_P):
            raise UsageError(f"found figures {value_SP.shape}: expected [seeds, {len(self.group_P)}]")
        defined_P = ~np.isnan(value_SP).any(0)
        if not defined_P.any():
            return None
        group_P, value_SP = self.group_P[defined_P], value_SP[:, defined_P]
        size = self.weight_XG.shape[1]
        per_group = [np.bincount(group_P, minlength=size).astype(float)]
        per_group += [np.bincount(group_P, weights=value_P, minlength=size) for value_P in value_SP]
        sums_XC = self._weighted(np.stack(per_group, 1))
        some_X = sums_XC[:, 0] > 0  # a draw may miss every question for which the figure is defined
        mean_XS = sums_XC[some_X, 1:] / sums_XC[some_X, :1]
        rng = np.random.default_rng((self.seed, 1))
        drawn_XS = rng.integers(0, len(value_SP), mean_XS.shape)
        mean_X = np.take_along_axis(mean_XS, drawn_XS, axis=1).mean(1)
        tail = (1 - confidence) / 2
        low, high = np.quantile(mean_X, [tail, 1 - tail])
        return Interval(float(value_SP.mean()), float(low), float(high))

    def _weighted(self, value_GC: FloatArray) -> FloatArray:
        """Float[X, C]: the columns' sums in every sample."""
        block = max(1, AT_ONCE // self.weight_XG.shape[1])
        parts = [
            self.weight_XG[first : first + block].astype(float) @ value_GC
            for first in range(0, len(self.weight_XG), block)
        ]
        return np.concatenate(parts)
