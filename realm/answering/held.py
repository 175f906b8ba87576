"""Vectors of a knowledge base held in memory: from the second question on, searching is a pass over memory and no
longer one over the disk's cache.

An edit makes another version, which follows from the one that is held at the cost of what was edited; see `layers`.
Nothing that a version holds ever changes, so nothing can be stale.

Legend: B queries, K passages.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from torch import Tensor

from realm.answering.layers import Layers, Version, read_layers, size_of
from realm.errors import KnowledgeBaseError
from realm.knowledge.base import KnowledgeBase, Match
from realm.knowledge.table.filters import Where, narrowing
from realm.knowledge.table.recency import Recency

LIMIT = 1 << 30
"""Bytes: two million vectors of 128 numbers. While they are read anew in the background there are two such."""


class HeldVectors:
    """The vectors that were asked for last. Threads may share it: at worst two read the same vectors."""

    def __init__(self, limit: int = LIMIT, versions: int = 1) -> None:
        """limit: bytes; where the vectors need more, they are left where they are. 0 never holds any. versions: so many
        are held beside each other, within the limit; those that follow from one another share what was read."""
        self.limit, self.versions = limit, versions
        self._asked: tuple[Version, ...] = ()
        self._held: tuple[Layers, ...] = ()
        """Last used first."""
        self._too_large: Version | None = None
        self._reading: threading.Thread | None = None
        self._read_anew: Layers | None = None

    def search(self, kb: KnowledgeBase, query_BD: Tensor, k: int, encoder: str) -> list[list[Match]] | None:
        """The k passages of `kb`, open at one version, with the highest inner products, best first, for each query.

        None where the knowledge base should be asked itself: the first single question ever (one question is not worth
        reading all vectors for), and vectors beyond the limit. `encoder` has vectors there.
        """
        version = (kb.path, kb.identity, kb.version, encoder)
        held = self._follow(kb, version)
        if held is None:
            again = version in self._asked
            self._asked = (version, *(other for other in self._asked if other != version))[: self.versions]
            if self.limit <= 0 or self._too_large == version or (not again and len(query_BD) == 1):
                return None
            held = self.hold(kb, encoder)
        if held is None:
            return None
        try:
            return held.search(query_BD, k)
        except KnowledgeBaseError:  # the version that the base stands on was let go
            self._held = tuple(other for other in self._held if other.base is not held.base)
            return None

    def reach(self, kb: KnowledgeBase, encoder: str) -> bool:
        """Bring what is held to `kb`, open at one version; whether it is, and every passage there has its vector."""
        held = self._follow(kb, (kb.path, kb.identity, kb.version, encoder)) if encoder in kb.encoders() else None
        return held is not None and held.complete

    def hold(self, kb: KnowledgeBase, encoder: str) -> Layers | None:
        """Read the vectors of `kb`, open at one version, before the first question; None beyond the limit."""
        version = (kb.path, kb.identity, kb.version, encoder)
        held = next((one for one in self._held if one.version == version), None)
        if held is None:
            if (room := self.limit - size_of(kb, encoder)) < 0:
                self._too_large = version
                return None
            # Room is made first: not more than the limit in memory where nobody asks meanwhile.
            self._held, self._read_anew = _beside(self._held, self.versions - 1, room), None
            held = read_layers(kb, version, self.limit)
            if held is not None:
                self._keep(held)
            self._too_large = version if held is None else None
        return held  # and not what another thread has put in its place meanwhile

    def _keep(self, layers: Layers) -> None:
        others = (one for one in self._held if one.version != layers.version)
        self._held = _beside((layers, *others), self.versions, self.limit) or (layers,)

    def _follow(self, kb: KnowledgeBase, version: Version) -> Layers | None:
        """What is held, brought to a version; None where that can't be."""
        nearest = sorted(self._held, key=lambda one: (one.version != version, -one.version[2]))
        for layers in (self._read_anew, *nearest):
            with suppress(KnowledgeBaseError):  # the version that the base stands on was let go
                held = layers if layers is None or layers.version == version else layers.follow(kb, version)
                if held is None:
                    continue
                if layers is self._read_anew:
                    self._read_anew = None
                if held.worn and size_of(kb, version[3]) > self.limit:
                    # It outgrew the limit: reading it anew would fail after each edit, and going on take ever more.
                    self._held, self._too_large = (), version
                    return None
                self._keep(held)
                if held.worn:
                    self._read_in_background(kb, version)
                return held
        return None

    def _read_in_background(self, kb: KnowledgeBase, version: Version) -> None:
        if self._reading is not None and self._reading.is_alive():
            return

        def read() -> None:
            with suppress(KnowledgeBaseError):  # then the next edit tries again
                self._read_anew = read_layers(kb, version, self.limit)

        self._reading = threading.Thread(target=read, name="realm-vectors")
        self._reading.start()


def _beside(layers: Sequence[Layers], most: int, limit: int) -> tuple[Layers, ...]:
    """The first of some that fit together."""
    kept: list[Layers] = []
    for one in layers:
        bases = {id(other.base): other.base.size for other in (*kept, one)}
        if len(kept) < most and sum(bases.values()) + sum(other.own_size for other in (*kept, one)) <= limit:
            kept.append(one)
    return tuple(kept)


class How(NamedTuple):
    """How passages are scored and found."""

    recency: Recency | None = None
    approximate: bool = False


def search_version(
    kb: KnowledgeBase, held: HeldVectors, query_BD: Tensor, k: int, where: Where, encoder: str, how: How | None = None
) -> list[list[Match]]:
    """The k best passages of `kb`, open at one version, among those that `encoder` has embedded, from memory where that
    is worth it, else from the store."""
    if encoder not in kb.encoders():  # not a single passage to embed
        return [[] for _ in query_BD]
    vector_BD, how = query_BD.numpy(), how or How()
    if how.recency is not None:
        return kb.search_many(vector_BD, k, where, encoder, how.recency)
    if how.approximate:
        return [kb.search_vectors(vector_D, k, where, encoder, approximate=True) for vector_D in vector_BD]
    found = held.search(kb, query_BD, k, encoder) if narrowing(where) is None else None
    if found is not None:
        return found
    if len(vector_BD) == 1:
        return [kb.search_vectors(vector_BD[0], k, where, encoder)]
    return kb.search_many(vector_BD, k, where, encoder)
