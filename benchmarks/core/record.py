"""The record of a run: rows, machine, versions and sizes, as JSON; and the ratios that follow from the rows.

A row is one contestant at one work. Rows of one work and size compare: the contestants took turns, so that round n of
one stands beside round n of another, and ratios are taken round by round.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMAT, VERSION = "realm benchmark", 1
ROLES = ("realm", "variant", "peer", "limit")
"""realm: what is judged. variant: the same with another setting. limit: what the machine or bare arithmetic allows."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contestant at one work."""

    work: str
    who: str
    role: str
    seconds: tuple[float, ...]
    """One a round, each for the whole work."""
    items: float = 1.0
    """Things done in it."""
    unit: str | None = None
    """Their name, and the figure is a rate; None: the figure is the time."""
    size: float | None = None
    """What it was done over, for growth."""
    of: str = ""
    """Name of what `size` counts."""
    peak_bytes: int | None = None
    """The most it held above what the process held before."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the seconds."""
        return quartiles(self.seconds)


@dataclass(kw_only=True)
class Record:
    """One run of one suite."""

    suite: str
    when: str
    command: str
    quick: bool
    sizes: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that did not take part, and why."""
    limits: dict[str, float] = field(default_factory=dict)
    """Of the machine, a second, measured before and after the suite."""
    notes: list[str] = field(default_factory=list)
    printed: str = ""
    """What a script printed that is no suite yet."""
    told: dict[str, Any] = field(default_factory=dict)
    """What such a script wrote with --json."""
    profiles: dict[str, list[list[Any]]] = field(default_factory=dict)
    """By hot path: [operation, share of its processor time], largest first."""

    def write(self, folder: Path) -> Path:
        """`folder`/SUITE.json, whole or not at all; a quick one is SUITE.quick.json and takes no real one's place."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.suite}{'.quick' if self.quick else ''}.json"
        beside = path.with_suffix(f".{os.getpid()}.part")
        beside.write_text(json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n", "utf-8")
        beside.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Record:
        """ValueError: not a record of this format."""
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or (told.pop("format", None), told.pop("version", None)) != (FORMAT, VERSION):
            raise ValueError(
                f"{path}: found no record of version {VERSION}: expected what `python -m benchmarks` wrote"
            )
        told["rows"] = [Row(**{**row, "seconds": tuple(row["seconds"])}) for row in told["rows"]]
        return cls(**told)


class Ratio(NamedTuple):
    """How many times as fast one is as another, by rounds; above 1 is faster."""

    median: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the middle half of the rounds agrees on who is faster."""
        return self.low > 1 or self.high < 1


def ratio(ours: Row, other: Row) -> Ratio:
    """Speed of `ours` over that of `other`, an item each."""
    scale = ours.items / other.items
    if len(ours.seconds) == len(other.seconds):
        found = [scale * b / a for a, b in zip(ours.seconds, other.seconds, strict=True)]
    else:
        found = [scale * other.median / ours.median]
    return Ratio(statistics.median(found), *quartiles(found))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


class Group(NamedTuple):
    """The rows of one work at one size."""

    work: str
    size: float | None
    of: str
    rows: list[Row]

    def role(self, *roles: str) -> list[Row]:
        return [row for row in self.rows if row.role in roles]

    @property
    def ours(self) -> Row | None:
        return next(iter(self.role("realm")), None)

    @property
    def best_peer(self) -> Row | None:
        return min(self.role("peer"), key=lambda row: row.median / row.items, default=None)

    @property
    def limit(self) -> Row | None:
        """The first that was named, as with `ours`."""
        return next(iter(self.role("limit")), None)


def groups(rows: Iterable[Row]) -> list[Group]:
    """By work and size, in the order they came."""
    found: dict[tuple[str, float | None], Group] = {}
    for row in rows:
        found.setdefault((row.work, row.size), Group(row.work, row.size, row.of, [])).rows.append(row)
    return list(found.values())


def exponents(rows: Iterable[Row]) -> dict[tuple[str, str], tuple[float, list[tuple[float, float]]]]:
    """Of each (work, who) at three sizes or more: how seconds an item grow with size, and the points.

    The slope of the least-squares line through log(seconds) over log(size): 0 is no growth, 1 is in proportion.
    """
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.size and row.role != "limit":
            points.setdefault((row.work, row.who), []).append((row.size, row.median / row.items))
    return {name: (_slope(found), sorted(found)) for name, found in points.items() if len({x for x, _ in found}) >= 3}


def _slope(points: Sequence[tuple[float, float]]) -> float:
    x, y = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    return statistics.linear_regression(x, y).slope
