"""What an answer looks like, from its question and its own letters: answers alike in both may stand for one another."""

from __future__ import annotations

import re

_ASKING = frozenset(["who", "whom", "whose", "what", "which", "when", "where", "why", "how"])


def opening(question: str) -> str:
    """How a question begins, which says what it asks for: "how many", "what country"."""
    words = re.findall(r"\w+", question.casefold())
    asks = next((i for i, word in enumerate(words) if word in _ASKING), 0)
    return " ".join(words[asks : asks + 2])


def shape(text: str) -> str:
    """Word by word: "May 12, 1969" is "A 99, 9999", "two weeks" "a a"."""
    return " ".join(_shape(word) for word in text.split())


def coarse_shape(text: str) -> str:
    """The same with numbers of any length alike: "1,906 m" is "9 a", as "25 m" is."""
    return re.sub(r"9[9.,]*", "9", shape(text))


def _shape(word: str) -> str:
    if any(c.isdigit() for c in word):
        return re.sub(r"\d", "9", word.lower())
    return "A" if word[:1].isupper() else "a"
