"""Which documents may be read or found: a predicate, and lists of documents that are allowed or denied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date as Date
from datetime import datetime

from realm.errors import UsageError
from realm.knowledge.table.predicate_tokens import names_now
from realm.knowledge.table.predicates import (
    MAX_VALUES,
    Absent,
    AllOf,
    AnyOf,
    Comparison,
    Constant,
    In,
    Not,
    Predicate,
    parse,
)


@dataclass(frozen=True, slots=True)
class Filter:
    """A predicate with the moment that its NOW() means, and lists of ids."""

    where: str | None = None
    allow: tuple[str, ...] | None = None
    """Only these documents; none of them where it is empty."""
    deny: tuple[str, ...] = ()
    """None of these documents."""
    deny_sources: tuple[str, ...] = ()
    """Nothing from these sources; what has no source stays."""
    sources: tuple[str, ...] | None = None
    """Only from these sources; nothing where it is empty."""
    since: Date | None = None
    until: Date | None = None
    """Documents of these days and those between; what has no date is left out."""
    now: datetime | None = None
    """The present when None."""

    @property
    def narrows(self) -> bool:
        """Whether there is anything that could leave something out."""
        listed = self.allow is not None or self.deny or self.deny_sources or self.sources is not None
        return bool(listed or self.since or self.until or (self.where or "").strip())

    def predicate(self, columns: Mapping[str, str]) -> Predicate:
        """All of it as one tree. columns: see `predicates.parse`. PredicateError for a faulty `where`."""
        parts: list[Predicate] = []
        if self.where is not None and self.where.strip():
            parts.append(parse(self.where, columns, self.now))
        if self.allow is not None:
            parts.append(In("document_id", self.allow) if self.allow else Constant(False))
        if self.deny:
            parts.append(Not(In("document_id", self.deny)))
        if self.deny_sources:
            parts.append(AnyOf((Absent("source"), Not(In("source", self.deny_sources)))))
        if self.sources is not None:
            parts.append(In("source", self.sources) if self.sources else Constant(False))
        if self.since is not None:
            parts.append(Comparison("date", ">=", self.since))
        if self.until is not None:
            parts.append(Comparison("date", "<=", self.until))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


Where = str | Filter | None
"""Text is a predicate whose NOW() is the present."""


def at_moment(where: str | None, moment: Callable[[], datetime]) -> Where:
    """A predicate whose NOW() is a moment, which is asked for only if there is one."""
    return where if where is None or not names_now(where) else Filter(where, now=moment())


def narrowing(where: Where) -> Filter | None:
    """What of `where` leaves anything out; None where nothing does."""
    found = Filter(where) if isinstance(where, str) else where
    return found if found is not None and found.narrows else None


def check_ids(name: str, ids: Iterable[str]) -> None:
    """UsageError for a list that is too long, or holds what is no id."""
    listed = list(ids)
    if len(listed) > MAX_VALUES:
        raise UsageError(f"found {len(listed):,} documents in {name}: expected at most {MAX_VALUES:,}")
    for one in listed:
        try:
            one.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"found half a character (a lone surrogate) in {name}: expected ids of documents"
            ) from None
