"""Figures with intervals as rows of dots: an SVG without a library (Cleveland & McGill 1984: position on a common scale
is what the eye compares best)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from realm.evaluation.plot import ticks

ROW, HEAD, FOOT, GAP = 22, 26, 24, 14
LABELS, FIELD, FIGURES = 240, 330, 110
COLOUR, REFERENCE, QUIET = "#0b6e99", "#c2571a", "#9a9a9a"


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row."""

    label: str
    mean: float
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    reference: float | None = None
    """A published figure; drawn hollow."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Rows on one scale."""

    title: str
    dots: Sequence[Dot]
    scale: float = 100.0
    """What figures are multiplied by."""
    form: str = "{:.1f}"


def draw_dots(panels: Sequence[Panel], *, title: str, note: str = "") -> str:
    """An SVG, panels one below the other; the same bytes for the same figures."""
    width = LABELS + FIELD + FIGURES
    parts, top = [], 30.0
    for panel in panels:
        if panel.dots:
            drawn, height = _panel(panel, top)
            parts += drawn
            top += height + GAP
    height = top + (16 if note else 0)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{escape(title)}">'
    )
    parts = [head, f'<rect width="{width}" height="{height:g}" fill="#ffffff"/>', *parts]
    parts.insert(2, _text(8, 18, title, weight="bold", size=13))
    if note:
        parts.append(_text(8, height - 6, note, colour="#666666", size=10))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: float) -> tuple[list[str], float]:
    known = [
        panel.scale * value
        for dot in panel.dots
        for value in (dot.mean, dot.low, dot.high, dot.reference, *dot.seeds)
        if value is not None
    ]
    marks = ticks(min(known), max(known), 4)
    low, high = marks[0], marks[-1]
    bottom = top + HEAD + ROW * len(panel.dots)

    def x_at(value: float) -> float:
        return round(LABELS + (panel.scale * value - low) / (high - low) * FIELD, 1)

    parts = [_text(8, top + 14, panel.title, weight="bold")]
    for mark in marks:
        x = x_at(mark / panel.scale)
        parts.append(f'<line x1="{x:g}" x2="{x:g}" y1="{top + HEAD - 6:g}" y2="{bottom:g}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 14, f"{mark:g}", anchor="middle", colour="#666666", size=10))
    for number, dot in enumerate(panel.dots):
        y = top + HEAD + ROW * number + ROW / 2
        parts.append(_text(LABELS - 10, y + 4, dot.label, anchor="end"))
        if dot.low is not None and dot.high is not None:
            parts.append(f'<line x1="{x_at(dot.low):g}" x2="{x_at(dot.high):g}" y1="{y:g}" y2="{y:g}" '
                         f'stroke="{COLOUR}" stroke-width="2"/>')  # fmt: skip
        parts += [f'<circle cx="{x_at(v):g}" cy="{y:g}" r="2" fill="{QUIET}"/>' for v in dot.seeds]
        parts.append(f'<circle cx="{x_at(dot.mean):g}" cy="{y:g}" r="4.5" fill="{COLOUR}"/>')
        if dot.reference is not None:
            parts.append(f'<circle cx="{x_at(dot.reference):g}" cy="{y:g}" r="4.5" fill="none" stroke="{REFERENCE}" '
                         'stroke-width="1.5"/>')  # fmt: skip
        said = panel.form.format(panel.scale * dot.mean)
        if dot.reference is not None:
            said += f" ({panel.form.format(panel.scale * dot.reference)})"
        parts.append(_text(LABELS + FIELD + 12, y + 4, said))
    return parts, HEAD + ROW * len(panel.dots) + FOOT


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#222222",
    size: int = 12,
) -> str:  # fmt: skip
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
