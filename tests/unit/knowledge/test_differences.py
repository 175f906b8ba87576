"""Differences of two texts: exact whatever the texts are, and such that a person sees what was changed."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.knowledge.differences import Piece, differences

WORDS = st.lists(
    st.sampled_from(["red", "blue", "the", " ", " ", "\n", "\n\n", ".", "青", "空", "é", "👩‍👩‍👧", "\0"])
).map("".join)


def check(old: str, new: str) -> list[Piece]:
    pieces = differences(old, new)
    assert "".join(text for kind, text in pieces if kind != "added") == old
    assert "".join(text for kind, text in pieces if kind != "removed") == new
    assert all(text for _, text in pieces)
    kinds = [kind for kind, _ in pieces]
    assert all(a != b and (a, b) != ("added", "removed") for a, b in pairwise(kinds))
    return pieces


def marked(old: str, new: str) -> str:
    form = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    return "".join(form[kind].format(text) for kind, text in check(old, new))


@given(WORDS, WORDS)
def test_both_texts_are_in_the_pieces(old: str, new: str) -> None:
    check(old, new)


@given(st.text(), st.text(), st.text())
def test_what_surrounds_a_change_is_the_same(before: str, inside: str, after: str) -> None:
    pieces = check(f"{before} \n{after}", f"{before} \n{inside} \n{after}")
    assert sum(len(text) for kind, text in pieces if kind == "removed") == 0 or inside == ""


@given(WORDS)
def test_equal_texts_have_one_piece(text: str) -> None:
    assert check(text, text) == ([Piece("same", text)] if text else [])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", ""),
        ("", "a b", "{+a b+}"),
        ("a b", "", "[-a b-]"),
        ("painted by Leonardo da Vinci.", "painted by Botticelli.", "painted by [-Leonardo da Vinci-]{+Botticelli+}."),
        ("the cat and the dog", "the cat or the dog", "the cat [-and-]{+or+} the dog"),
        ("one two three", "one three", "one [-two -]three"),
        ("one\n\ntwo\n\nthree", "one\n\nthree\n\nfour", "one\n\n[-two\n\n-]three{+\n\nfour+}"),
        ("서울은 한국의 수도이다", "부산은 한국의 항구이다", "[-서울은-]{+부산은+} 한국의 [-수도이다-]{+항구이다+}"),
        ("東京は首都です", "京都は首都です", "[-東-]京{+都+}は首都です"),
        ("The Seine, in Paris.\nIt is long.", "The Han, in Seoul.\nIt is long.",
         "The [-Seine-]{+Han+}, in [-Paris-]{+Seoul+}.\nIt is long."),
    ],
)  # fmt: skip
def test_a_change_is_shown_as_a_person_would(old: str, new: str, expected: str) -> None:
    assert marked(old, new) == expected


def test_a_name_that_changes_everywhere_leaves_the_rest_the_same() -> None:
    old = "\n".join(f"In {1900 + n} Picasso painted number {n}, and Picasso sold it." for n in range(60))
    pieces = check(old, old.replace("Picasso", "Joan Miró"))
    assert {text for kind, text in pieces if kind == "removed"} == {"Picasso"}
    assert {text for kind, text in pieces if kind == "added"} == {"Joan Miró"}


def long_texts() -> dict[str, tuple[str, str]]:
    draw = random.Random(0)
    words = [f"w{int(draw.paretovariate(0.6)) % 5_000}" for _ in range(40_000)]
    some, half = list(words), list(words)
    some[::50] = ["new"] * len(some[::50])
    half[::2] = [word.upper() for word in half[::2]]
    shuffled = draw.sample(words, len(words))
    return {
        "some words": (" ".join(words), " ".join(some)),
        "every second word": (" ".join(words), " ".join(half)),
        "another order": (" ".join(words), " ".join(shuffled)),
        "lines that are all the same": ("a\n" * 100_000, "b\n" + "a\n" * 50_000 + "c\n" + "a\n" * 49_000),
        "a few words again and again": ("a b " * 50_000, "b a c " * 33_000),
        "one word": ("a" * 200_000, "a" * 199_999 + "b"),
    }


@pytest.mark.parametrize("what", long_texts())
def test_long_texts_are_compared_in_bounded_time(what: str) -> None:
    pieces = check(*long_texts()[what])  # without the bound on difflib's work some of them would take hours
    if what == "some words":
        assert sum(len(text) for kind, text in pieces if kind == "removed") < 10_000
