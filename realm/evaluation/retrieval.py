"""Did the right text come first? Containment, gold ids, recall@k, reciprocal rank, and the interval of a difference.

Legend: P questions, K hits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import regex

from realm.errors import UsageError
from realm.evaluation.patterns import PatternMatcher
from realm.types import NO_ROW, Hits, Question

IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]

NOT_FOUND = np.iinfo(np.int64).max
"""Rank of an answer that stands in no hit."""

# Scripts that put no space between words: each letter is a token, so that a boundary is everywhere.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_TOKEN = regex.compile(
    rf"[{_UNSPACED}]\p{{M}}*"
    rf"|[\p{{L}}\p{{M}}\p{{N}}--[{_UNSPACED}]]+"
    r"|[\p{S}#%&@]",
    regex.VERSION1,
)
_ASCII_TOKEN = re.compile(r"[a-z0-9]+|[$+<=>^`|~#%&@]")
"""The same for folded ASCII, by the faster engine."""
_HANGUL_END = regex.compile(r"\p{Hangul}$")
# Korean writes particles on to the noun. A closed class; up to three in a row (에서부터는).
_PARTICLES = (
    "(?:은|는|이|가|을|를|의|에|에서|에게|에게서|께|께서|한테|와|과|랑|이랑|하고|도|로|으로|만|까지|부터|보다|처럼|같이|"
    "마다|밖에|조차|마저|이나|나|이라|라|이라는|라는|이라고|라고|이란|란|이며|며|이고|고|이다|다|인|였다|이었다|였던|이었던|들){0,3}"
)


def answer_in_text(answer: str, text: str) -> bool:
    """Whether `answer` stands in `text` as whole tokens, whatever the case, width and punctuation.

    Both sides are brought to NFKC and case-folded and cut into tokens: runs of letters, digits and marks; single
    letters in scripts that write no spaces (Chinese, Japanese, Thai and others); single symbols, so that "C++" is
    not "C" and "5%" not "5". Other punctuation only separates: "St. Louis" stands in "st louis", "Lennon" in
    "Lennon's". A Korean answer may be followed by particles. Accents count: "Beyonce" does not stand in "Beyoncé".
    An answer without a token stands nowhere.

    The released REALM tests for the raw substring, so its recall is not comparable to this one.
    """
    return _Text(text).holds(answer_tokens(answer))


def answer_tokens(text: str) -> list[str]:
    """What `answer_in_text` compares, for an index of texts: an answer's tokens all stand in a text that holds it,
    but that a token in Hangul may be followed there by particles."""
    return _tokens(_fold(text))


class _Text:
    """A text that several answers are looked for in: folded once, cut into tokens only when one may stand in it."""

    def __init__(self, text: str) -> None:
        self._folded = _fold(text)
        self._joined: str | None = None

    def holds(self, wanted: Sequence[str]) -> bool:
        if not wanted or any(token not in self._folded for token in wanted):  # the cheap test first
            return False
        if self._joined is None:
            self._joined = f" {' '.join(_tokens(self._folded))} "
        needle = f" {' '.join(wanted)}"
        if f"{needle} " in self._joined:
            return True
        if not _HANGUL_END.search(needle) or needle not in self._joined:
            return False
        return regex.search(f"{regex.escape(needle)}{_PARTICLES} ", self._joined) is not None


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _tokens(folded: str) -> list[str]:
    return list((_ASCII_TOKEN if folded.isascii() else _TOKEN).findall(folded))


def answer_ranks(hits: Hits, answers: Sequence[Sequence[str]], text_of: Callable[[int], str]) -> IntArray:
    """Rank (from 0) of the first hit whose text holds any of the question's answers, Int64[P]; NOT_FOUND if none.

    hits: rows Long[P, K]. text_of: the text of a row, asked for at most once a row in each question.
    """
    if len(answers) != len(hits.rows):
        raise UsageError(f"found {len(answers)} lists of answers for {len(hits.rows)} questions: expected as many")
    ranks = np.full(len(answers), NOT_FOUND, np.int64)
    for p, (rows, accepted) in enumerate(zip(hits.rows.tolist(), answers, strict=True)):
        for rank, row in enumerate(rows):
            if row == NO_ROW:
                continue
            text = text_of(row)
            if any(answer_in_text(answer, text) for answer in accepted):
                ranks[p] = rank
                break
    return ranks


def string_rank(question: Question, texts: Iterable[str], matcher: PatternMatcher) -> int:
    """Rank (from 0) of the first text that holds an answer: as whole tokens, or by search where answers are patterns;
    NOT_FOUND if none does. Texts after that one are not asked for."""
    wanted = [] if question.patterns else [answer_tokens(answer) for answer in question.answers]
    for rank, text in enumerate(texts):
        if question.patterns:
            if matcher.stands_in(text, question.answers):
                return rank
        elif wanted:
            judged = _Text(text)
            if any(judged.holds(tokens) for tokens in wanted):
                return rank
    return NOT_FOUND


def holds_answer(question: Question, text: str, matcher: PatternMatcher) -> bool:
    """Whether a text holds an answer to the question."""
    return string_rank(question, (text,), matcher) == 0


def gold_rank(question: Question, names: Iterable[Collection[str]]) -> int:
    """Rank (from 0) of the first hit that the question's set calls gold; NOT_FOUND if there is none.

    names: the ids of each hit, of its passage and of its document: a set names one or the other.
    """
    gold = set(question.gold)
    return next((rank for rank, ids in enumerate(names) if gold.intersection(ids)), NOT_FOUND)


def recall_at(ranks: IntArray, k: int) -> float:
    """Share of the questions whose answer stands in one of the first k hits."""
    return float((_some(ranks) < k).mean())


def mean_reciprocal_rank(ranks: IntArray, k: int | None = None) -> float:
    """Mean of 1 / (rank + 1), 0 where there is none (within the first k, if given)."""
    found = _some(ranks) < (NOT_FOUND if k is None else k)
    return float(np.where(found, 1.0 / (np.where(found, ranks, 0) + 1.0), 0.0).mean())


class Interval(NamedTuple):
    """A mean difference and the range that holds it with the stated confidence."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    before: FloatArray,
    after: FloatArray,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    groups: Sequence[str] | None = None,
) -> Interval:
    """Percentile bootstrap of mean(after - before), the same questions on both sides (Efron & Tibshirani 1993).

    before, after: Float or Bool[P], one figure a question, in the same order. The questions are drawn again with
    replacement `samples` times; a question keeps its pair, so that what is hard for both does not widen the range.

    groups: the document of each question. Then whole documents are drawn: questions of one document tend to succeed
    and fail together, and counting them as independent would make the range too narrow.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape or before.ndim != 1:
        raise UsageError(
            f"found figures of shapes {before.shape} and {after.shape}: expected the same questions on both sides"
        )
    difference = _some(after - before)
    labels = np.arange(len(difference)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    size = np.bincount(labels)
    total = np.bincount(labels, weights=difference)
    random = np.random.default_rng(seed)
    block = max(1, 1_000_000 // len(total))  # so many samples at a time keep memory below some megabytes
    means = []
    for start in range(0, samples, block):
        drawn = random.integers(0, len(total), (min(block, samples - start), len(total)))
        means.append(total[drawn].sum(axis=1) / size[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))


def _some(values: Any) -> Any:
    if len(values) == 0:
        raise UsageError("found no questions: expected at least one to judge")
    return values
