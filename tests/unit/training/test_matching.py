"""Where answers stand: every place by word pieces, by normalised words, or by a pattern that can't hang."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import UsageError
from realm.evaluation.answers import normalize_orqa
from realm.training.matching import AnswerMatcher
from realm.types import Question, Tokens

WORDS = ("pablo", "picasso", "paris", "han", "19", "1937", ".")


class Texts:
    """Passages in memory, as a snapshot tells them."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        made = tokenizer(self.texts, add_special_tokens=False, return_offsets_mapping=True)
        self.ids, self.offsets = made["input_ids"], made["offset_mapping"]
        self.read = 0

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, row: int) -> str:
        self.read += 1
        return self.texts[row]

    def body_offsets(self, row: int) -> np.ndarray:
        return np.array(self.offsets[row], np.int32).reshape(-1, 2)

    def bodies(self, rows: torch.Tensor, max_tokens: int, with_title: bool = False) -> Tokens:
        found = [[] if row < 0 else self.ids[row][:max_tokens] for row in rows.tolist()]
        ids = torch.zeros(len(found), max(map(len, found), default=0), dtype=torch.long)
        for index, row in enumerate(found):
            ids[index, : len(row)] = torch.tensor(row)
        return Tokens(ids, torch.ones_like(ids), torch.tensor([len(row) for row in found]))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


def asked(*answers: str, patterns: bool = False) -> Question:
    return Question("q", "what ?", answers, patterns=patterns)


def places(matcher: AnswerMatcher, number: int, rows: Sequence[int]) -> list[list[int]]:
    found: list[list[int]] = matcher.find(number, np.array(rows, np.int64)).tolist()
    return found


TEXT = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
ANSWERS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=3)


@given(st.lists(TEXT, min_size=1, max_size=5), ANSWERS)
def test_pieces_finds_every_place(texts: list[str], answers: list[str]) -> None:
    tokenizer = tiny.tiny_tokenizer()
    corpus = Texts(tokenizer, texts)
    matcher = AnswerMatcher(corpus, tokenizer, [asked(*answers)])
    wanted = {tuple(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers}
    expected = sorted(
        [row, start, start + len(pieces)]
        for row, ids in enumerate(corpus.ids)
        for pieces in wanted
        for start in range(len(ids))
        if tuple(ids[start : start + len(pieces)]) == pieces
    )
    rows = [-1, *range(len(texts))]
    assert places(matcher, 0, rows) == [[row + 1, start, end] for row, start, end in expected]
    assert matcher.holds(0, np.array(rows)).tolist() == [
        False,
        *(any(r == n for r, _, _ in expected) for n in range(len(texts))),
    ]
    assert matcher.stand_somewhere().tolist() == [bool(expected)]


@given(st.lists(TEXT, min_size=1, max_size=4), ANSWERS)
def test_normalised_words_find_what_pieces_find_of_plain_words(texts: list[str], answers: list[str]) -> None:
    tokenizer = tiny.tiny_tokenizer()
    corpus = Texts(tokenizer, texts)
    plain = [answer for answer in answers if "." not in answer.split()] or ["han"]
    by_pieces = AnswerMatcher(corpus, tokenizer, [asked(*plain)])
    by_words = AnswerMatcher(corpus, tokenizer, [asked(*plain)], match="normalised", normalize=normalize_orqa)
    found, rows = places(by_words, 0, range(len(texts))), range(len(texts))
    # A sign between two words is deleted by normalisation, so words may find more, and never less.
    assert all(place in found for place in places(by_pieces, 0, rows))
    for row, start, end in found:
        first, last = corpus.offsets[row][start][0], corpus.offsets[row][end - 1][1]
        assert normalize_orqa(texts[row][first:last]) in {normalize_orqa(answer) for answer in plain}


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("It was the U.S.A., they said.", "USA", "U.S.A"),
        ("In (Paris) and PARIS's", "paris", "Paris"),
        ("by The Guernica, of course", "guernica", "Guernica"),
        ("by Pablo the Picasso .", "Pablo Picasso", "Pablo the Picasso"),
    ],
)
def test_normalisation_sees_through_signs_and_articles(tokenizer: Any, text: str, answer: str, found: str) -> None:
    corpus = Texts(tokenizer, [text])
    matcher = AnswerMatcher(corpus, tokenizer, [asked(answer)], match="normalised", normalize=normalize_orqa)
    (_, start, end) = places(matcher, 0, [0])[0]
    offsets = corpus.offsets[0]
    assert text[offsets[start][0] : offsets[end - 1][1]] == found


def test_patterns_ignore_case_and_touch_whole_pieces(tokenizer: Any) -> None:
    corpus = Texts(tokenizer, ["Guernica was painted in 1937 by PABLO Picasso .", "nothing"])
    matcher = AnswerMatcher(corpus, tokenizer, [asked(r"19\d\d", r"pablo\s+\w+", patterns=True)])
    texts = []
    for row, start, end in places(matcher, 0, [1, 0]):
        assert row == 1
        offsets = corpus.offsets[0]
        texts.append(corpus.texts[0][offsets[start][0] : offsets[end - 1][1]])
    assert texts == ["1937", "PABLO Picasso"]


def test_a_pattern_from_outside_neither_hangs_nor_breaks(tokenizer: Any) -> None:
    corpus = Texts(tokenizer, ["a" * 3000 + "!"] * 20)
    questions = [asked(r"(a+)+$", "(", patterns=True), asked("19", patterns=True)]
    matcher = AnswerMatcher(corpus, tokenizer, questions, pattern_seconds=0.02)
    started = time.process_time()
    assert places(matcher, 0, range(20)) == [] and places(matcher, 1, range(20)) == []
    assert matcher.patterns_given_up == 1 and matcher.patterns_refused == 1
    assert time.process_time() - started < 2, "given up once, not for every passage"


def test_what_was_found_in_a_text_is_remembered(tokenizer: Any) -> None:
    corpus = Texts(tokenizer, ["in paris", "in seoul"])
    matcher = AnswerMatcher(corpus, tokenizer, [asked("paris")], match="normalised", normalize=normalize_orqa)
    first = places(matcher, 0, [0, 1, 0])
    read = corpus.read
    assert places(matcher, 0, [0, 1, 0]) == first == [[0, 1, 2], [2, 1, 2]]
    assert corpus.read == read == 2


def test_answers_without_a_letter_find_nothing(tokenizer: Any) -> None:
    corpus = Texts(tokenizer, ["in paris .", ""])
    for match in ("pieces", "normalised"):
        options = {"match": match, "normalize": normalize_orqa}
        matcher = AnswerMatcher(corpus, tokenizer, [asked(), asked("", " ")], **options)
        assert places(matcher, 0, [0, 1]) == [] and places(matcher, 1, [0, 1]) == []
    assert AnswerMatcher(corpus, tokenizer, [asked()]).stand_somewhere().tolist() == [False]


def test_another_way_to_match_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="expected one of pieces, normalised"):
        AnswerMatcher(Texts(tokenizer, ["han"]), tokenizer, [], match="fuzzy")
