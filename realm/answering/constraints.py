"""What a search must keep to besides a predicate: lists of documents, variety, a preference for what is new."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date as Date
from datetime import datetime
from typing import Any

from realm.errors import UsageError
from realm.knowledge.table.filters import Filter, check_ids
from realm.knowledge.table.predicate_tokens import names_now
from realm.knowledge.table.recency import Recency

SHORTEST_HALF_LIFE = 1.0
"""Days: dates are days."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Which passages may be found, and how k of them are chosen. Nothing of it acts unless it is set."""

    allow: tuple[str, ...] | None = None
    """Ids of documents: only these."""
    deny: tuple[str, ...] = ()
    """Ids of documents: none of these."""
    sources: tuple[str, ...] | None = None
    """Only documents from these sources."""
    since: Date | None = None
    until: Date | None = None
    """Only documents dated so, both days included."""
    max_per_document: int | None = None
    """At most so many passages of a document."""
    max_per_source: int | None = None
    """At most so many passages of a source; what has no source is not limited."""
    mmr: float | None = None
    """Lambda of maximal marginal relevance, from 0 (variety alone) to 1 (relevance alone)."""
    half_life_days: float | None = None
    """A passage counts half for each so many days of its document's age, in p(z|x) and in what is found."""
    now: datetime | None = None
    """What NOW() of a predicate and ages are counted from; that of `as_of`, or the present, when None."""
    approximate: bool = False
    """Search by the index of `KnowledgeBase.index_vectors`. The past, and with a half-life, is searched exactly."""

    def __post_init__(self) -> None:
        # Lists are taken, too; frozen, so that equal constraints share a batch.
        object.__setattr__(self, "allow", None if self.allow is None else _ids("allow", self.allow))
        object.__setattr__(self, "deny", _ids("deny", self.deny))
        object.__setattr__(self, "sources", None if self.sources is None else _ids("sources", self.sources))
        if self.since is not None and self.until is not None and self.since > self.until:
            raise UsageError(f"found since={self.since} and until={self.until}: expected the earlier day first")
        if self.now is not None and self.now.tzinfo is None:
            object.__setattr__(self, "now", self.now.astimezone())  # local, as times of `as_of` are
        for name in ("max_per_document", "max_per_source"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"found {name}={value}: expected at least 1")
        if self.mmr is not None and not 0 <= self.mmr <= 1:
            raise UsageError(f"found mmr={self.mmr}: expected a number from 0 (variety) to 1 (relevance)")
        half = self.half_life_days
        if half is not None and not (half >= SHORTEST_HALF_LIFE and math.isfinite(half)):
            raise UsageError(f"found half_life_days={half}: expected at least {SHORTEST_HALF_LIFE:g}")

    @property
    def limited(self) -> bool:
        """Whether a document or a source may have only so many passages."""
        return self.max_per_document is not None or self.max_per_source is not None

    def filter(self, where: str | None, now: datetime | None) -> Filter:
        """The lists and a predicate together."""
        return Filter(where, self.allow, self.deny, now=now, sources=self.sources, since=self.since, until=self.until)

    def recency(self, now: datetime | None) -> Recency | None:
        """The prior, counted from a moment; None where it does not act."""
        if self.half_life_days is None or now is None:
            return None
        return Recency(now.date(), self.half_life_days)

    def needs_now(self, where: str | None) -> bool:
        """Whether anything hangs on what the time is."""
        return self.half_life_days is not None or (where is not None and names_now(where))

    def check_by_words(self) -> None:
        """UsageError for what a search by words can't do: it has no vectors, and its scores are no p(z|x)."""
        for name in ("mmr", "half_life_days"):
            if getattr(self, name) is not None:
                raise UsageError(f"found {name} with a search by words: expected a search by meaning, with a model")
        if self.approximate:
            raise UsageError("found approximate with a search by words: expected a search by meaning, with a model")


def constraints_of(**given: Any) -> Constraints | None:
    """Those that were given; None where none was. UsageError for one that can't be."""
    found = Constraints(**{name: value for name, value in given.items() if value is not None})
    return None if found == Constraints() else found


def _ids(name: str, ids: Iterable[str]) -> tuple[str, ...]:
    if isinstance(ids, str):
        raise UsageError(f"found {name}={ids!r}: expected a list")
    listed = tuple(ids)
    check_ids(name, listed)
    return listed
