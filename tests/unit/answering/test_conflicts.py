"""Passages that disagree are told; passages that say the same in other words are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.answering.agreement import agree, as_day, as_quantity
from realm.answering.conflicts import REASONS, ConflictRule, find_conflict, told
from realm.errors import UsageError
from realm.evaluation.answers import normalize_orqa
from realm.methods.extraction import Extracted, merged
from realm.types import Evidence, Passage, Side

SAME = [
    ("Picasso", "Pablo Picasso"),
    ("the Han", "Han"),
    ("U.S.A.", "USA"),
    ("69,197", "69197"),
    ("69,197 people", "69,197"),
    ("nearly $1.5 million", "$1,500,000"),
    ("1.5 million dollars", "$1.5 million"),
    ("one hundred and five", "105"),
    ("twenty-five percent", "25%"),
    ("12 May 2008", "May 12, 2008"),
    ("2008-05-12", "May 12th, 2008"),
    ("2008", "May 2008"),
    ("May 2008", "12 May 2008"),
    ("12 May", "May 12, 2008"),
    ("COVID-19", "COVID-19 pandemic"),
    ("Sept 1999", "September 1999"),
]
OTHERS = [
    ("Pablo Picasso", "Joan Miró"),
    ("5", "5 million"),
    ("5 km", "5 miles"),
    ("105", "106"),
    ("two", "three"),
    ("12 May 2008", "13 May 2008"),
    ("May 2008", "June 2008"),
    ("2008", "2009"),
    ("2008", "12 May 2009"),
    ("Apollo 11", "Apollo 13"),
    ("5-3", "3-5"),
    ("1990s", "1980s"),
    ("", "Picasso"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_both_can_be_right(first: str, second: str) -> None:
    assert agree(first, second, normalize_orqa)
    assert agree(second, first, normalize_orqa)


@pytest.mark.parametrize(("first", "second"), OTHERS)
def test_one_of_them_is_wrong(first: str, second: str) -> None:
    assert not agree(first, second, normalize_orqa)
    assert not agree(second, first, normalize_orqa)


@settings(max_examples=25)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_can_be_compared_and_agreement_is_mutual(first: str, second: str) -> None:
    assert agree(first, second, normalize_orqa) == agree(second, first, normalize_orqa)
    assert agree(first, first, normalize_orqa) or not normalize_orqa(first)
    as_quantity(first), as_day(first)


# ---------------------------------------------------------------- sides

DATES = (date(2001, 1, 1), None, date(2020, 5, 1), date(2010, 1, 1))


def said(text: str, **mass: float) -> Extracted:
    """An answer with p(y, z | x) by passage: said("A", z0=0.3)."""
    log_mass = {int(name[1:]): math.log(value) for name, value in mass.items()}
    return Extracted(text, math.log(sum(mass.values())), dict.fromkeys(log_mass, (0, 1)), log_mass)


def evidence_of(answer: Extracted) -> Sequence[Evidence]:
    return [
        Evidence(
            passage=Passage(f"d{k}", 0, "", "some text", 0, 9, ()),
            document_version=1,
            score=0.0,
            prior=0.25,
            posterior=math.exp(answer.log_posterior(k)),
            retrieval_utility=math.nan,
            span=answer.places.get(k),
            date=day,
        )
        for k, day in enumerate(DATES)
    ]


def sides(*found: Extracted, rule: ConflictRule | None = None) -> tuple[Side, ...]:
    return find_conflict(found, evidence_of, normalize=normalize_orqa, rule=rule)


def test_the_newer_side_stands_first_and_the_likelier_one_is_preferred() -> None:
    found = sides(said("Oslo", z0=0.4, z1=0.1), said("Bergen", z2=0.3), said("Rome", z3=0.05))
    assert [(side.text, side.preferred, side.date) for side in found] == [
        ("Bergen", False, DATES[2]),
        ("Oslo", True, DATES[0]),
    ]
    assert found[1].mass == pytest.approx(0.5)
    assert [one.passage.document_id for one in found[1].evidence] == ["d0", "d1"]  # the dated passage first
    assert sum(one.posterior for one in found[1].evidence) == pytest.approx(1)
    assert [side.reason for side in found] == [None, "mass"]
    assert told(found) == (
        "the passages disagree: 'Bergen' (2020-05-01, d2, 30%) / 'Oslo' (2001-01-01, d0, d1, 50%); 'Oslo' is "
        "preferred: it has more of the probability, 50% against 30% for 'Bergen', though 'Bergen' is newer, "
        "2020-05-01 against 2001-01-01"
    )


def test_the_newest_side_that_is_preferred_is_told_as_such() -> None:
    line = told(sides(said("Oslo", z2=0.5), said("Bergen", z0=0.3), said("Rome", z3=0.3)))
    assert line and line.endswith("and it is the newest, 2020-05-01 against 2010-01-01")
    line = told(sides(said("Oslo", z2=0.5), said("Bergen", z1=0.3)))
    assert line and line.endswith("and it is the newest, 2020-05-01 against no date")
    line = told(sides(said("Oslo", z1=0.5), said("Bergen", z0=0.3)))
    assert line and line.endswith("though 'Bergen' is newer, 2001-01-01 against no date")


def test_without_dates_the_heavier_side_stands_first() -> None:
    found = sides(said("Oslo", z1=0.5), said("Bergen", z1=0.01, z0=0.4))
    assert [side.text for side in found] == ["Bergen", "Oslo"]  # a date comes before none
    found = find_conflict(
        [said("Oslo", z1=0.5), said("Bergen", z5=0.4)],
        lambda answer: [e for e in evidence_of(answer) if e.date is None],
        normalize=normalize_orqa,
    )
    assert [side.text for side in found] == ["Oslo", "Bergen"]
    line = told(found)
    assert line and "newe" not in line and "'Oslo' (no date, d1, 50%) / 'Bergen' (no date" in line


def test_two_answers_of_one_passage_are_no_conflict() -> None:
    """A reader that wavers between two spans of a passage is unsure; its passages don't disagree."""
    assert sides(said("Oslo", z0=0.4), said("Bergen", z0=0.35)) == ()
    assert sides(said("Oslo", z0=0.4, z2=0.1), said("Bergen", z0=0.35, z2=0.02)) == ()


