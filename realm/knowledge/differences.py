"""What an edit did to a text, word by word.

Paragraphs are compared first, then the words of what changed between equal ones. Of each, what begins and ends alike is
set aside, then pieces that occur once on both sides are matched in the longest order they share (patience diff, B.
Cohen), and difflib compares what lies between them. difflib may take the square of a text's length and more, so it has
a bound on its work: where that is used up, a stretch counts as replaced. 200,000 characters take a second or two.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal, NamedTuple

Kind = Literal["same", "removed", "added"]

_PARAGRAPH = re.compile(r".*?\n\s*|.+", re.DOTALL)
_MARKS = re.escape(
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00a1\u00bf\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u3001\u3002"
)
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef"  # written without spaces: a character is a word
_WORD = re.compile(rf"\s+|[{_MARKS}{_IDEOGRAPH}]|[^\s{_MARKS}{_IDEOGRAPH}]+")
_WORK = 30_000_000
"""Steps that difflib may take for one pair of texts, at the very worst, which it is far from on texts that people
write: some seconds."""
_DEPTH = 50
"""How often what lies between two matches is searched for what occurs once there."""


class Piece(NamedTuple):
    """A stretch of text. The same and removed ones in order are the old text, the same and added ones the new."""

    kind: Kind
    text: str


def enough_work() -> list[int]:
    """The steps that are left to difflib, which every comparison takes from."""
    return [_WORK]


def differences(old: str, new: str, work: list[int] | None = None) -> list[Piece]:
    """The pieces in order; of what was replaced the removed text first. Neighbours differ in kind, none is empty.

    work: what `enough_work` gave, shared by several pairs of texts: all of them together take no longer than one may.
    """
    work = enough_work() if work is None else work
    pieces: list[Piece] = []
    for a, b, same in _compared(_PARAGRAPH.findall(old), _PARAGRAPH.findall(new), work):
        if same:
            pieces.append(Piece("same", "".join(a)))
            continue
        words = _compared(_WORD.findall("".join(a)), _WORD.findall("".join(b)), work)
        for removed, added, alike in words:
            if alike:
                pieces.append(Piece("same", "".join(removed)))
            else:
                pieces += [Piece("removed", "".join(removed)), Piece("added", "".join(added))]
    return _tidied(pieces)


def _compared(
    old: Sequence[str], new: Sequence[str], work: list[int], depth: int = 0
) -> Iterator[tuple[Sequence[str], Sequence[str], bool]]:
    """Stretches of both, in order, and whether they are equal."""
    before, after = 0, 0
    shortest = min(len(old), len(new))
    while before < shortest and old[before] == new[before]:
        before += 1
    while after < shortest - before and old[-1 - after] == new[-1 - after]:
        after += 1
    yield old[:before], new[:before], True
    a, b = old[before : len(old) - after], new[before : len(new) - after]
    anchors, at_a, at_b = _anchors(a, b) if depth < _DEPTH else [], 0, 0
    for end_a, end_b in [*anchors, (len(a), len(b))]:
        between = a[at_a:end_a], b[at_b:end_b]
        yield from _compared(*between, work, depth + 1) if anchors else _between(*between, work)
        yield a[end_a : end_a + 1], b[end_b : end_b + 1], True
        at_a, at_b = end_a + 1, end_b + 1
    yield old[len(old) - after :], new[len(new) - after :], True


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Places of what occurs once in both and is no white space, the longest series that rises on both sides."""
    once = Counter(old)
    place_in_new = {piece: place for place, piece in enumerate(new)}
    unique = {piece for piece, count in Counter(new).items() if count == 1 == once[piece] and not piece.isspace()}
    pairs = [(place, place_in_new[piece]) for place, piece in enumerate(old) if piece in unique]
    # Longest increasing subsequence: `ends[n]` is the smallest end of a series of n + 1, `last[n]` its pair.
    ends: list[int] = []
    last: list[int] = []
    before: list[int] = []
    for number, (_, place) in enumerate(pairs):
        length = bisect_left(ends, place)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1], last[length : length + 1] = [place], [number]
    series, number = [], last[-1] if last else -1
    while number >= 0:
        series.append(pairs[number])
        number = before[number]
    return series[::-1]


def _between(
    old: Sequence[str], new: Sequence[str], work: list[int]
) -> Iterator[tuple[Sequence[str], Sequence[str], bool]]:
    """difflib, where it can be afforded. It never begins at white space, which would align unrelated words."""
    in_new = Counter(piece for piece in new if not piece.isspace())
    pairs = sum(in_new[piece] for piece in old)
    cost = min(len(old), len(new)) * (len(old) + pairs)  # at worst a match of one piece at each of its steps
    if not pairs or cost > work[0]:
        yield old, new, False
        return
    work[0] -= cost
    for tag, a, a_end, b, b_end in SequenceMatcher(str.isspace, old, new, autojunk=False).get_opcodes():
        yield old[a:a_end], new[b:b_end], tag == "equal"


def _tidied(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours of a kind joined. White space alone between two changes belongs to both, so that a phrase that was
    replaced is shown as one."""
    sides: tuple[Kind, ...] = ("removed", "added")
    alike: tuple[Kind, ...] = ("same",)
    runs: list[list[str]] = []  # [same] or [removed, added], in turns
    for changed, group in groupby((piece for piece in pieces if piece.text), lambda piece: piece.kind != "same"):
        run = list(group)
        kinds = sides if changed else alike
        texts = ["".join(piece.text for piece in run if piece.kind == kind) for kind in kinds]
        if changed and len(runs) > 1 and len(runs[-1]) == 1 and runs[-1][0].isspace() and "\n" not in runs[-1][0]:
            (space,), (removed, added) = runs.pop(), runs.pop()
            texts = [removed + space + texts[0], added + space + texts[1]]
        runs.append(texts)
    told = (zip(sides if len(texts) == len(sides) else alike, texts, strict=True) for texts in runs)
    return [Piece(kind, text) for run in told for kind, text in run if text]
