"""Searching an older version of a knowledge base: it costs what a search of the present one does, and only passages
that never got a vector are embedded for it.

Vectors are committed after the text they belong to, so a version that is named by an edit often lacks some that the
next one has: a search goes to the last version that holds the same documents. What has no vector there either was
edited again before a question came, or was never embedded by this model: its vectors are taken from the newest version,
where the text is still there, or made here, and held in memory, for a version that has been can't be written.

Legend: B queries, K passages, N passages without a vector, D vector size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from realm.answering.held import LIMIT, HeldVectors, How, search_version
from realm.answering.layers import Version
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.filters import Where, narrowing
from realm.knowledge.table.reading import with_recency
from realm.knowledge.table.recency import Recency

VERSIONS = 4
"""Held beside each other, so that who compares two of them does not read both at each question."""
_AT_ONCE = 1024


class _Past(NamedTuple):
    asked: Version
    kb: KnowledgeBase
    """Open as of the last version with the same documents."""
    address_N: np.ndarray
    vector_ND: np.ndarray


class PastSearch:
    """The versions that were asked for last stay open. Threads may share it: at worst two open the same."""

    def __init__(self) -> None:
        self.held = HeldVectors(LIMIT // 4, VERSIONS)
        self._pasts: tuple[_Past, ...] = ()

    def search(
        self,
        kb: KnowledgeBase,
        version: int,
        query_BD: Tensor,
        k: int,
        where: Where,
        encoder: PassageEncoder,
        recency: Recency | None = None,
    ) -> list[list[Match]]:
        """The k passages of a version with the highest inner products, best first, for each query; with a recency prior
        those with the highest `Match.logit`."""
        past = self.open(kb, version, encoder)
        found = search_version(past.kb, self.held, query_BD, k, where, encoder.fingerprint, How(recency))
        address_N, vector_ND = past.address_N, past.vector_ND
        if narrowing(where) is not None and len(address_N):
            allowed_N = np.isin(address_N, past.kb.unembedded(encoder.fingerprint, where)[0])
            address_N, vector_ND = address_N[allowed_N], vector_ND[allowed_N]
        if not len(address_N):
            return found
        score_BN = query_BD.numpy() @ vector_ND.T
        logit_BN = score_BN
        if recency is not None:
            dates = (match.date for match in past.kb.matches_at(address_N[None], score_BN[:1])[0])
            logit_BN = score_BN + np.array([recency.log_prior(date) for date in dates])
        best_BK = np.argsort(-logit_BN, axis=1, kind="stable")[:, :k]
        others = past.kb.matches_at(address_N[best_BK], np.take_along_axis(score_BN, best_BK, axis=1))
        if recency is not None:
            others = [[with_recency(match, recency) for match in more] for more in others]
        pairs = zip(found, others, strict=True)
        return [sorted([*mine, *more], key=lambda match: -match.logit)[:k] for mine, more in pairs]

    def open(self, kb: KnowledgeBase, version: int, encoder: PassageEncoder) -> _Past:
        """A version with the vectors that it lacks: they are made, where they are not known."""
        asked = (kb.path, kb.identity, version, encoder.fingerprint)
        past = next((one for one in self._pasts if one.asked == asked), None)
        if past is None:
            alike = kb.at(kb.at(version).last_alike())
            past = _Past(asked, alike, *_missing(kb, alike, encoder))
        kept, room = [past], LIMIT // 4 - past.vector_ND.nbytes
        for one in self._pasts:
            room -= one.vector_ND.nbytes if one is not past else 0
            if one is not past and len(kept) < VERSIONS and room >= 0:
                kept.append(one)
        self._pasts = tuple(kept)
        return past


def _missing(kb: KnowledgeBase, past: KnowledgeBase, encoder: PassageEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Addresses uint64[N] of the passages of a version without a vector, and vectors float32[N, D] for them."""
    address_N, hashes = past.unembedded(encoder.fingerprint)
    known = kb.stored_vectors(encoder.fingerprint, hashes)
    unknown_N = np.array([key not in known for key in hashes], dtype=bool)
    addresses = address_N[unknown_N]
    for at in range(0, len(addresses), _AT_ONCE):
        part = addresses[at : at + _AT_ONCE]
        matches = past.matches_at(part[None], np.zeros((1, len(part))))[0]
        passages = {match.passage.text_hash: match.passage for match in matches if match.passage.text_hash not in known}
        if passages:
            known.update(zip(passages, encoder(list(passages.values())), strict=True))
    return address_N, np.stack([known[key] for key in hashes]) if hashes else np.zeros((0, 0), np.float32)
