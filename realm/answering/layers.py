"""The vectors of a knowledge base in memory, in layers: a base that was read once, and over it what edits changed.

Of an edit only its own documents are looked up: their passages of the base are struck out, and what they hold now is
kept beside it, text and all. So a version follows from the one before at a cost that does not hang on how much there
is. A passage of the base is read from the version the base stands on, which has the same text: a document that changed
since is struck out. Layers never change; following makes others, which share the base.

Legend: B queries, K passages, N passages of the base, M passages of changed documents, D vector size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from realm.knowledge.base import KnowledgeBase, Match
from realm.search.exact import ExactIndex
from realm.search.shards import pack

WORN = 2_048
"""Passages struck out or kept beside, from which on the base had better be read anew, ..."""
WORN_SHARE = 8
"""... and at least one in so many of it."""

Version = tuple[Path, tuple[int, int], int, str]
"""Knowledge base, which one of those that stood there, version, encoder."""


@dataclass(frozen=True, slots=True)
class Base:
    """The vectors of one version."""

    kb: KnowledgeBase
    """Open at that version."""
    vectors: ExactIndex
    address_N: np.ndarray
    order_N: np.ndarray
    """Rows by ascending address."""

    @property
    def size(self) -> int:
        """Bytes of the vectors."""
        return 4 * len(self.vectors) * self.vectors.dim

    def rows(self, documents: list[str]) -> Tensor:
        """The rows of the passages of some documents, Long[M]."""
        address_M = self.kb.addresses(documents)
        place_M = np.searchsorted(self.address_N, address_M, sorter=self.order_N)
        row_M = self.order_N[np.minimum(place_M, len(self.order_N) - 1)] if len(self.order_N) else place_M[:0]
        return torch.from_numpy(row_M[self.address_N[row_M] == address_M[: len(row_M)]])


@dataclass(frozen=True, slots=True)
class Layers:
    """What one version holds."""

    version: Version
    base: Base
    alive_N: Tensor | None
    """Bool[N], False for what is struck out; None while nothing is."""
    matches: list[Match]
    """The passages of documents that changed since the base, score 0."""
    vector_MD: Tensor
    complete: bool
    """Whether every passage has its vector: only then does a later version follow from edits alone."""

    @property
    def worn(self) -> bool:
        """Whether the base had better be read anew."""
        struck = 0 if self.alive_N is None else int((~self.alive_N).sum())
        return struck + len(self.matches) > max(WORN, len(self.base.vectors) // WORN_SHARE)

    @property
    def own_size(self) -> int:
        """Bytes of the vectors beside the base's."""
        return self.vector_MD.nbytes

    def follow(self, kb: KnowledgeBase, version: Version) -> Layers | None:
        """The layers of a later version of the same knowledge base; None where they have to be read.

        kb: open at that version.
        """
        if not self.complete or self.version[2] >= version[2] or self._same() != (version[:2], version[3]):
            return None
        changes = kb.changes(self.version[2], version[3])
        if changes is None or changes.waiting:
            return None
        if not changes.documents:
            return replace(self, version=version)
        changed = set(changes.documents)
        alive_N = torch.ones(len(self.base.vectors), dtype=torch.bool) if self.alive_N is None else self.alive_N.clone()
        alive_N[self.base.rows(changes.documents)] = False
        stay = [place for place, match in enumerate(self.matches) if match.passage.document_id not in changed]
        return replace(
            self,
            version=version,
            alive_N=alive_N,
            matches=[*(self.matches[place] for place in stay), *changes.matches],
            vector_MD=torch.cat([self.vector_MD[stay], torch.from_numpy(changes.vector_MD)]),
        )

    def _same(self) -> tuple[tuple[Path, tuple[int, int]], str]:
        return self.version[:2], self.version[3]

    def search(self, query_BD: Tensor, k: int) -> list[list[Match]]:
        """The k passages with the highest inner products, best first, for each query Float[B, D]."""
        found: list[list[Match]] = [[] for _ in query_BD]
        if len(self.base.vectors):
            hits = self.base.vectors.search(query_BD, min(k, len(self.base.vectors)), allowed=self.alive_N)
            for mine, row_K, score_K in zip(found, hits.rows, hits.scores, strict=True):
                kept_K = row_K >= 0
                address_K = self.base.address_N[row_K[kept_K].numpy()]
                mine += self.base.kb.matches_at(address_K[None], score_K[kept_K].numpy()[None])[0]
        if not self.matches:
            return found
        score_BM = query_BD @ self.vector_MD.T
        best_BK = score_BM.topk(min(k, len(self.matches)), dim=1)
        for mine, score_K, place_K in zip(found, best_BK.values.tolist(), best_BK.indices.tolist(), strict=True):
            mine += [replace(self.matches[m], score=score) for score, m in zip(score_K, place_K, strict=True)]
        return [sorted(mine, key=lambda match: -match.score)[:k] for mine in found]


def read_layers(kb: KnowledgeBase, version: Version, limit: int) -> Layers | None:
    """All vectors of a version, read; None where they need more bytes than the limit. kb: open at that version."""
    encoder = version[3]
    if size_of(kb, encoder) > limit:  # counted first, which is quick: reading up to the limit is not
        return None
    blocks, addresses, size = [], [], 0
    for address_N, vector_ND in kb.embedded(encoder):
        size += vector_ND.nbytes
        if size > limit:
            return None
        addresses.append(address_N)
        blocks.append(pack(torch.from_numpy(vector_ND.copy()), "float32"))  # the batch's own memory is read-only
    none = torch.zeros(0, kb.encoders()[encoder])
    vectors = ExactIndex(blocks) if blocks else ExactIndex(none)
    address_N = np.concatenate(addresses) if addresses else np.zeros(0, np.uint64)
    base = Base(kb, vectors, address_N, np.argsort(address_N, kind="stable"))
    return Layers(version, base, None, [], none, len(vectors) == kb.num_passages())


def size_of(kb: KnowledgeBase, encoder: str) -> int:
    """Bytes of the vectors of a version when every passage has one. kb: open at that version."""
    return 4 * kb.num_passages() * kb.encoders()[encoder]
