"""What an answer could be: the salient spans of the passages that were read.

A cloze reader gives p(y|z,x) for a y it is told. Pre-training masks names and dates, so names and dates of the
retrieved passages are what is tried.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from realm.errors import MissingLibraryError, UnavailableError
from realm.knowledge.text.taggers import PATTERN, Tagger, load_tagger, tag_texts
from realm.models.backbone import pieces
from realm.types import Passage

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Candidate:
    """One possible answer."""

    ids: tuple[int, ...]
    text: str
    places: dict[int, tuple[int, int]]
    """Index of a passage -> (start, end) of the first place the answer stands in its text."""


def open_tagger(pipeline: str) -> Tagger:
    """The tagger of the run, or the pattern tagger on a machine that doesn't have it."""
    try:
        return load_tagger(pipeline)
    except (MissingLibraryError, UnavailableError):
        return load_tagger(PATTERN)


def find_candidates(
    tagger: Tagger, tokenizer: Any, passages: Sequence[Passage], question: str, max_pieces: int
) -> list[Candidate]:
    """Distinct salient spans of the passages, by word pieces, in order of first appearance.

    What is made of words of the question is left out: a sentence seldom says a name twice.
    """
    texts = [passage.text for passage in passages]
    found = [(p, start, end) for p, spans in enumerate(tag_texts(tagger, texts)) for start, end, _ in spans]
    asked = set(WORD.findall(question.casefold()))
    ids = pieces(tokenizer, [texts[p][start:end] for p, start, end in found])
    candidates: dict[tuple[int, ...], Candidate] = {}
    for (p, start, end), answer in zip(found, ids, strict=True):
        key = tuple(answer)
        if not key or len(key) > max_pieces or asked.issuperset(WORD.findall(texts[p][start:end].casefold())):
            continue
        candidate = candidates.setdefault(key, Candidate(key, texts[p][start:end], {}))
        candidate.places.setdefault(p, (start, end))
    return list(candidates.values())
