"""A small factorial design over the recipe: seven settings in eight runs a seed, instead of one at a time.

2^(7-4), resolution III (Box & Hunter 1961): every pair of settings is balanced over the runs, so each effect is a mean
over all of them; an effect is confounded with interactions of two others.

    python -m benchmarks.learning.runs KB OUT --legs design --seeds 0,1 --set realm.steps=100
    python -m benchmarks.learning.effects OUT
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

FACTORS: Mapping[str, tuple[str, ...]] = {
    "33 candidates": ("realm.num_candidates=33",),
    "temperature 0.1": ("encoder.temperature=0.1",),
    "ICT kept up (0.3)": ("realm.ict_weight=0.3", "realm.ict_batch_size=128"),
    "crops for ICT": ("ict.pairs=crop",),
    "16 candidates from BM25": ("realm.lexical=16",),
    "short sentences first": ("data.curriculum_steps=50",),
    "twice the learning rate": ("realm.learning_rate=2e-3", "realm.token_weight_learning_rate=6e-3"),
}
"""What differs from the recipe where a setting is high."""


def signs() -> np.ndarray:
    """Int[8, 7]: -1 the recipe, +1 the other level. The first run is the recipe itself."""
    base = np.array(list(product((-1, 1), repeat=3)))
    a, b, c = base.T
    # Generators with a minus for products of two, so that the run with all of a, b, c low has all others low, too.
    return np.stack([a, b, c, -a * b, -a * c, -b * c, a * b * c], axis=1)


def design_legs() -> dict[str, tuple[str, ...]]:
    """Settings of each run, by its name."""
    settings = list(FACTORS.values())
    return {
        f"design-{number}": tuple(each for place in np.flatnonzero(row > 0) for each in settings[place])
        for number, row in enumerate(signs())
    }
