"""Exact match under its named conventions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.evaluation.answers import exact_match, normalize_orqa, normalize_squad


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The Beatles", "beatles"), ("U.S.A.", "usa"), ("an apple-pie", "applepie"), ("1,000", "1000"), ("the", "")],
)
def test_the_vectors_of_the_released_code(text: str, expected: str) -> None:
    assert normalize_orqa(text) == expected
    assert normalize_squad(text) == expected


def test_only_orqa_decomposes() -> None:
    composed, combining = "Beyonc\u00e9", "Beyonce\u0301"
    assert exact_match(composed, [combining], "orqa")
    assert not exact_match(composed, [combining], "squad")


@pytest.mark.parametrize("convention", ["orqa", "squad"])
def test_accents_and_curly_quotes_count(convention: str) -> None:
    assert not exact_match("Beyoncé", ["Beyonce"], convention)  # type: ignore[arg-type]
    assert normalize_orqa("“Guernica”") == "“guernica”"


def test_any_reference_will_do_and_none_is_wrong() -> None:
    assert exact_match("the Prado", ["Louvre", "Prado."])
    assert not exact_match("Prado", [])
    assert not exact_match("Prado Museum", ["Prado"])


@given(st.text(max_size=40))
def test_normalising_leaves_no_upper_case_punctuation_or_double_space(text: str) -> None:
    once = normalize_orqa(text)
    assert once == once.strip() and "  " not in once
    assert not set(once) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ABCDEFGHIJKLMNOPQRSTUVWXYZ")
