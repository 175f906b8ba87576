"""Contestants in turn, round after round, in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.core.memory import peak_of

SHORTEST = 0.002
"""Seconds that a round of one contestant takes at least: shorter calls are repeated in it."""


@dataclass(kw_only=True)
class Contestant:
    """Somebody who can do a work again and again."""

    who: str
    run: Callable[[], object]
    """Once through the work; a float that it gives is the seconds it took (measured where it ran), else it is timed
    here."""
    role: str = "peer"
    items: float = 1.0
    scale: float = 1.0
    """The seconds are multiplied by it: a limit is measured on work of its own size."""
    held_bytes: int | None = None
    """What it has held since it was built, where the run doesn't show it."""
    peak: Callable[[], int | None] | None = None
    """Asked for the peak after the first run, where the work is done in another process."""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Timed:
    """What the rounds of a contestant came to."""

    seconds: list[float]
    peak_bytes: int | None


def take_turns(
    contestants: list[Contestant],
    *,
    rounds: int,
    budget: float,
    each_round: Callable[[], object] | None = None,
    tidy: bool = True,
) -> list[Timed]:
    """A first call of each, not counted but for its memory, one more of the short ones to see how often they are
    repeated in a round, and then rounds in turn.

    rounds: at most so many, at least three (or `rounds`, if fewer); in between it ends when `budget` seconds for each
    contestant are spent. Every other round goes backwards, so that nobody always runs behind the same neighbour.
    tidy: see `peak_of`.
    """
    found, calls = [], []
    for one in contestants:
        (result, spent), peak = peak_of(partial(_first, one.run), tidy=tidy)
        peak = peak if one.peak is None else one.peak()
        calls.append(1 if isinstance(result, float) else _calls(one.run, spent))
        found.append(Timed([], _sum(one.held_bytes, peak)))
    until = time.perf_counter() + budget * len(contestants)
    for number in range(rounds):
        if number >= min(3, rounds) and time.perf_counter() > until:
            break
        for at in range(len(contestants))[:: -1 if number % 2 else 1]:
            found[at].seconds.append(contestants[at].scale * seconds_of(contestants[at].run, calls[at]))
        if each_round is not None:
            each_round()
    return found


def _first(run: Callable[[], object]) -> tuple[object, float]:
    began = time.perf_counter()
    return run(), time.perf_counter() - began


def _calls(run: Callable[[], object], first: float) -> int:
    """How many make a round long enough; the first, which warms up, tells nothing of a short one."""
    spent = first if first > 100 * SHORTEST else min(first, seconds_of(run))
    return max(1, min(1000, math.ceil(SHORTEST / max(spent, 1e-6))))


def seconds_of(run: Callable[[], object], calls: int = 1) -> float:
    """Of one call, of which `calls` are made; what the call says itself, if it gives a float."""
    began = time.perf_counter()
    for _ in range(calls - 1):
        run()
    result = run()
    return result if isinstance(result, float) else (time.perf_counter() - began) / calls


def _sum(*values: int | None) -> int | None:
    there = [value for value in values if value is not None]
    return sum(there) if there else None
