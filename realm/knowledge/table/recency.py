"""Newest wins: a prior on passages that halves with the age of their document.

    p(z|x) ~ exp(f(x,z)) r(z),    log r(z) = -ln 2 * age(z) / half-life

the exponential prior of Li & Croft 2003, "Time-Based Language Models", section 3, with lambda = ln 2 / half-life.
Ages are whole days; a document from the future has none, and one without a date is left as it is (log r = 0).

Legend: N passages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date as Date

import numpy as np
import pyarrow as pa

_EPOCH = Date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Recency:
    """How much less a passage counts for each day."""

    today: Date
    """The day that ages are counted to."""
    half_life_days: float

    def log_prior(self, date: Date | None) -> float:
        """log r(z), not above 0; 0.0 where there is no date."""
        return 0.0 if date is None else -math.log(2) * max(0, (self.today - date).days) / self.half_life_days

    def log_priors(self, dates: pa.Array) -> np.ndarray:
        """float64[N] of a column of days."""
        today = (self.today - _EPOCH).days
        day_N = dates.cast(pa.int32()).fill_null(today).to_numpy(zero_copy_only=False).astype(np.int64)
        age_N: np.ndarray = np.maximum(0, today - day_N)
        return -math.log(2) * age_N / self.half_life_days
