"""BM25 as a retriever: words of any script, exclusion, and what has no words at all."""

from __future__ import annotations

import random
import re
from functools import partial
from pathlib import Path

import bm25s
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.search.postings import Bm25
from realm.search.terms import TOKEN_PATTERN, terms_of
from realm.types import NO_ROW

PASSAGES = [
    ("Guernica", "painted by Pablo Picasso"),
    ("Picasso", "a painter from Málaga who painted and painted"),
    ("", "서울은 대한민국의 수도이다"),
    ("", "東京は日本の首都である"),
    ("", "القاهرة عاصمة مصر"),
    ("Face", "a 😀 face"),
    ("", ""),
]


@pytest.fixture(scope="module")
def bm25() -> Bm25:
    return Bm25.build(PASSAGES, facts={"snapshot": "snap"})


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("who painted GUERNICA?", [0, 1]),
        ("Málaga", [1]),
        ("대한민국의", [2]),
        ("首都", [3]),
        ("عاصمة", [4]),
        ("😀", [5]),
        ("", []),
        ("   \n", []),
        ("the of and", []),
        ("zebra", []),
        ("!?.", []),
        ("\x00", []),
        ("\ud800", []),
        ("picasso " * 10_000, [1, 0]),
    ],
)
def test_finds_words_of_any_script(bm25: Bm25, query: str, rows: list[int]) -> None:
    hits = bm25([query], 4)
    assert sorted(hits.rows[0].tolist(), reverse=True) == sorted([*rows, *[NO_ROW] * (4 - len(rows))], reverse=True)
    assert torch.equal(hits.rows == NO_ROW, hits.scores == float("-inf"))
    assert hits.scores[0].tolist() == sorted(hits.scores[0].tolist(), reverse=True)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Picasso's café, 1937", ["Picasso", "s", "café", "1937"]),
        ("cafe\u0301", ["cafe\u0301"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京2020カメラ", ["東", "京", "2020", "カ", "メ", "ラ"]),
        ("snake_case", ["snake_case"]),
        ("👍👍 ok", ["👍", "👍", "ok"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert re.findall(TOKEN_PATTERN, text) == terms


LATIN = "".join(map(chr, [*range(0x250), *range(0x2010, 0x2028), *range(0x2030, 0x205F), 0x20AC]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from(LATIN) | st.characters(), max_size=30), max_size=5))
@example([f"a{sign}b" for sign in LATIN])  # every sign that is split without Python's help
@example([LATIN, "the cat of the house", "İstanbul ſ", "\ud800 x", "東京2020 café", ""])
def test_terms_are_what_the_pattern_finds(texts: list[str]) -> None:
    terms = terms_of(texts, stopwords=["the", "b"])
    words = list(terms.vocab)
    found: list[list[str]] = [[] for _ in texts]
    for row, word in zip(terms.row_T.tolist(), terms.id_T.tolist(), strict=True):
        found[row].append(words[word])
    assert found == [[w for w in re.findall(TOKEN_PATTERN, t.lower()) if w not in ("the", "b")] for t in texts]
    assert terms.rows == len(texts) and list(terms.vocab.values()) == list(range(len(words)))


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 0.0)])
def test_scores_are_those_that_the_library_counts(k1: float, b: float) -> None:
    words = ["a", "painter", "painted", "the", "river", "Han", "in", "Málaga", "東京", "1937"]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=draw.randrange(12))) for _ in range(300)]
    tokenise = partial(bm25s.tokenize, token_pattern=TOKEN_PATTERN, stopwords="en", show_progress=False)
    engine = bm25s.BM25(k1=k1, b=b, method="lucene")
    engine.index(tokenise(texts), show_progress=False)
    ours = Bm25.build((("", text) for text in texts), k1=k1, b=b)
    for query in ("painter", "river Han", "東京 1937 painted painted"):
        expected = torch.from_numpy(engine.get_scores(tokenise(query, return_ids=False)[0])).float()
        torch.testing.assert_close(ours.score([query], torch.arange(300)[None])[0], expected, rtol=1e-5, atol=1e-6)


def test_a_pattern_that_matches_nothing_finds_words_all_the_same() -> None:
    found = Bm25.build([("", "river han"), ("", "picasso")], token_pattern=r"\w*", stopwords=None)
    assert found(["picasso"], 1).rows.tolist() == [[1]]


