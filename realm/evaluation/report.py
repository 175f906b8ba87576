"""One page that tells what a run did: facts, the table, curves, worked examples.

The page is one file without a script or an outside address, and forbids both to itself; it can be mailed or
opened from a disk. Everything that comes from documents is escaped by the template engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from realm import __version__, files
from realm.evaluation.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, Series, curve_of, draw
from realm.types import Answer, Evidence

__all__ = ["Curve", "Example", "Series", "Table", "curve_of", "render", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures side by side. The first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    emphasis: int | None = None
    """Number of the column to set in bold."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A blank or question, what was answered, and what the answer rests on."""

    answer: Answer
    heading: str = ""
    expected: str | None = None
    comment: str = ""
    max_evidence: int = 3


class _Piece(NamedTuple):
    text: str
    marked: bool


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    curves: Sequence[Curve] = (),
    curves_title: str = "While it learnt",
    table: Table | None = None,
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
    subtitle: str = "",
) -> None:
    """Write the page, whole or not at all. ArtefactError when the disk is full."""
    files.write_text(
        path,
        render(
            title=title,
            facts=facts,
            curves=curves,
            curves_title=curves_title,
            table=table,
            examples=examples,
            notes=notes,
            subtitle=subtitle,
        ),
    )


def render(
    *,
    title: str,
    facts: Mapping[str, str],
    curves: Sequence[Curve] = (),
    curves_title: str = "While it learnt",
    table: Table | None = None,
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
    subtitle: str = "",
) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(pieces=_pieces, percent=_percent, signed=_signed, link=_link, blanks=_blanks, bar=_bar)
    template = environment.from_string(resources.files("realm.evaluation").joinpath("page.html").read_text("utf-8"))
    return template.render(
        title=title,
        subtitle=subtitle,
        facts=facts,
        plots=[draw(curve) for curve in curves],
        plots_title=curves_title,
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        table=table,
        examples=examples,
        notes=notes,
        version=__version__,
    )


def _pieces(evidence: Evidence) -> Iterator[_Piece]:
    """The passage's text, cut at the span of the answer."""
    text, size = evidence.passage.text, len(evidence.passage.text)
    start, end = evidence.span or (size, size)
    start = min(max(start, 0), size)
    end = min(max(end, start), size)
    yield from (
        _Piece(part, marked)
        for part, marked in ((text[:start], False), (text[start:end], True), (text[end:], False))
        if part
    )


def _blanks(text: str) -> Iterator[_Piece]:
    """A question, cut at its masks; masks in a row are one blank."""
    blank = False
    for i, part in enumerate(text.split("[MASK]")):
        if i and not blank:
            yield _Piece("", True)
        blank = i > 0 and not part.strip()
        if part.strip():
            blank = False
            yield _Piece(part, False)


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "–"
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "<0.1%"


def _bar(share: float) -> float:
    """Length of a bar, 0 to 100."""
    return round(min(max(share, 0.0), 1.0) * 100, 2) if math.isfinite(share) else 0.0


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"


def _link(url: str | None) -> str | None:
    """An address that a page may link to: a javascript: address of a document is none."""
    return url if url and url.lower().startswith(("https://", "http://")) else None
