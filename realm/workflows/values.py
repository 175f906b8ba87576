"""What is told of answers, passages and documents, as JSON values: one form for the command line, HTTP and tools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from realm.knowledge.base import Match, Revision
from realm.types import Answer, Document


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON values with the names of `Answer`; dates in ISO form."""
    value = asdict(answer)
    pairs = [*zip(value["evidence"], answer.evidence, strict=True)]
    for told_side, side in zip(value["conflicts"], answer.conflicts, strict=True):
        pairs += zip(told_side["evidence"], side.evidence, strict=True)
        told_side["date"] = side.date.isoformat() if side.date else None
    for evidence, found in pairs:
        evidence["date"] = found.date.isoformat() if found.date else None
        evidence["passage"]["id"] = found.passage.id
        evidence["passage"].pop("sentences")
        if math.isnan(found.retrieval_utility):  # there was no null passage to compare with
            evidence["retrieval_utility"] = None
        evidence["span"] = list(found.span) if found.span else None
    value["now"] = answer.now.isoformat() if answer.now else None
    return value


def hits_json(matches: Sequence[Match]) -> list[dict[str, Any]]:
    """What a search found, best first, with the names of `Passage` and `Match`."""
    return [
        {
            "rank": rank,
            "score": match.score,
            "id": match.passage.id,
            "document_id": match.passage.document_id,
            "document_version": match.document_version,
            "number": match.passage.number,
            "title": match.passage.title,
            "text": match.passage.text,
            "start": match.passage.start,
            "end": match.passage.end,
            "source": match.source,
            "date": match.date.isoformat() if match.date else None,
            "url": match.url,
            "recency": match.recency,
        }
        for rank, match in enumerate(matches, start=1)
    ]


def found_json(matches: Sequence[Match], version: int, now: datetime | None) -> dict[str, Any]:
    """What a search found, in which version, and the moment that it hung on."""
    return {"hits": hits_json(matches), "version": version, "now": now.isoformat() if now else None}


def document_json(document: Document) -> dict[str, Any]:
    """A document with the names of `Document`; a metadata value that JSON has no word for (NaN, infinity) is null."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "source": document.source,
        "date": document.date.isoformat() if document.date else None,
        "lang": document.lang,
        "url": document.url,
        "metadata": {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in document.metadata.items()
        },
    }


def revision_json(revision: Revision, text: str) -> dict[str, Any]:
    """A change of a document with the names of `Revision`, and the text that it left ("" when it was deleted)."""
    return {
        "version": revision.version,
        "revision": revision.revision,
        "time": revision.time.isoformat(),  # exact: given as a time to read as of, it means this version
        "change": revision.change,
        "num_passages": revision.num_passages,
        "title": revision.title,
        "text": text,
    }
