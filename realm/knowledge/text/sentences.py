"""Where sentences begin and end, in characters of the text.

Wikimedia's `sentencex` finds the boundaries: rules for about 300 languages, abbreviations and initials
included ("U.S.", "Dr.", "J. R. R."), no model to download, and some 70 million characters a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate, pairwise

BLOCK = 100_000
"""Characters looked at together, so that time and memory stay linear in a document of any length."""

# The segmenter fails on some texts where a full stop stands next to a space of more than one byte. Only the
# positions of the boundaries are used, so a plain space of the same length in characters may stand for it.
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")
_LINE_BREAKS = "\x85\u2028\u2029"
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def sentence_spans(text: str, lang: str | None = None) -> Iterator[tuple[int, int]]:
    """(start, end) of each sentence of `text`, without the white space around it, in order.

    Whatever lies between two spans is white space. A blank line ends a sentence. A "sentence" longer than `BLOCK`
    characters is cut.

    Args:
        text: any string that UTF-8 can hold.
        lang: ISO 639 code; a region is ignored ("en-US"), an unknown language gets the rules of English.
    """
    code = re.split(r"[-_]", lang or "en")[0].lower()
    position = 0
    while position < len(text):
        block = text[position : position + BLOCK]
        lengths = [len(sentence) for sentence in segment(block, code)]
        if position + BLOCK < len(text) and len(lengths) > 1:
            lengths.pop()  # it may go on in the next block
        for start, end in pairwise(accumulate(lengths, initial=0)):
            yield from _paragraphs(text, position + start, position + end)
        position += sum(lengths)


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a sentence between blank lines: a heading without a full stop is none of what follows it."""
    for blank in (*_BLANK_LINES.finditer(text, start, end), None):
        span = strip_span(text, start, blank.start() if blank else end)
        if span[0] < span[1]:
            yield span
        start = blank.end() if blank else end


def strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; empty (both at `end`) when there is nothing else in it."""
    piece = text[start:end]
    start = end - len(piece.lstrip())
    return start, max(start, end - len(piece) + len(piece.rstrip()))


def segment(text: str, code: str) -> list[str]:
    """Sentences with the white space after them; joined they are as long as `text`."""
    import sentencex

    plain = text
    if not text.isascii():
        plain = _WIDE_SPACE.sub(lambda match: "\n" if match[0] in _LINE_BREAKS else " ", text)
    sentences: list[str] = sentencex.segment(code, plain)
    return sentences if sum(map(len, sentences)) == len(text) else text.splitlines(keepends=True)
