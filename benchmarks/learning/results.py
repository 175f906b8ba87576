"""What lies in OUT, read and averaged: runs, lines, intervals and correlations. Numpy alone.

Legend: S seeds, P sentences of a probe, G documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realm.errors import ArtefactError, UsageError
from realm.evaluation.retrieval import Interval
from realm.files import read_json
from realm.training.probe import Probe

SAMPLES = 4000


@dataclass(frozen=True)
class Judged:
    """One leg with one seed."""

    leg: str
    seed: int
    points: list[dict[str, Any]]
    """In the order of training."""
    probe: dict[str, Any]

    @property
    def last(self) -> dict[str, Any]:
        return self.points[-1]

    def found(self, k: int, point: dict[str, Any] | None = None) -> np.ndarray:
        """Bool[P]"""
        return _flags((point or self.last)["found"][str(k)], self.probe["sentences"])


@dataclass(frozen=True)
class Results:
    """Everything in OUT."""

    runs: dict[str, list[Judged]]
    """By leg, seeds ascending; finished ones alone."""
    lines: dict[int, dict[str, dict[str, Any]]]
    """By seed, then by name."""
    documents: dict[int, np.ndarray]
    """Of each sentence of a seed's probe, numbered. Int64[P]"""
    unfinished: list[str]


def read_results(out: Path) -> Results:
    """ArtefactError when nothing is finished there; MismatchError can't be: one OUT has one probe a seed."""
    runs: dict[str, list[Judged]] = {}
    unfinished = []
    for path in sorted(Path(out).glob("*-s*/judged.json")):
        value = read_json(path)
        if not value["complete"]:
            unfinished.append(path.parent.name)
            continue
        runs.setdefault(value["leg"], []).append(Judged(value["leg"], value["seed"], value["points"], value["probe"]))
    if not runs:
        raise ArtefactError(f"{out} holds no finished run: expected the OUT of benchmarks.learning.runs")
    for judged in runs.values():
        judged.sort(key=lambda run: run.seed)
    lines = {_seed(path): dict(read_json(path)["lines"]) for path in sorted(Path(out).glob("lines-s*.json"))}
    documents = {}
    for seed in sorted({run.seed for judged in runs.values() for run in judged} | set(lines)):
        items = Probe.load(Path(out) / "probes" / f"s{seed}.json").items
        documents[seed] = np.unique([item.document_id for item in items], return_inverse=True)[1]
    return Results(runs, lines, documents, unfinished)


def interval(values: Sequence[np.ndarray], groups: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """Mean of the seeds' means with its 95% interval: seeds are drawn again, and in each its documents.

    values: Float or Bool[P] a seed; a difference of two runs on the same sentences gives a paired interval.
    groups: the document of each sentence. With three seeds the part that is theirs is a rough one: three numbers.
    """
    if not values or len(values) != len(groups):
        raise UsageError(f"found {len(values)} seeds and {len(groups)} lists of documents: expected as many, and some")
    rng = np.random.default_rng(seed)
    means_SX = np.stack([_resampled(np.asarray(v, float), g, rng) for v, g in zip(values, groups, strict=True)])
    drawn_XS = rng.integers(0, len(values), (SAMPLES, len(values)))
    means_X = means_SX[drawn_XS, np.arange(SAMPLES)[:, None]].mean(1)
    low, high = np.quantile(means_X, [0.025, 0.975])
    return Interval(float(np.mean([np.mean(v) for v in values])), float(low), float(high))


def _resampled(value_P: np.ndarray, group_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Float[SAMPLES]: the mean over documents drawn with replacement."""
    size_G = np.bincount(group_P).astype(float)
    total_G = np.bincount(group_P, weights=value_P)
    means = []
    for _ in range(SAMPLES // 200):
        drawn = rng.integers(0, len(size_G), (200, len(size_G)))
        means.append(total_G[drawn].sum(1) / size_G[drawn].sum(1))
    return np.concatenate(means)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation; NaN where one side does not vary or there are fewer than 3 points."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of ranks; equal values share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return np.asarray((ends - (count - 1) / 2)[place])


def _flags(numbers: Sequence[int], size: int) -> np.ndarray:
    flags = np.zeros(size, bool)
    flags[list(numbers)] = True
    return flags


def line_found(line: dict[str, Any], k: int, size: int) -> np.ndarray:
    """Bool[P]"""
    return _flags(line["found"][str(k)], size)


def _seed(path: Path) -> int:
    return int(path.stem.rpartition("-s")[2])
