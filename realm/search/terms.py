"""Texts to terms: which words of which vocabulary stand in each, in any script.

Legend: T terms, N texts, V words of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# Scripts without spaces between words: each Han or kana character is a term. So is each emoji. All else: runs of
# letters and digits with their combining marks (the vowel signs of Arabic, Hindi and others are no `\w`).
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_EMOJI = "\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"
_MARKS = (  # Latin and Greek accents, Hebrew, Arabic, Devanagari, Thai
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
)
TOKEN_PATTERN = rf"[{_ALONE}]|[{_EMOJI}]|[^\W{_ALONE}](?:[^\W{_ALONE}]|[{_MARKS}])*"

# Latin letters and typographic signs: none of the above is among them, so words are what stands between other signs,
# and a library that splits many texts at once knows the same letters.
_BEYOND_LATIN = re.compile("[^\x00-\u024f\u2010-\u2027\u2030-\u205e\u20ac]")
_BETWEEN = r"[^\p{L}\p{N}_]+"
TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Terms:
    """The terms of N texts."""

    id_T: npt.NDArray[np.int32]
    row_T: npt.NDArray[np.int32]
    """Which text a term stands in."""
    vocab: dict[str, int]
    """V words, each with its id."""
    rows: int
    """N"""


def terms_of(texts: Iterable[str], *, token_pattern: str = TOKEN_PATTERN, stopwords: Iterable[str] = ()) -> Terms:
    """Lower-case words of every text, without stop words; the texts are read once.

    token_pattern: a regular expression that matches a word. What Python's `re` finds for it.
    """
    find = re.compile(token_pattern).findall
    dropped, vocab = frozenset(stopwords), dict[str, int]()
    ids, rows, count = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for part, place_N, words_N in _split(texts, token_pattern == TOKEN_PATTERN):
        if len(place_N):
            word_T = words_N.flatten().dictionary_encode()
            known = [
                vocab.setdefault(word, len(vocab)) if word and word not in dropped else -1
                for word in word_T.dictionary.to_pylist()
            ]
            id_T = np.array(known, np.int32)[np.asarray(word_T.indices)]
            row_T = np.repeat((place_N + count).astype(np.int32), np.asarray(pc.list_value_length(words_N)))
            ids.append(id_T[id_T >= 0])
            rows.append(row_T[id_T >= 0])
        for n in np.setdiff1d(np.arange(len(part)), place_N).tolist():
            found = [vocab.setdefault(word, len(vocab)) for word in find(part[n]) if word not in dropped]
            ids.append(np.array(found, np.int32))
            rows.append(np.full(len(found), count + n, np.int32))
        count += len(part)
    return Terms(np.concatenate(ids), np.concatenate(rows), vocab, count)


def _split(texts: Iterable[str], latin: bool) -> Iterator[tuple[list[str], npt.NDArray[np.int64], pa.ListArray]]:
    """(lower-case texts, which of them are Latin, what stands between those's other signs), some thousand at a time.

    Splitting works outside Python's lock: the next texts are split while these are looked up.
    """
    waiting: tuple[list[str], npt.NDArray[np.int64], Future[pa.ListArray]] | None = None
    left = iter(texts)
    with ThreadPoolExecutor(1) as pool:
        while part := [text.lower() for text in islice(left, TEXTS_AT_ONCE)]:
            place_N = np.flatnonzero([latin and not _BEYOND_LATIN.search(text) for text in part])
            plain = pa.array([part[n] for n in place_N], pa.string())
            started = pool.submit(pc.split_pattern_regex, plain, _BETWEEN)
            if waiting is not None:
                yield *waiting[:2], waiting[2].result()
            waiting = part, place_N, started
        if waiting is not None:
            yield *waiting[:2], waiting[2].result()
