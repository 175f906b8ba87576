"""Lines over steps, as geometry: what a page needs to draw a plot without a script or a library.

All lengths are in the plot's own units, `WIDTH` x `HEIGHT`; the page scales them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 360.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 10.0, 22.0
MAX_POINTS = 200
"""More are averaged in groups: a screen shows no more."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line."""

    label: str
    points: Sequence[tuple[float, float]]
    """(step, figure), in any order; what is not finite is left out."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One plot."""

    title: str
    meaning: str
    """One sentence for a reader who has not read the paper."""
    series: Sequence[Series]
    form: str = "{:.2f}"
    """How a figure is written, as `str.format` takes it."""
    baselines: Sequence[tuple[str, float]] = ()
    """Horizontal lines to compare with: label and figure."""
    axis: str = "step"
    """What a point's first number is; it stands before the number under the pointer."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Line:
    label: str
    path: str
    """SVG path data."""
    first: str
    last: str


@dataclass(frozen=True)
class Moment:
    """One step under the pointer: a column that reacts, the points in it, and what they say."""

    x: float
    left: float
    width: float
    dots: Sequence[tuple[int, float]]
    """(number of the line, y)"""
    text: str


@dataclass(frozen=True)
class Plot:
    """A curve, ready to draw."""

    title: str
    meaning: str
    lines: Sequence[Line]
    baselines: Sequence[Tick]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    moments: Sequence[Moment]
    averaged: bool
    """Whether points were averaged to fit."""


def curve_of(
    events: Iterable[Mapping[str, object]], names: Mapping[str, str], *, stage: str = "realm", **facts: object
) -> Curve:
    """A curve of what ``metrics.jsonl`` holds: `names` maps figures to labels, `facts` are the curve's other fields."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for event in events:
        step = event.get("step")
        for name in names:
            value = event.get(name)
            if event.get("stage") == stage and isinstance(step, int | float) and isinstance(value, int | float):
                found[name].append((float(step), float(value)))
    series = [Series(label=label, points=found[name]) for name, label in names.items() if found[name]]
    return Curve(series=series, **facts)  # type: ignore[arg-type]


def draw(curve: Curve) -> Plot:
    """Lay a curve out. A curve without a finite point has no lines."""
    cleaned = [(series.label, _clean(series.points)) for series in curve.series]
    kept = [(series.label, points) for series in curve.series if (points := fitting(series.points))]
    averaged = any(len(points) > MAX_POINTS for _, points in cleaned)
    if not kept:
        return Plot(curve.title, curve.meaning, [], [], [], [], [], False)
    steps = [x for _, points in kept for x, _ in points]
    figures = [y for _, points in kept for _, y in points]
    marks = [(label, y) for label, y in curve.baselines if math.isfinite(y)]
    x_low, x_high = min(steps), max(steps)
    y_ticks = ticks(min(figures + [y for _, y in marks]), max(figures + [y for _, y in marks]), 4)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x_at(x: float) -> float:
        share = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y_at(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = [
        Line(
            label,
            "M" + "L".join(f"{x_at(x):g} {y_at(y):g}" for x, y in points),
            curve.form.format(points[0][1]),
            curve.form.format(points[-1][1]),
        )
        for label, points in kept
    ]
    return Plot(
        curve.title,
        curve.meaning,
        lines,
        [Tick(y_at(y), f"{label} {curve.form.format(y)}") for label, y in marks],
        [Tick(x_at(x), f"{x:,.0f}") for x in ticks(x_low, x_high, 4) if x_low <= x <= x_high],
        [Tick(y_at(y), curve.form.format(y)) for y in y_ticks],
        _moments(kept, curve.form, x_at, y_at, curve.axis),
        averaged,
    )


def fitting(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points in the order of their steps, at most about `MAX_POINTS`: what is not finite left out, the rest averaged in
    groups where they are more. The last is the last."""
    clean = _clean(points)
    return _thin(clean) if clean else []


def _moments(
    kept: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    form: str,
    x_at: Callable[[float], float],
    y_at: Callable[[float], float],
    axis: str,
) -> list[Moment]:
    by_step: dict[float, list[tuple[int, str, float]]] = {}
    for number, (label, points) in enumerate(kept):
        for x, y in points:
            by_step.setdefault(x, []).append((number, label, y))
    steps = sorted(by_step)
    edges = [LEFT, *((x_at(a) + x_at(b)) / 2 for a, b in pairwise(steps)), WIDTH - RIGHT]
    moments = []
    for i, step in enumerate(steps):
        there = by_step[step]
        said = [f"{label} {form.format(y)}" if len(kept) > 1 else form.format(y) for _, label, y in there]
        dots = [(number, y_at(y)) for number, _, y in there]
        width = round(edges[i + 1] - edges[i], 2)
        moments.append(Moment(x_at(step), round(edges[i], 2), width, dots, f"{axis} {step:,.0f}: {', '.join(said)}"))
    return moments


def _clean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of equal groups; the last point stays as it is, because its figure is the one that is quoted."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size == 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    groups[-1] = [p for p in groups[-1] if p is not points[-1]]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups if g]
    return [*means, points[-1]]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that enclose low to high, some `about` of them; two at least, also when low == high."""
    if high - low <= max(1e-9, 1e-12 * max(abs(low), abs(high))):
        spread = abs(high) * 0.1 if abs(high) > 1e-6 else 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [round(i * size, 12) for i in range(first, last + 1)]