def test_answers_that_agree_are_one_side() -> None:
    assert sides(said("Pablo Picasso", z0=0.4), said("Picasso", z1=0.3)) == ()
    found = sides(said("12 May 2008", z0=0.3), said("2008", z0=0.05, z1=0.2), said("1999", z2=0.3))
    assert [side.text for side in found] == ["1999", "12 May 2008"]
    assert found[1].mass == pytest.approx(0.55)
    # What agrees with a part of a side only is a side of its own.
    assert len(sides(said("2008", z0=0.3), said("12 May 2008", z1=0.3), said("13 May 2008", z2=0.3))) == 2


def test_what_is_comparable_is_a_setting() -> None:
    found = said("Oslo", z0=0.5), said("Bergen", z1=0.14)
    assert sides(*found) == ()
    assert len(sides(*found, rule=ConflictRule(ratio=0.25))) == 2
    assert sides(*found, rule=ConflictRule(ratio=0.25, least=0.2)) == ()
    assert sides() == () and told(()) is None
    for wrong in ({"ratio": 0.0}, {"ratio": 1.5}, {"least": 1.0}):
        with pytest.raises(UsageError, match="expected a ratio"):
            ConflictRule(**wrong)


def test_a_recency_prior_that_decided_is_the_reason() -> None:
    """Divided out again, the other side is ahead."""

    def aged(answer: Extracted) -> list[Evidence]:
        log_prior = {"d0": math.log(0.1), "d1": 0.0, "d2": math.log(0.9), "d3": math.log(0.5)}
        return [replace(one, recency=log_prior[one.passage.document_id]) for one in evidence_of(answer)]

    def asked(*found: Extracted) -> Side:
        told_sides = find_conflict(found, aged, normalize=normalize_orqa)
        (given,) = [side for side in told_sides if side.preferred]
        assert told(told_sides) and REASONS[given.reason or ""] in (told(told_sides) or "")
        return given

    # 0.4 / 0.9 without the prior, against 0.3 / 0.1 and against 0.15 / 0.5.
    assert asked(said("Oslo", z2=0.4), said("Bergen", z0=0.3)).reason == "recency"
    assert asked(said("Oslo", z2=0.4), said("Bergen", z3=0.15)).reason == "mass"
    # Where p(y|x) is no plain sum, what asks says what would have been.
    found = said("Oslo", z2=0.4), said("Bergen", z0=0.3)
    for ahead, reason in (("Oslo", "mass"), ("Bergen", "recency")):
        by_hand = find_conflict(
            found, aged, normalize=normalize_orqa, ageless=lambda text, one=ahead: float(text == one)
        )
        assert [side.reason for side in by_hand if side.preferred] == [reason]
    assert asked(said("Oslo", z2=0.3, z0=0.1), said("Bergen", z0=0.05, z1=0.25)).reason == "mass"


MASS = st.dictionaries(st.sampled_from(["z0", "z1", "z2", "z3"]), st.floats(1e-6, 0.2), min_size=1)
FOUND = st.lists(st.tuples(st.sampled_from(["Oslo", "Bergen", "oslo city", "7", "seven", "8"]), MASS), max_size=6)


@settings(max_examples=20)
@given(FOUND, st.floats(0.01, 1.0))
def test_every_side_is_heavy_enough_and_no_passage_is_on_two(
    found: list[tuple[str, dict[str, float]]], ratio: float
) -> None:
    answers = sorted((said(text, **mass) for text, mass in found), key=lambda answer: -answer.log_prob)
    told_sides = sides(*answers, rule=ConflictRule(ratio=ratio, least=0.0))
    backing = [one.passage.document_id for side in told_sides for one in side.evidence]
    assert len(backing) == len(set(backing))
    if told_sides:
        (given_side,) = [side for side in told_sides if side.preferred]
        assert len(told_sides) > 1 and agree(given_side.text, answers[0].text, normalize_orqa)
        assert all(side.mass >= ratio * given_side.mass - 1e-9 for side in told_sides)


def test_merging_keeps_the_mass() -> None:
    one = merged([said("2008", z0=0.3, z1=0.1), said("May 2008", z1=0.2)])
    assert one.text == "2008" and one.mass == pytest.approx(0.6)
    assert math.exp(one.log_posterior(1)) == pytest.approx(0.5)
    assert one.only({3}) is None


def test_a_side_that_several_spellings_make_heavier_is_told_as_such() -> None:
    """No one of them is as likely as the answer given."""
    found = sides(said("Oslo", z0=0.16), said("Bergen", z1=0.15), said("Bergen city", z3=0.04))
    assert {side.text: side.reason for side in found} == {"Oslo": "likeliest", "Bergen": None}
    line = told(found)
    assert line and "no other answer is as likely by itself" in line and "16% against 19% for 'Bergen'" in line
