"""Which answers stand in a corpus: one pass over its texts, memory for the answers and a block of texts.

The rule is that of `realm.evaluation.retrieval.answer_in_text` (whole tokens, whatever the case, width and
punctuation), but for Korean particles; for patterns, a search with the flags of the reference. No retriever has a say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from realm.evaluation.patterns import PatternMatcher, folded, needed_literals
from realm.evaluation.retrieval import answer_tokens

BLOCK = 256
"""Texts that are searched for a literal at once."""
BREAK = "\n\0\n"
"""Stands in no text and no literal."""


class Strings:
    """Answers by their tokens: all that start with the same two, so that most places of a text cost two look-ups."""

    def __init__(self, answers: Iterable[str]) -> None:
        self._of_tokens: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for answer in dict.fromkeys(answers):
            tokens = tuple(answer_tokens(answer))
            if tokens:
                self._of_tokens[tokens].append(answer)
        self._single = {tokens[0] for tokens in self._of_tokens if len(tokens) == 1}
        lengths: dict[tuple[str, str], set[int]] = defaultdict(set)
        for tokens in self._of_tokens:
            if len(tokens) > 1:
                lengths[tokens[:2]].add(len(tokens))
        self._lengths = {pair: tuple(sorted(some)) for pair, some in lengths.items()}
        self._found: set[tuple[str, ...]] = set()

    def read(self, text: str) -> None:
        """Look for all answers in a text."""
        tokens = answer_tokens(text)
        self._found.update((token,) for token in self._single.intersection(tokens))
        lengths = self._lengths
        for start, pair in enumerate(pairwise(tokens)):
            if pair in lengths:
                for length in lengths[pair]:
                    piece = tuple(tokens[start : start + length])
                    if piece in self._of_tokens:
                        self._found.add(piece)

    @property
    def found(self) -> set[str]:
        """The answers that stood in a text so far."""
        return {answer for tokens in self._found for answer in self._of_tokens[tokens]}


class Patterns:
    """Patterns that are looked for until they are found once, in texts that hold a string they need."""

    def __init__(self, patterns: Iterable[str], seconds: float = 1.0) -> None:
        self.matcher = PatternMatcher(seconds)
        self._open = {pattern: needed_literals(pattern) for pattern in dict.fromkeys(patterns)}
        self._texts: list[str] = []
        self.found: set[str] = set()

    def read(self, text: str) -> None:
        self._texts.append(text)
        if len(self._texts) >= BLOCK:
            self.finish()

    def finish(self) -> None:
        """Search what has been read since."""
        texts, self._texts = self._texts, []
        starts, position = [], 0
        lowered = [folded(text) for text in texts]
        for text in lowered:
            starts.append(position)
            position += len(text) + len(BREAK)
        block = BREAK.join(lowered)
        for pattern, literals in list(self._open.items()):
            places = range(len(texts)) if literals is None else _holding(block, starts, literals)
            if any(self.matcher.stands_in(texts[place], (pattern,)) for place in places):
                self.found.add(pattern)
                del self._open[pattern]
            elif pattern in self.matcher.invalid | self.matcher.timed_out:
                del self._open[pattern]


def _holding(block: str, starts: list[int], literals: Iterable[str]) -> Iterator[int]:
    """Numbers of the texts of a block that hold any of the literals."""
    for literal in literals:
        at, place = block.find(literal), 0
        while at >= 0:
            while place + 1 < len(starts) and starts[place + 1] <= at:
                place += 1
            yield place
            at = block.find(literal, starts[place + 1]) if place + 1 < len(starts) else -1
