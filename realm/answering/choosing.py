"""Choosing k passages with variety: at most so many of a document or a source, and maximal marginal relevance.

What is chosen satisfies the limits and is the best that does; where a limit leaves too few, the search goes on behind
them until there are k, or no more.

Legend: B queries, K wanted, P passages of a pool, D vector size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from realm.answering.constraints import Constraints
from realm.knowledge.base import Match
from realm.knowledge.table.filters import Filter

Search = Callable[[Sequence[int], int, Filter], list[list[Match]]]
"""Numbers of queries, how many, and among which: the best for each, best first."""
Vectors = Callable[[Sequence[Match]], Mapping[str, np.ndarray]]
"""The vectors float[D] of found passages, by text hash."""

DEEPER = 4
"""Under a limit so many times what is wanted is looked at in one search."""
POOL = 5
"""Maximal marginal relevance chooses among so many times k passages, ..."""
LEAST_POOL = 50
"""... and at least so many."""


def choose(
    search: Search, query_BD: Tensor, k: int, among: Filter, constraints: Constraints, vectors: Vectors
) -> list[list[Match]]:
    """k passages for each query, in the order in which they were chosen; fewer only where no more satisfy it all."""
    pool = k if constraints.mmr is None else max(POOL * k, LEAST_POOL)
    depth = DEEPER * pool if constraints.limited else pool
    found = search(range(len(query_BD)), depth, among)
    if constraints.limited:
        found = [
            spread(partial(_one, search, number), mine, depth, pool, among, constraints)
            for number, mine in enumerate(found)
        ]
    if constraints.mmr is None:
        return found
    known = vectors([match for mine in found for match in mine])
    return [
        marginally_relevant(mine, query_D.numpy(), known, k, constraints.mmr)
        for query_D, mine in zip(query_BD, found, strict=True)
    ]


def _one(search: Search, number: int, k: int, among: Filter) -> list[Match]:
    return search([number], k, among)[0]


def spread(
    search: Callable[[int, Filter], list[Match]],
    found: list[Match],
    depth: int,
    k: int,
    among: Filter,
    constraints: Constraints,
) -> list[Match]:
    """The first k of a ranking that hold the limits a document and a source: a passage above a limit is passed over.

    found: its first `depth` passages. Where these are not enough, `search` looks behind them, without the documents and
    sources that have all they may have: so few searches find them, however many passages these have.
    """
    kept: list[Match] = []
    seen: set[tuple[str, int]] = set()
    of_document: Counter[str] = Counter()
    of_source: Counter[str] = Counter()
    most, most_of_source = (limit or k for limit in (constraints.max_per_document, constraints.max_per_source))
    while True:
        for match in found:
            place = (match.passage.document_id, match.passage.number)
            document, source = match.passage.document_id, match.source
            full = of_document[document] >= most or (source is not None and of_source[source] >= most_of_source)
            if place in seen or full:
                continue
            seen.add(place)
            kept.append(match)
            of_document[document] += 1
            if source is not None:
                of_source[source] += 1
            if len(kept) == k:
                return kept
        if len(found) < depth:
            return kept
        documents = [document for document, count in of_document.items() if count >= most]
        sources = [source for source, count in of_source.items() if count >= most_of_source]
        # What was kept and may be found again is less than k, so every search brings a new passage, or is the last.
        unfilled = replace(among, deny=(*among.deny, *documents), deny_sources=(*among.deny_sources, *sources))
        found = search(depth, unfilled)


def marginally_relevant(
    pool: Sequence[Match], query_D: np.ndarray, vectors: Mapping[str, np.ndarray], k: int, balance: float
) -> list[Match]:
    """k of a pool by maximal marginal relevance (Carbonell & Goldstein 1998, section 2), in the order of choosing:

        argmax over z not chosen of  lambda Sim(x, z) - (1 - lambda) max over chosen z' of Sim(z, z')

    Both similarities are inner products over the longest passage vector of the pool (and over the query's length), so
    they lie between -1 and 1 and are cosines where vectors are equally long; lambda = 1 keeps the order of the search.
    With words beside the vectors the first may be larger, so relevance counts for more.
    A recency prior counts as a part of Sim(x, z). Among equals the one found first is chosen.
    """
    if not pool:
        return []
    vector_PD = np.stack([np.asarray(vectors[match.passage.text_hash], np.float64) for match in pool])
    longest = max(float(np.linalg.norm(vector_PD, axis=1).max()), 1e-12)
    length = max(float(np.linalg.norm(query_D)), 1e-12)
    relevance_P = np.array([match.logit for match in pool]) / (length * longest)
    vector_PD /= longest
    nearest_P = np.zeros(len(pool))
    left = list(range(len(pool)))
    chosen: list[int] = []
    while left and len(chosen) < k:
        gain = balance * relevance_P[left] - (1 - balance) * nearest_P[left]
        best = left.pop(int(np.argmax(gain)))
        alike_P = vector_PD @ vector_PD[best]
        nearest_P = alike_P if not chosen else np.maximum(nearest_P, alike_P)
        chosen.append(best)
    return [pool[place] for place in chosen]
