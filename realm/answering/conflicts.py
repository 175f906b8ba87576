"""Passages that disagree: which of them give which answer, and with how much of the probability.

A passage gives the answer that has most of the probability in it. Answers that agree (`agreement.agree`) are one side.

Legend: K passages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date as Date

from realm.answering.agreement import agree
from realm.errors import UsageError
from realm.methods.extraction import Extracted, merged
from realm.types import Evidence, Side

CONSIDERED = 12
"""Of the answers the likeliest so many: what is behind them has too little mass for a side."""
SOURCES_TOLD = 3
LEAST = 0.1
REASONS = {
    "mass": "it has more of the probability",
    "likeliest": "no other answer is as likely by itself, without those that agree with it",
    "recency": "it is newer: by the recency prior it has more of the probability, and would have less without",
}
"""Why a side is the answer given: what `Side.reason` may be, in words."""


@dataclass(frozen=True)
class ConflictRule:
    """When the masses of two answers are comparable.

    The numbers were chosen on RAMDocs (Wang et al. 2025), whose documents are known to agree or not; docs/results.md.
    """

    ratio: float = 0.3
    """A side has at least this share of the mass of the answer given, ..."""
    least: float | None = None
    """... and at least so much of the whole probability: what a weak reader spreads over everything is no opinion. When
    None `LEAST`, and for a blank, whose answers are flatter, `ask.LEAST_OF_A_BLANK`."""

    def __post_init__(self) -> None:
        if not (0 < self.ratio <= 1 and 0 <= (self.least or 0.0) < 1):
            raise UsageError(
                f"found a conflict ratio of {self.ratio} and a least mass of {self.least}: expected a ratio above 0 "
                "and up to 1, and a mass from 0 to below 1"
            )


def find_conflict(
    found: Sequence[Extracted],
    evidence_of: Callable[[Extracted], Sequence[Evidence]],
    *,
    normalize: Callable[[str], str],
    rule: ConflictRule | None = None,
    ageless: Callable[[str], float] | None = None,
) -> tuple[Side, ...]:
    """The sides of a disagreement, newest first; empty where there is none.

    found: answers by falling probability, the first being the one given; `log_mass` is log p(y, z | x) in each passage.
    evidence_of: what an answer rests on, one for each passage. Sides are ordered by the date of their newest passage,
    those without a date last; among equal dates by mass.
    ageless: the log of an answer's mass had no recency prior acted, but for what all share; r(z) divided out of the
    side's passages when None, which is the same where p(y|x) is a plain sum over passages.
    """
    rule = rule or ConflictRule()
    groups = _sides(found[:CONSIDERED], normalize)
    if len(groups) < 2:
        return ()
    says: dict[int, int] = {}
    for number, group in enumerate(groups):
        for passage, log_mass in group.log_mass.items():
            if passage not in says or log_mass > groups[says[passage]].log_mass[passage]:
                says[passage] = number
    sides = []
    for number, group in enumerate(groups):
        own = group.only({passage for passage, said in says.items() if said == number})
        if own is None:
            if number == 0:
                return ()
            continue
        evidence = [one for one in evidence_of(own) if one.span is not None and one.posterior > 0]
        newest = sorted(evidence, key=lambda one: (one.date or Date.min, one.posterior), reverse=True)
        sides.append(Side(group.text, own.mass, number == 0, tuple(newest)))
    least = LEAST if rule.least is None else rule.least
    floor = max(rule.ratio * sides[0].mass, least)
    kept = [side for side in sides if side.preferred or side.mass >= floor]
    if len(kept) < 2 or sides[0].mass < least:
        return ()
    kept[0] = replace(kept[0], reason=_reason(kept[0], kept[1:], ageless))
    return tuple(sorted(kept, key=lambda side: (side.date or Date.min, side.mass), reverse=True))


def told(sides: Sequence[Side]) -> str | None:
    """One line: both sides with dates and sources, which is preferred, and why. None where there are no sides."""
    if not sides:
        return None
    given = next(side for side in sides if side.preferred)
    others = [side for side in sides if not side.preferred]
    strongest = max(others, key=lambda side: side.mass)
    why = f"{REASONS[given.reason or 'mass']}, {given.mass:.0%} against {strongest.mass:.0%} for {strongest.text!r}"
    newest = max((side for side in others if side.date), key=lambda side: side.date or Date.min, default=None)
    if given.date and all(side.date is None or side.date < given.date for side in others):
        why += f", and it is the newest, {given.date}" + (f" against {newest.date}" if newest else " against no date")
    elif newest and newest.date and (given.date is None or newest.date > given.date):
        why += f", though {newest.text!r} is newer, {newest.date} against {given.date or 'no date'}"
    return f"the passages disagree: {' / '.join(map(_stood, sides))}; {given.text!r} is preferred: {why}"


def _reason(given: Side, others: Sequence[Side], ageless: Callable[[str], float] | None) -> str:
    """A key of `REASONS`."""
    if any(side.mass > given.mass for side in others):
        return "likeliest"

    def before(side: Side) -> float:
        return _log_mass_without_recency(side) if ageless is None else ageless(side.text)

    acted = any(one.recency for side in (given, *others) for one in side.evidence)
    return "recency" if acted and any(before(side) > before(given) for side in others) else "mass"


def _log_mass_without_recency(side: Side) -> float:
    """log of a side's mass with r(z) divided out of p(z|x), but for a constant that all sides share."""
    log_share = [math.log(one.posterior) - (one.recency or 0.0) for one in side.evidence]
    highest = max(log_share, default=0.0)
    return math.log(side.mass) + highest + math.log(math.fsum(math.exp(value - highest) for value in log_share) or 1.0)


def _stood(side: Side) -> str:
    """A side with its date, the sources of its passages (the documents where none is named), and its mass."""
    named = dict.fromkeys(one.source or one.passage.document_id for one in side.evidence)
    shown = [*named][:SOURCES_TOLD] + (["…"] if len(named) > SOURCES_TOLD else [])
    return f"{side.text!r} ({', '.join([str(side.date or 'no date'), *shown, f'{side.mass:.0%}'])})"


def _sides(found: Sequence[Extracted], normalize: Callable[[str], str]) -> list[Extracted]:
    """Answers that agree with each other made one, in order of their likeliest."""
    groups: list[list[Extracted]] = []
    for answer in found:
        mine = next((g for g in groups if all(agree(answer.text, one.text, normalize) for one in g)), None)
        if mine is None:
            groups.append([answer])
        else:
            mine.append(answer)
    return [merged(group) for group in groups]
