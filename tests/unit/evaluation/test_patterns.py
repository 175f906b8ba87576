"""Answers that are regular expressions: anchoring, flags, what is invalid, what would hang."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import UsageError
from realm.evaluation.patterns import PatternMatcher, folded, needed_literals
from realm.knowledge.questions.regexes import compiled_pattern

HANGS = r"(a|aa)+$"
LONG = "a" * 60 + "b"


@pytest.mark.parametrize(
    ("prediction", "pattern", "expected"),
    [
        ("1863", r"18\d\d", True),
        ("1863 in Paris", r"18\d\d", True),  # a match from the start on, not of the whole
        ("in 1863", r"18\d\d", False),  # and no search
        ("NEW YORK", "new york", True),
        ("ÉLYSÉE palace", r"[eé]lys[ée]e palace", True),
        ("red\nblue", "^red$", True),  # multi-line
        ("blue\nred", "^red$", False),  # which does not move the start
        ("Bob", "(Bob", False),
    ],
)
def test_matching_is_anchored_at_the_start_as_in_the_reference(prediction: str, pattern: str, expected: bool) -> None:
    assert PatternMatcher().matches(prediction, [pattern]) is expected
    assert PatternMatcher().matches(prediction, ["nothing like it", pattern]) is expected


@given(st.text("ab 1|()?*+[]{}\\.^$", max_size=12), st.text("ab1 ", max_size=12))
def test_what_python_says_is_what_counts(pattern: str, text: str) -> None:
    """`re` is the reference's engine: no pattern means more, less or something else here."""
    try:
        expected = re.compile(pattern, re.I | re.U | re.M).match(text) is not None
    except (re.error, OverflowError):
        expected = False
        assert compiled_pattern(pattern) is None
    matcher = PatternMatcher()
    found = matcher.matches(text, [pattern])
    assert found is expected or matcher.timed_out or pattern in matcher.invalid


def test_invalid_patterns_are_wrong_and_named() -> None:
    matcher = PatternMatcher()
    assert not matcher.matches("x", ["(x", "[", "x" * 20_000])
    assert matcher.invalid == {"(x", "[", "x" * 20_000}
    assert matcher.matches("x", ["(x", "x"])  # the valid one still counts


def test_a_pattern_that_would_hang_is_given_up_once_and_named() -> None:
    matcher = PatternMatcher(0.05)
    begun = time.process_time()
    assert not matcher.matches(LONG, [HANGS])
    assert not any(matcher.stands_in(LONG, [HANGS]) for _ in range(100))
    assert time.process_time() - begun < 2
    assert matcher.timed_out == {HANGS}
    assert matcher.matches(LONG, [HANGS, "aaa"])
    with pytest.raises(UsageError, match="more than 0"):
        PatternMatcher(0)


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        ("After the Fall|Finishing the Play", ("after the fall", "finishing the play")),
        (r"Oct(.|ober)?\s* 10", ("oct",)),
        ("187(4|5)", ("187",)),
        ("Sept?(ember)?|Feb(ruary)?", ("sep", "feb")),
        ("ab{0,3}cd", ("cd",)),
        (r"St\. Helena", (" helena",)),
        ("((Watson|Crick).*){2}|Crick", None),
        (r"\d+", None),
        (r"\x41bc", None),
        ("(?i)abc", None),
        ("", None),
    ],
)
def test_needed_literals(pattern: str, literals: tuple[str, ...] | None) -> None:
    assert needed_literals(pattern) == literals


PIECES = st.sampled_from(
    ["ab", "Ka", "s", "1", r"\s?", r"\b", "(a|b)", "(Sk)?", "?", "*", "{0,2}", "+", "|", ".", "[ab]", r"\.", " "]
)
TEXTS = st.text("abkKsS1. \u017f\u212a\u0130", max_size=10)


@given(st.lists(PIECES, max_size=6).map("".join), TEXTS)
def test_no_text_is_found_without_a_needed_literal(pattern: str, text: str) -> None:
    literals = needed_literals(pattern)
    if literals is not None and PatternMatcher().stands_in(text, [pattern]):
        assert any(literal in folded(text) for literal in literals)
