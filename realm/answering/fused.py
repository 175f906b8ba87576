"""Passages of a living knowledge base by vectors and by words, ranked by the sum of both scores; see `methods.fused`.

Training has bm25s over a snapshot, a living knowledge base its own index of words, which every edit is in at once. That
one adds BM25 of the title to BM25 of the text, so its scores are larger; `SCALE` brings them to those of training.

Legend: B queries, D vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from realm.answering.choosing import Search, Vectors
from realm.knowledge.base import Match
from realm.knowledge.table.filters import Filter
from realm.knowledge.table.reading import with_recency
from realm.knowledge.table.recency import Recency

WORDS = 50
"""Passages of each list. One that the list by words lacks has the lowest score of the list, or 0 where the list ends
before: then it has no word of the question."""
SCALE = 2.0
"""The store's scores to those of training: 1.9, the median of the best hits of 40 questions of SQuAD."""

SearchWords = Callable[[str, int, Filter], list[Match]]


def beside_words(
    search: Search,
    words: SearchWords,
    queries: Sequence[str],
    query_BD: np.ndarray,
    vectors: Vectors,
    *,
    temperature: float,
    recency: Recency | None = None,
) -> Search:
    """`search`, by vectors, made one by the sum of both scores.

    words: by BM25 among the same passages. temperature: what BM25's scores are divided by, as in training.
    """

    def both(numbers: Sequence[int], k: int, among: Filter) -> list[list[Match]]:
        depth = max(k, WORDS)
        near = search(numbers, depth, among)
        by_words = [words(queries[number], depth, among) for number in numbers]
        alone = [_without(mine, near_one) for mine, near_one in zip(by_words, near, strict=True)]
        known = vectors([match for mine in alone for match in mine])
        found = []
        for number, near_one, mine, listed in zip(numbers, near, alone, by_words, strict=True):
            there = {_place(match): match.score for match in listed}
            least = min(there.values()) if len(listed) == depth else 0.0
            scored = [replace(match, score=float(query_BD[number] @ known[match.passage.text_hash])) for match in mine]
            if recency is not None:
                scored = [with_recency(match, recency) for match in scored]
            together = [
                replace(match, score=match.score + there.get(_place(match), least) / (SCALE * temperature))
                for match in (*near_one, *scored)
            ]
            found.append(sorted(together, key=lambda match: -match.logit)[:k])
        return found

    return both


def _place(match: Match) -> tuple[str, int]:
    return match.passage.document_id, match.passage.number


def _without(matches: Sequence[Match], known: Sequence[Match]) -> list[Match]:
    there = {_place(match) for match in known}
    return [match for match in matches if _place(match) not in there]
