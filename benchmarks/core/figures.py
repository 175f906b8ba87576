"""Figures as text: of the terminal and of the report alike."""

from __future__ import annotations

from benchmarks.core.record import Group, Ratio, Row


def seconds_text(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.{1 if seconds < 0.1 else 0}f} ms"
    return f"{seconds:,.{2 if seconds < 10 else 1}f} s"


def _rate_text(row: Row, seconds: float) -> str:
    rate = row.items / seconds
    return f"{rate:,.{0 if rate >= 100 else 1 if rate >= 10 else 2}f} {row.unit}/s"


def figure(row: Row) -> str:
    """A rate where the row has a unit, else a time."""
    return seconds_text(row.median) if row.unit is None else _rate_text(row, row.median)


def spread_text(row: Row) -> str:
    """The middle half of the rounds, as times."""
    if len(row.seconds) < 2:
        return ""
    low, high = row.spread
    return f"{seconds_text(low)} to {seconds_text(high)}"


def memory(size: float | None) -> str:
    if size is None:
        return "–"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def ratio_text(found: Ratio) -> str:
    return f"{found.median:.{2 if found.median >= 0.1 else 3}f}" if found.median < 100 else f"{found.median:,.0f}"


def verdict(found: Ratio) -> str:
    """In words, which say so where rounds disagree."""
    word = "ahead" if found.median > 1 else "behind" if found.median < 1 else "level"
    return word if found.certain or word == "level" else f"{word}, within the spread"


def count_text(number: float) -> str:
    return f"{number:,.0f}"


def size_text(group: Group) -> str:
    return group.work if group.size is None else f"{group.work}: {count_text(group.size)} {group.of}"