def test_excluded_and_filtered_rows(bm25: Bm25) -> None:
    queries = ["painted", "painted"]
    assert bm25(queries, 2, exclude=torch.tensor([[1, NO_ROW], [NO_ROW, NO_ROW]])).rows.tolist() == [
        [0, NO_ROW],
        [1, 0],
    ]
    allowed = torch.zeros(len(PASSAGES), dtype=torch.bool)
    allowed[0] = True
    assert bm25(queries, 2, allowed=allowed).rows.tolist() == [[0, NO_ROW]] * 2


def test_the_scores_of_given_rows_are_those_of_the_search(bm25: Bm25) -> None:
    queries = ["who painted GUERNICA?", "", "face"]
    hits = bm25(queries, 3)
    score_BE = bm25.score(queries, hits.rows)
    torch.testing.assert_close(score_BE, hits.scores)
    assert bm25.score(queries[:1], torch.tensor([[5, NO_ROW]])).tolist() == [[0.0, -torch.inf]]
    with pytest.raises(UsageError, match=r"expected \[3, rows\]"):
        bm25.score(queries, hits.rows[:2])


def test_equal_scores_give_the_lower_row_first() -> None:
    hits = Bm25.build([("", "same words")] * 200)(["words"], 5)
    assert hits.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_k_beyond_the_rows_is_padded(bm25: Bm25) -> None:
    hits = bm25(["painted"], 50)
    assert hits.rows.shape == (1, 50)
    assert (hits.rows != NO_ROW).sum() == 2


def test_saved_and_opened_is_the_same(bm25: Bm25, tmp_path: Path) -> None:
    bm25.save(tmp_path / "bm25")
    again = Bm25.open(tmp_path / "bm25", snapshot="snap")
    queries = ["who painted guernica", "首都", ""]
    assert len(again) == len(PASSAGES)
    for one, two in zip(again(queries, 5), bm25(queries, 5), strict=True):
        assert torch.equal(one, two)


def test_settings_are_kept(tmp_path: Path) -> None:
    Bm25.build(PASSAGES, stopwords=["painted"], k1=2.0, b=0.1).save(tmp_path / "a")
    Bm25.build(PASSAGES, stopwords=None, k1=0.5, b=0.9).save(tmp_path / "b")
    assert (Bm25.open(tmp_path / "a")(["painted"], 1).rows == NO_ROW).all()
    assert Bm25.open(tmp_path / "b")(["by"], 1).rows.tolist() == [[0]]


@pytest.mark.parametrize("passages", [[], [("", "")], [("", "the of and")]])
def test_nothing_to_index_is_no_error(passages: list[tuple[str, str]], tmp_path: Path) -> None:
    Bm25.build(passages).save(tmp_path / "bm25")
    again = Bm25.open(tmp_path / "bm25")
    assert len(again) == len(passages)
    assert again(["word", ""], 2).rows.tolist() == [[NO_ROW, NO_ROW]] * 2
    assert again([], 2).rows.shape == (0, 2)


def test_another_snapshot_and_damage_are_errors(bm25: Bm25, tmp_path: Path) -> None:
    bm25.save(tmp_path / "bm25")
    with pytest.raises(MismatchError, match=r"snap.*other"):
        Bm25.open(tmp_path / "bm25", snapshot="other")
    for name in ("data.csc.index.npy", "vocab.index.json"):
        bm25.save(tmp_path / "bm25")
        path = tmp_path / "bm25" / "bm25s" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ArtefactError, match="damaged"):
            Bm25.open(tmp_path / "bm25")


def test_impossible_wishes_are_refused(bm25: Bm25) -> None:
    with pytest.raises(UsageError, match="k is 0"):
        bm25(["word"], 0)
    with pytest.raises(UsageError, match="klingon"):
        Bm25.build(PASSAGES, stopwords="klingon")
    with pytest.raises(UsageError, match=r"b is 1\.5"):
        Bm25.build(PASSAGES, b=1.5)
    with pytest.raises(UsageError, match="another snapshot"):
        bm25(["word"], 1, exclude=torch.tensor([[len(PASSAGES)]]))
