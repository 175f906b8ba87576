"""Differences of systems are taken seed by seed, whatever order the seeds came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from realm.evaluation.judging import Judged, judge
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.scores import Results, build_report
from realm.types import Answer, Question
from realm.workflows.comparing.legs import Figures, difference

ASKED = [Question(str(n), f"who {n}?", ("me",)) for n in range(4)]


def results(right: int) -> Results:
    """The first so many of four questions answered rightly."""
    judged: list[Judged] = []
    for n, question in enumerate(ASKED):
        answer = Answer(question.text, "me" if n < right else "you", 0.5, False, (), 0.0)
        judged.append(replace(judge(question, PatternMatcher(), answer=answer), seconds=0.1))
    return Results(build_report(judged, suite="set"), {one.id: one for one in judged})


def figures(right: Mapping[int, int], *, seeded: bool = True) -> Figures:
    return Figures({seed: results(count) for seed, count in right.items()}, seeded=seeded)


def gain(before: Figures, after: Figures) -> tuple[float, float] | None:
    found = difference(before, after, "exact_match", "all", before.bootstrap("all"))
    return None if found is None else (found.difference, found.high - found.low)


def test_seeds_pair_by_what_they_are_and_not_by_their_place() -> None:
    """A seed that is good for one is good for the other: seed by seed the difference is 1 question of 4."""
    before = figures({0: 1, 1: 2, 2: 3})
    told = [gain(before, figures(order)) for order in ({0: 2, 1: 3, 2: 4}, {2: 4, 0: 2, 1: 3})]
    assert told[0] is not None and told[0][0] == pytest.approx(0.25)
    assert told[1] == pytest.approx(told[0])


def test_only_seeds_that_both_have_are_compared() -> None:
    before, half_done = figures({0: 1, 1: 2, 2: 3}), figures({2: 4})
    found = gain(before, half_done)
    assert found is not None and found[0] == pytest.approx(0.25)
    assert gain(half_done, figures({1: 2})) is None


def test_what_no_seed_changes_stands_against_every_seed() -> None:
    found = gain(figures({0: 1}, seeded=False), figures({1: 2, 2: 4}))
    assert found is not None and found[0] == pytest.approx(0.5)
