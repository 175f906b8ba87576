"""A small factorial design over the recipe: seven settings in eight runs a seed, instead of one at a time.

2^(7-4), resolution III (Box & Hunter 1961): every pair of settings is balanced over the runs, so each effect is a mean
over all of them; an effect is confounded with interactions of two others.

    python -m benchmarks.learning.runs KB OUT --legs design --seeds 0,1 --set realm.steps=100
    python -m benchmarks.learning.design OUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np

from .results import Results, interval, read_results

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


def effect_rows(results: Results) -> Iterator[list[str]]:
    """Of each setting: recall@5 where it is high minus where it is low, its interval over sentences, each seed
    alone, and how the time of a run changes."""
    runs = {run.leg: {} for runs in results.runs.values() for run in runs}  # type: ignore[var-annotated]
    for each in results.runs.values():
        for run in each:
            runs[run.leg][run.seed] = run
    names = list(design_legs())
    seeds = [seed for seed in results.documents if all(seed in runs.get(name, {}) for name in names)]
    if not seeds:
        return
    for place, factor in enumerate(FACTORS):
        weight_R = signs()[:, place] / 4
        values = [sum(w * runs[n][s].found(5) for w, n in zip(weight_R, names, strict=True)) for s in seeds]
        found = interval(values, [results.documents[seed] for seed in seeds])
        seconds = [np.array([runs[name][seed].last["seconds"] for name in names]) for seed in seeds]
        slower = np.mean([(s * (weight_R > 0)).sum() / (s * (weight_R < 0)).sum() for s in seconds])
        alone = " ".join(f"{100 * float(np.mean(value)):+.1f}" for value in values)
        text = f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        yield [factor, text, alone, f"{slower:.2f}"]


EFFECT_COLUMNS = ("setting", "effect on recall@5", "each seed", "time, high : low")


def main() -> None:
    from .tables import table

    print(table(EFFECT_COLUMNS, effect_rows(read_results(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
