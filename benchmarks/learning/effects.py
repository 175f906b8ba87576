"""What each setting of the factorial design did; see `design`.

python -m benchmarks.learning.effects OUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .design import FACTORS, design_legs, signs
from .results import Judged, Results, interval, read_results
from .tables import table


def effect_rows(results: Results) -> Iterator[list[str]]:
    """Of each setting: recall@5 where it is high minus where it is low, its interval over sentences, each seed
    alone, and how the time of a run changes."""
    runs: dict[str, dict[int, Judged]] = {
        leg: {run.seed: run for run in results.runs.get(leg, [])} for leg in design_legs()
    }
    names = list(design_legs())
    seeds = [seed for seed in results.documents if all(seed in runs[name] for name in names)]
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
    print(table(EFFECT_COLUMNS, effect_rows(read_results(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
