"""Markdown tables of what lies in OUT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from realm.evaluation.retrieval import Interval

from .legs import CURVES, DEFAULTS, LEGS
from .probe import KS
from .results import Judged, Results, interval, line_found, pearson, spearman

PUBLISHED = {
    "salient": ("38.2", "38.5"),
    "ict-realm": ("38.2", "38.5"),
    "random-token": ("32.3", "24.2"),
    "random-span": ("35.3", "26.1"),
    "rare-refresh": ("28.7", "15.1"),
    "ict-only": ("31.3", "13.9"),
}
"""Guu et al. 2020, Table 2: exact match on NQ dev after fine-tuning, zero-shot recall@5. `ict-only` is its baseline
(ORQA); "30x stale" is a refresh 30 times less often. Orientation only: other corpus, other questions, other scale."""
PREDICTORS = {
    "retrieval_utility_marginal": "RU, released code's form",
    "retrieval_utility": "RU, the paper's form (mean over passages)",
    "log_likelihood": "log p(y|x)",
}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def share(found: Interval, sign: bool = False) -> str:
    """In points, with its interval."""
    form = "{:+.1f}" if sign else "{:.1f}"
    return f"{form.format(100 * found.difference)} [{form.format(100 * found.low)}, {form.format(100 * found.high)}]"


def default_leg(results: Results) -> str | None:
    return next((leg for leg in DEFAULTS if leg in results.runs), None)


def leg_rows(results: Results) -> Iterator[list[str]]:
    """One row a leg: recalls with intervals, the difference to the default, RU, likelihood, time, the paper's row."""
    default = default_leg(results)
    base = {run.seed: run for run in results.runs[default]} if default else {}
    order = [leg for leg in (*LEGS, "supervised") if leg in results.runs]
    for leg in order:
        runs = results.runs[leg]
        groups = [results.documents[run.seed] for run in runs]
        recalls = [share(interval([run.found(k) for run in runs], groups)) for k in KS]
        told = f"{100 * _mean(run.last['recall@5_told'] for run in runs):.1f}"
        paired = [run for run in runs if run.seed in base]
        difference = "" if leg == default or not paired else share(_difference(paired, base, results), sign=True)
        readings = [
            _figure(runs, name) for name in ("retrieval_utility_marginal", "retrieval_utility", "log_likelihood")
        ]
        minutes = f"{_mean(run.last['seconds'] for run in runs) / 60:.1f}"
        flops = f"{_mean(run.last['flops'] for run in runs) / 1e12:.3g}"
        exact, recall = PUBLISHED.get(leg, ("", ""))
        yield [leg, str(len(runs)), *recalls, told, difference, *readings, minutes, flops, exact, recall]


LEG_COLUMNS = (
    "leg", "seeds", *(f"recall@{k}" for k in KS), "recall@5 of those told elsewhere", "recall@5 minus default",
    "RU (released)", "RU (paper)", "log p(y|x)", "minutes", "TFLOP", "paper: EM", "paper: recall@5",
)  # fmt: skip


def _difference(runs: Sequence[Judged], base: dict[int, Judged], results: Results, k: int = 5) -> Interval:
    values = [run.found(k).astype(float) - base[run.seed].found(k) for run in runs]
    return interval(values, [results.documents[run.seed] for run in runs])


def gain_rows(results: Results) -> Iterator[list[str]]:
    """What REALM adds to its own warm start, and how it stands to BM25, on the same sentences."""
    for leg in (leg for leg in (*CURVES, "salient", "joint") if leg in results.runs and leg != "ict-only"):
        runs = results.runs[leg]
        groups = [results.documents[run.seed] for run in runs]
        starts = [[point for point in run.points if point["stage"] == "ict"][-1] for run in runs]
        gains = [run.found(5).astype(float) - run.found(5, start) for run, start in zip(runs, starts, strict=True)]
        before = interval([run.found(5, start) for run, start in zip(runs, starts, strict=True)], groups)
        row = [leg, str(len(runs)), share(before), share(interval([run.found(5) for run in runs], groups))]
        row.append(share(interval(gains, groups), sign=True))
        lined = [run for run in runs if "BM25 (k1 0.9, b 0.4)" in results.lines.get(run.seed, {})]
        over = [
            run.found(5).astype(float)
            - line_found(results.lines[run.seed]["BM25 (k1 0.9, b 0.4)"], 5, run.probe["sentences"])
            for run in lined
        ]
        row.append(share(interval(over, [results.documents[r.seed] for r in lined]), sign=True) if over else "")
        yield row


GAIN_COLUMNS = ("leg", "seeds", "recall@5 of the warm start", "recall@5 at the end", "gain", "above BM25")


def line_rows(results: Results) -> Iterator[list[str]]:
    """Flat lines, mean over seeds."""
    names = list(dict.fromkeys(name for lines in results.lines.values() for name in lines))
    for name in names:
        seeds = [seed for seed, lines in results.lines.items() if name in lines]
        groups = [results.documents[seed] for seed in seeds]
        found = [[line_found(results.lines[seed][name], k, len(results.documents[seed])) for seed in seeds] for k in KS]
        yield [name, str(len(seeds)), *(share(interval(values, groups)) for values in found)]


LINE_COLUMNS = ("line", "seeds", *(f"recall@{k}" for k in KS))


def read_points(results: Results) -> list[tuple[Judged, dict[str, Any]]]:
    """Checkpoints of REALM that have figures of their reader. Step 0 is left out: nobody has taught that reader."""
    return [
        (run, point)
        for runs in results.runs.values()
        for run in runs
        for point in run.points
        if point["stage"] == "realm" and point["step"] > 0 and all(name in point for name in PREDICTORS)
    ]


def correlation_rows(results: Results) -> Iterator[list[str]]:
    """Of recall@5 with RU and with the likelihood: over all checkpoints, within runs, and over ends of runs."""
    points = read_points(results)
    recall = np.array([point["recall@5"] for _, point in points])
    for name, label in PREDICTORS.items():
        value = np.array([point[name] for _, point in points])
        within = []
        for run in {id(run): run for run, _ in points}.values():
            mine = np.array([owner is run for owner, _ in points])
            within.append((pearson(value[mine], recall[mine]), spearman(value[mine], recall[mine])))
        ends = np.array([point is run.last for run, point in points], bool)
        inside = np.array(within).reshape(-1, 2)
        inside = inside[np.isfinite(inside).all(1)]
        mean = inside.mean(0) if len(inside) else [float("nan")] * 2
        yield [
            label, str(len(points)), _number(pearson(value, recall)), _number(spearman(value, recall)),
            str(len(inside)), _number(mean[0]), _number(mean[1]),
            str(int(ends.sum())), _number(pearson(value[ends], recall[ends])),
            _number(spearman(value[ends], recall[ends])),
        ]  # fmt: skip


CORRELATION_COLUMNS = (
    "recall@5 against", "checkpoints", "Pearson", "Spearman", "runs", "Pearson within a run", "Spearman within a run",
    "ends of runs", "Pearson of ends", "Spearman of ends",
)  # fmt: skip


def _figure(runs: Sequence[Judged], name: str) -> str:
    values = [run.last[name] for run in runs if name in run.last]
    return f"{np.mean(values):+.2f}" if values else ""


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _number(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else "–"
