"""Containment at token boundaries, recall, reciprocal rank, bootstrap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import UsageError
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.retrieval import (
    NOT_FOUND,
    answer_in_text,
    answer_ranks,
    answer_tokens,
    gold_rank,
    holds_answer,
    mean_reciprocal_rank,
    paired_bootstrap,
    recall_at,
    string_rank,
)
from realm.types import NO_ROW, Hits, Question


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Paris", "It stands in paris."),
        ("St. Louis", "born in St Louis, Missouri"),
        ("Lennon", "Lennon’s second wife"),
        ("1,000", "about 1,000 men"),
        ("C++", "written in C++."),
        ("ＡＢＣ", "the abc islands"),
        ("Straße", "STRASSE"),
        ("Beyonce\u0301", "Beyonc\u00e9 sang"),
        ("हिन्दी", "यह हिन्दी है"),
        ("東京", "日本の東京都に"),
        ("กรุงเทพ", "อยู่ในกรุงเทพมหานคร"),
        ("القاهرة", "عاصمتها القاهرة اليوم"),
        ("서울", "수도는 서울에서는 다르다"),
        ("서울", "서울은 수도이다."),
        ("😀", "a face 😀 here"),
    ],
)
def test_an_answer_that_stands_there_is_found(answer: str, text: str) -> None:
    assert answer_in_text(answer, text)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Paris", "a comparison"),
        ("art", "Bart"),
        ("C", "written in Cobol"),
        ("C++", "the letter C"),
        ("5%", "5 percent"),
        ("Beyonce", "Beyoncé sang"),
        ("हि", "यह हिन्दी है"),
        ("서울", "서울대학교를 나왔다"),
        ("1", "in 1936"),
        ("", "anything"),
        ("...", "a ... b"),
        ("New York", "a new road to York"),
    ],
)
def test_an_answer_that_only_seems_to_stand_there_is_not_found(answer: str, text: str) -> None:
    assert not answer_in_text(answer, text)


words = st.lists(st.text("abcdé東ßकि1", min_size=1, max_size=5), min_size=1, max_size=4)


@given(before=words, answer=words, after=words, shout=st.booleans())
def test_words_between_words_are_found_in_either_case(
    before: list[str], answer: list[str], after: list[str], shout: bool
) -> None:
    text = " ".join([*before, *answer, *after])
    assert answer_in_text(" ".join(answer), text.upper() if shout else text)


def ranks(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_ranks_take_any_accepted_answer_and_skip_padding() -> None:
    texts = {0: "Picasso painted it", 1: "nothing here", 2: "in Madrid"}
    hits = Hits(torch.tensor([[1, 0, 2], [1, NO_ROW, NO_ROW], [NO_ROW, NO_ROW, NO_ROW]]), torch.zeros(3, 3))
    found = answer_ranks(hits, [["Goya", "Picasso"], ["Madrid"], ["x"]], texts.__getitem__)
    assert found.tolist() == [1, NOT_FOUND, NOT_FOUND]
    with pytest.raises(UsageError, match="2 lists of answers for 3"):
        answer_ranks(hits, [["a"], ["b"]], texts.__getitem__)


def test_recall_and_reciprocal_rank_by_hand() -> None:
    found = ranks(0, 4, 5, NOT_FOUND)
    assert [recall_at(found, k) for k in (1, 5, 6, 20)] == [0.25, 0.5, 0.75, 0.75]
    assert mean_reciprocal_rank(found) == pytest.approx((1 + 1 / 5 + 1 / 6) / 4)
    assert mean_reciprocal_rank(found, k=5) == pytest.approx((1 + 1 / 5) / 4)


def test_no_questions_is_an_error_and_not_nan() -> None:
    with pytest.raises(UsageError, match="no questions"):
        recall_at(ranks(), 5)
    with pytest.raises(UsageError, match="no questions"):
        mean_reciprocal_rank(ranks())
    with pytest.raises(UsageError, match="no questions"):
        paired_bootstrap(np.zeros(0), np.zeros(0))


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    random = np.random.default_rng(7)
    before = random.random(800)
    after = before + random.normal(0.05, 0.3, 800)
    interval = paired_bootstrap(before, after, samples=4000)
    half = 1.96 * (after - before).std(ddof=1) / 800**0.5
    assert interval.difference == pytest.approx((after - before).mean())
    assert interval.low == pytest.approx(interval.difference - half, abs=0.003)
    assert interval.high == pytest.approx(interval.difference + half, abs=0.003)
    assert interval.clear == (interval.low > 0)


def test_bootstrap_is_paired() -> None:
    """A constant gain is certain, however hard the questions differ among themselves."""
    before = np.random.default_rng(0).random(50) * 100
    interval = paired_bootstrap(before, before + 1)
    assert interval.low == pytest.approx(1) and interval.high == pytest.approx(1) and interval.clear


def test_bootstrap_is_a_function_of_the_seed_and_covers_no_change() -> None:
    before = np.array([0, 1] * 50)
    after = before[::-1]
    assert paired_bootstrap(before, after, 500, seed=3) == paired_bootstrap(before, after, 500, seed=3)
    assert paired_bootstrap(before, after, 500, seed=3) != paired_bootstrap(before, after, 500, seed=4)
    assert not paired_bootstrap(before, after, 500).clear
    with pytest.raises(UsageError, match="same questions"):
        paired_bootstrap(before, after[:-1])


TEXTS = ["nothing", "Bram Stoker, an Irishman", "it was 1897", "Stoker"]


def test_the_first_text_that_holds_an_answer() -> None:
    asked = Question("1", "who?", ("Abraham", "stoker"), gold=("d9", "d3#0"))
    matcher = PatternMatcher()
    assert string_rank(asked, TEXTS, matcher) == 1
    assert string_rank(Question("1", "who?", ("Stoke",)), TEXTS, matcher) == NOT_FOUND
    assert string_rank(Question("1", "who?", ()), TEXTS, matcher) == NOT_FOUND
    years = Question("1", "when?", (r"18[0-9]{2}",), patterns=True)
    assert string_rank(years, TEXTS, matcher) == 2  # a pattern is searched for in a passage, not anchored
    assert holds_answer(years, TEXTS[2], matcher) and not holds_answer(years, TEXTS[0], matcher)
    assert gold_rank(asked, [("d1#0", "d1"), ("d3#0", "d3"), ("d9#1", "d9")]) == 1
    assert gold_rank(asked, [("d3#1", "d3"), ("d9#1", "d9")]) == 1
    assert gold_rank(Question("1", "who?", ()), [("d1#0", "d1")]) == NOT_FOUND


def test_texts_after_the_first_are_not_asked_for() -> None:
    seen: list[str] = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            seen.append(text)
            yield text

    assert string_rank(Question("1", "who?", ("Stoker",)), texts(), PatternMatcher()) == 1
    assert seen == TEXTS[:2]


@given(st.lists(st.text("ab -é", max_size=4), max_size=3), st.lists(st.text("ab -é", max_size=8), max_size=4))
def test_the_rank_is_that_of_the_containment_test(answers: list[str], texts: list[str]) -> None:
    held = [any(answer_in_text(answer, text) for answer in answers) for text in texts]
    question = Question("1", "?", tuple(answers))
    assert string_rank(question, texts, PatternMatcher()) == (held.index(True) if True in held else NOT_FOUND)


@given(st.text(st.characters(max_codepoint=127), max_size=12))
def test_ascii_is_cut_as_all_text_is(text: str) -> None:
    """A letter beyond ASCII sends the whole text the other way; it adds one token and changes none."""
    assert [*answer_tokens(text), "é"] == answer_tokens(f"{text} é")
