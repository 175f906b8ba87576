"""Where the answers to a question stand in a passage: the gold spans of extractive reading.

Legend: M places where an answer stands, E rows asked about, L word pieces of a body, A answers.

``pieces``: every occurrence of an answer's word pieces (Lee et al. 2019, as released). ``normalised``: of its words
after a convention's normalisation, which also finds "U.S.A." for "USA". Answers that are patterns are searched as
regular expressions, ignoring case, whatever the setting; they come from outside, so each search has a time limit.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import regex
import torch

from realm.errors import UsageError
from realm.knowledge.questions.regexes import compiled_pattern
from realm.models.backbone import pieces
from realm.types import Question, Tokens

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MATCHES = ("pieces", "normalised")
WHOLE_BODY = 1 << 20
"""More word pieces than a passage has."""
CACHED_PAIRS = 1_000_000
SCANNED_PIECES = 16
"""Of a longer answer the first so many decide whether it stands somewhere in the corpus."""
_WORD = regex.compile(r"\S+")
_NOWHERE: IntArray = np.zeros((0, 3), np.int64)


class Corpus(Protocol):
    """What matching reads of a snapshot. A row is a passage; offsets are characters of its body text."""

    def __len__(self) -> int: ...

    def text(self, row: int) -> str: ...

    def body_offsets(self, row: int) -> np.ndarray:
        """Int32[L, 2]"""
        ...

    def bodies(self, rows: torch.Tensor, max_tokens: int, with_title: bool = False) -> Tokens: ...


class AnswerMatcher:
    """Finds the answers of numbered questions in rows of a corpus."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        questions: Sequence[Question],
        *,
        match: str = "pieces",
        normalize: Callable[[str], str] = str.lower,
        pattern_seconds: float = 0.05,
    ) -> None:
        """normalize: of a text, words kept apart by spaces; used with ``normalised``.

        pattern_seconds: how long a pattern may take on a passage. One that takes longer is not tried again: it finds
        nothing from then on, and `patterns_given_up` counts it.
        UsageError for another way to match.
        """
        if match not in MATCHES:
            raise UsageError(f"found match={match!r}: expected one of {', '.join(MATCHES)}")
        self._corpus, self._questions, self._match = corpus, questions, match
        self._tokenizer, self._normalize, self._pattern_seconds = tokenizer, normalize, pattern_seconds
        self._patterns: dict[str, Any] = {}
        self._known: dict[tuple[int, int], IntArray] = {}
        self.patterns_refused = 0
        """Patterns that are no regular expressions."""
        self.patterns_given_up = 0

    def find(self, number: int, rows: IntArray) -> IntArray:
        """Int64[M, 3]: (index into `rows`, first piece, piece after the last) of each place, in order, without
        repetition. Rows below 0 hold nothing."""
        question = self._questions[number]
        if not question.answers:
            return _NOWHERE
        if self._match == "pieces" and not question.patterns:
            return self._by_pieces(self.answer_pieces[number], rows)
        found = [
            np.column_stack([np.full(len(places), at), places])
            for at, row in enumerate(rows.tolist())
            if row >= 0 and len(places := self._by_text(number, row))
        ]
        return np.concatenate(found) if found else _NOWHERE

    def holds(self, number: int, rows: IntArray) -> BoolArray:
        """Bool[E]: whether an answer stands anywhere in each row's body."""
        result = np.zeros(len(rows), bool)
        result[self.find(number, rows)[:, 0]] = True
        return result

    # ------------------------------------------------------------ by word pieces

    @cached_property
    def answer_pieces(self) -> list[list[IntArray]]:
        """Of every question's answers; without what has no word pieces, and empty for patterns."""
        flat = [(n, a) for n, q in enumerate(self._questions) if not q.patterns for a in dict.fromkeys(q.answers)]
        found: list[list[IntArray]] = [[] for _ in self._questions]
        for first in range(0, len(flat), 4096):
            part = flat[first : first + 4096]
            for (number, _), ids in zip(part, pieces(self._tokenizer, [answer for _, answer in part]), strict=True):
                if ids:
                    found[number].append(np.array(ids, np.int64))
        return found

    def _by_pieces(self, answers: Sequence[IntArray], rows: IntArray) -> IntArray:
        found = []
        for first in range(0, len(rows), 1024):  # a block of ids at a time
            part = rows[first : first + 1024]
            ids_EL = self._corpus.bodies(torch.from_numpy(np.maximum(part, -1)), WHOLE_BODY).ids.numpy()
            for answer in answers:
                width = ids_EL.shape[1] - len(answer) + 1
                if width < 1:
                    continue
                at, start = np.nonzero(ids_EL[:, :width] == answer[0])
                for offset in range(1, len(answer)):
                    same = ids_EL[at, start + offset] == answer[offset]
                    at, start = at[same], start[same]
                found.append(np.column_stack([at + first, start, start + len(answer)]))
        return np.unique(np.concatenate(found), axis=0) if found else _NOWHERE

    def stand_somewhere(self, progress: Callable[[int, int | None], None] | None = None) -> BoolArray:
        """Bool[questions]: whether any answer of a question stands in the corpus at all, by word pieces.

        One pass over the corpus for all answers. Questions with patterns count as if they did. An answer longer than
        `SCANNED_PIECES` is judged by its beginning.
        """
        where: dict[int, dict[int, list[int]]] = {}  # pieces -> hash -> questions
        for number, answers in enumerate(self.answer_pieces):
            for answer in answers:
                cut = answer[None, :SCANNED_PIECES]
                key = int(_hashes(cut, cut.shape[1])[0, 0])
                where.setdefault(cut.shape[1], {}).setdefault(key, []).append(number)
        result = np.array([question.patterns for question in self._questions], bool)
        wanted = {length: np.array(sorted(keys), np.uint64) for length, keys in where.items()}
        tables = {length: _table(keys) for length, keys in wanted.items()}
        for first in range(0, len(self._corpus), 1024):
            rows = torch.arange(first, min(first + 1024, len(self._corpus)))
            ids_EL = self._corpus.bodies(rows, WHOLE_BODY).ids.numpy()
            for length, keys in wanted.items():
                if ids_EL.shape[1] >= length:
                    hashes = _hashes(ids_EL, length).ravel()
                    hashes = np.unique(hashes[tables[length][hashes & _TABLE]])
                    for key in hashes[np.isin(hashes, keys)].tolist():
                        result[where[length][key]] = True
            if progress is not None:
                progress(int(rows[-1]) + 1, len(self._corpus))
        return result

    # ------------------------------------------------------------ by text

    def _by_text(self, number: int, row: int) -> IntArray:
        """Int64[M, 2]; remembered, because a question meets the same passages in every epoch."""
        found = self._known.get((number, row))
        if found is None:
            if len(self._known) >= CACHED_PAIRS:
                for key in list(islice(self._known, CACHED_PAIRS // 4)):
                    del self._known[key]
            question, text = self._questions[number], self._corpus.text(row)
            places = self._patterns_in(question, text) if question.patterns else self._words_in(question, text)
            found = _to_pieces(places, self._corpus.body_offsets(row))
            self._known[number, row] = found
        return found

    def _words_in(self, question: Question, text: str) -> list[tuple[int, int]]:
        """Characters of every run of words that is an answer after normalisation."""
        words, places = [], []
        for word in _WORD.finditer(text):
            for part in self._normalize(word.group()).split():
                words.append(part)
                places.append(word.span())
        found = []
        for wanted in {tuple(self._normalize(answer).split()) for answer in question.answers} - {()}:
            for first in range(len(words) - len(wanted) + 1):
                if words[first] == wanted[0] and tuple(words[first : first + len(wanted)]) == wanted:
                    found.append(_bare(text, places[first][0], places[first + len(wanted) - 1][1]))
        return found

    def _patterns_in(self, question: Question, text: str) -> list[tuple[int, int]]:
        found = []
        for answer in question.answers:
            if answer not in self._patterns:
                self._patterns[answer] = self._compile(answer)
            pattern = self._patterns[answer]
            if pattern is None:
                continue
            try:
                found += [match.span() for match in pattern.finditer(text, timeout=self._pattern_seconds)]
            except TimeoutError:
                self._patterns[answer] = None
                self.patterns_given_up += 1
        return [(start, end) for start, end in found if end > start]

    def _compile(self, pattern: str) -> Any:
        compiled = compiled_pattern(pattern)
        self.patterns_refused += compiled is None
        return compiled


def _to_pieces(places: Sequence[tuple[int, int]], offsets_L2: np.ndarray) -> IntArray:
    """Characters to the pieces that they touch."""
    if not places or not len(offsets_L2):
        return _NOWHERE[:, :2]
    start_M, end_M = np.array(places, np.int64).T
    first_M = np.searchsorted(offsets_L2[:, 1], start_M, side="right")
    last_M = np.searchsorted(offsets_L2[:, 0], end_M, side="left")
    found: IntArray = np.unique(np.column_stack([first_M, last_M])[last_M > first_M], axis=0)
    return found


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the punctuation around: what normalisation deletes is no part of an answer."""
    while end - start > 1 and unicodedata.category(text[start])[0] == "P":
        start += 1
    while end - start > 1 and unicodedata.category(text[end - 1])[0] == "P":
        end -= 1
    return start, end


_TABLE = np.uint64((1 << 20) - 1)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _hashes(ids_EL: IntArray, length: int) -> npt.NDArray[np.uint64]:
    """Of every run of `length` ids, UInt64[E, L - length + 1]: a polynomial modulo 2 to the 64th, its bits mixed."""
    width = ids_EL.shape[1] - length + 1
    result = np.zeros((len(ids_EL), width), np.uint64)
    for offset in range(length):
        result = (result + ids_EL[:, offset : offset + width].astype(np.uint64) + np.uint64(1)) * _FACTOR
        result ^= result >> np.uint64(29)
    return result


def _table(keys: npt.NDArray[np.uint64]) -> BoolArray:
    """By the last bits of a hash: could it be one of the keys? Answers almost every question with a single look."""
    table = np.zeros(int(_TABLE) + 1, bool)
    table[keys & _TABLE] = True
    return table
