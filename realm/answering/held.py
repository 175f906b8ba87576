"""Vectors of one version of a knowledge base, held in memory: from the second question on, searching is a pass over
memory and no longer one over the disk's cache.

An edit makes another version, so the next question goes to the knowledge base itself, and what is held is read anew at
the one after. Nothing that a version holds ever changes, so nothing can be stale.

Legend: B queries, K passages, N passages, D vector size.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from realm.knowledge.base import KnowledgeBase, Match
from realm.search.exact import ExactIndex
from realm.search.shards import pack

LIMIT = 1 << 30
"""Bytes: two million vectors of 128 numbers."""

Version = tuple[Path, tuple[int, int], int, str]
"""Knowledge base, which one of those that stood there, version, encoder."""


class _Held(NamedTuple):
    version: Version
    vectors: ExactIndex | None
    """None where it would be larger than the limit."""
    address_N: np.ndarray


class HeldVectors:
    """The vectors that were asked for last. Threads may share it: at worst two read the same vectors."""

    def __init__(self, limit: int = LIMIT) -> None:
        """limit: bytes; where the vectors need more, they are left where they are. 0 never holds any."""
        self.limit = limit
        self._asked: Version | None = None
        self._held: _Held | None = None

    def search(self, kb: KnowledgeBase, query_BD: Tensor, k: int, encoder: str) -> list[list[Match]] | None:
        """The k passages of `kb`, open at one version, with the highest inner products, best first, for each query.

        None where the knowledge base should be asked itself: the first single question of a version (one question is
        not worth reading all vectors for), and vectors beyond the limit. `encoder` has vectors there.
        """
        version = (kb.path, kb.identity, kb.version, encoder)
        held = self._held
        if held is None or held.version != version:
            again, self._asked = self._asked == version, version
            if self.limit <= 0 or (not again and len(query_BD) == 1):
                return None
            self._held = None  # never two in memory
            self._held = held = self._read(kb, version)
        if held.vectors is None:
            return None
        if len(held.vectors) == 0:
            return [[] for _ in query_BD]
        hits = held.vectors.search(query_BD, min(k, len(held.vectors)))
        return kb.matches_at(held.address_N[hits.rows.numpy()], hits.scores.numpy())

    def _read(self, kb: KnowledgeBase, version: Version) -> _Held:
        encoder = version[3]
        blocks, addresses, size = [], [], 0
        for address_N, vector_ND in kb.embedded(encoder):
            size += vector_ND.nbytes
            if size > self.limit:
                return _Held(version, None, np.zeros(0, np.uint64))
            addresses.append(address_N)
            blocks.append(pack(torch.from_numpy(vector_ND.copy()), "float32"))  # the batch's own memory is read-only
        if not blocks:
            return _Held(version, ExactIndex(torch.zeros(0, kb.encoders()[encoder])), np.zeros(0, np.uint64))
        return _Held(version, ExactIndex(blocks), np.concatenate(addresses))


def search_version(
    kb: KnowledgeBase, held: HeldVectors, query_BD: Tensor, k: int, where: str | None, encoder: str
) -> list[list[Match]]:
    """The k best passages of `kb`, open at one version, among those that `encoder` has embedded, from memory where that
    is worth it, else from the store."""
    if encoder not in kb.encoders():  # not a single passage to embed
        return [[] for _ in query_BD]
    found = held.search(kb, query_BD, k, encoder) if where is None else None
    if found is not None:
        return found
    vector_BD = query_BD.numpy()
    if len(vector_BD) == 1:
        return [kb.search_vectors(vector_BD[0], k, where, encoder)]
    return kb.search_many(vector_BD, k, where, encoder)
