"""Exact match under its named conventions."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realm.errors import UsageError
from realm.evaluation.answers import Convention, accuracy, exact_match, normalize_orqa, normalize_squad, token_f1
from realm.types import Question


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


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("the Eiffel Tower", ["Eiffel Tower"], 1.0),
        ("Eiffel Tower in Paris", ["Eiffel Tower"], 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("a b b", ["b b b"], 0.8),  # "a" is an article; repetition counts
        ("London", ["Paris", "New London"], 2 / 3),
        ("the", ["a"], 1.0),  # nothing left on either side
        ("the", ["x"], 0.0),
        ("x", [], 0.0),
    ],
)
def test_token_f1(prediction: str, references: list[str], expected: float) -> None:
    assert token_f1(prediction, references) == pytest.approx(expected)


@given(st.text("ab the,", max_size=20), st.lists(st.text("ab the,", max_size=20), max_size=3))
def test_f1_is_one_where_the_match_is_exact_and_grows_with_references(prediction: str, references: list[str]) -> None:
    assume(prediction.strip())  # no text is no answer: below
    score = token_f1(prediction, references)
    assert 0 <= score <= 1
    assert not exact_match(prediction, references, "squad") or score == 1
    assert token_f1(prediction, [*references, prediction]) == 1


def test_accuracy_is_over_the_references() -> None:
    questions = [
        Question("1", "who?", ("Ada",)),
        Question("2", "when?", ("18[0-9]{2}",), patterns=True),
        Question("3", "where?", ("Paris",)),
        Question("4", "who?", ("Bob",)),  # the same text: the last one counts, as in the released evaluation
    ]
    assert accuracy({"who?": "bob.", "when?": "1815, in May", "other": "x"}, questions) == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match="no questions"):
        accuracy({}, [])


@pytest.mark.parametrize("convention", ["orqa", "squad"])
def test_no_text_is_never_right(convention: Convention) -> None:
    assert exact_match(".", ["."], convention) and token_f1(".", ["."], convention) == 1
    assert not exact_match("", ["."], convention) and token_f1(" ", [".", ""], convention) == 0
