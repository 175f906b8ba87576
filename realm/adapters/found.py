"""What every adapter shares: how it searches, and what it tells of a passage."""

from __future__ import annotations

from typing import Any

from realm.answering.ask import Realm
from realm.answering.constraints import Constraints
from realm.answering.questions import QuestionAnswering
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase, Match
from realm.knowledge.table.times import AsOf

Model = Realm | QuestionAnswering


def check_k(k: int) -> None:
    """UsageError unless some passage is wanted."""
    if k < 1:
        raise UsageError(f"found k={k}: expected at least 1")


def find(
    model: Model,
    kb: KnowledgeBase,
    query: str,
    k: int,
    where: str | None,
    as_of: AsOf | None,
    constraints: Constraints | None,
) -> list[Match]:
    """The k passages that `Realm.search` finds, best first. UsageError for an empty query."""
    check_k(k)
    if not query.strip():
        raise UsageError("found an empty query: expected some words")
    return model.search(query, kb, k, where, as_of, constraints)


def metadata_of(match: Match) -> dict[str, Any]:
    """What is known of a passage, as JSON values with the names of `Passage` and `Match`; what is not known is left
    out. start, end: its characters in the document's text."""
    passage = match.passage
    known = {
        "document_id": passage.document_id,
        "document_version": match.document_version,
        "title": passage.title,
        "source": match.source,
        "date": match.date.isoformat() if match.date else None,
        "url": match.url,
        "number": passage.number,
        "start": passage.start,
        "end": passage.end,
        "score": match.score,
        "recency": match.recency,
    }
    return {name: value for name, value in known.items() if value is not None}
