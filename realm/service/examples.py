"""Examples of requests and answers, for OpenAPI. A test asks them."""

from __future__ import annotations

from typing import Any

STATUSES = {
    400: "The request asks for something impossible; the message says what was expected.",
    401: "No token, or a wrong one.",
    403: "The token may not do this, the request comes from another web page, or the store is read-only.",
    404: "No such document or version.",
    408: "The body came too slowly.",
    409: "The document is there already.",
    412: "Somebody else changed the document since: its ETag is no longer what `If-Match` says.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The body or the query has another shape than described here, or is beyond a limit.",
    500: "The service failed; its log has the reason under the request id.",
    503: "Not ready, stopping, or too busy: try again after `Retry-After` seconds.",
    504: "It took too long. An edit may have been committed all the same.",
    507: "The disk is full: nothing of the edit is there, what was acknowledged is, and questions are answered.",
}

ASK: dict[str, Any] = {
    "one": {"summary": "One question", "value": {"question": "Who painted Guernica?", "k": 5}},
    "many": {
        "summary": "Many, about some documents",
        "value": {
            "questions": ["Who painted Guernica?", "Where does it hang?"],
            "where": "source = 'museums' AND date >= '2024-01-01'",
        },
    },
    "varied": {
        "summary": "Of the last two years, the newest first, one passage a document",
        "value": {
            "question": "Who painted Guernica?",
            "where": "date >= now() - interval '2 years'",
            "half_life_days": 365,
            "max_per_document": 1,
        },
    },
    "past": {"summary": "As of a version", "value": {"question": "Who painted Guernica?", "as_of": 7}},
}
SEARCH: dict[str, Any] = {
    "meaning": {"summary": "By meaning", "value": {"query": "paintings of the civil war", "k": 3}},
    "words": {"summary": "By words (BM25)", "value": {"query": "Guernica", "by": "words", "where": "lang = 'en'"}},
}
RESTORE: dict[str, Any] = {
    "version": {"summary": "As of a version", "value": {"as_of": 7}},
    "time": {"summary": "As of a time", "value": {"as_of": "2024-05-01T09:30+02:00"}},
}
_GUERNICA = {
    "title": "Guernica",
    "text": "Guernica was painted by Pablo Picasso in Paris in 1937.",
    "source": "museums",
    "date": "2024-05-01",
    "lang": "en",
    "url": "https://example.org/guernica",
    "metadata": {"room": 206, "on_show": True},
}
ADD: dict[str, Any] = {
    "one": {"summary": "One document", "value": {"id": "guernica", **_GUERNICA}},
    "many": {
        "summary": "Several, all or none",
        "value": {"documents": [{"id": "a", "text": "The first."}, {"id": "b", "text": "The second."}]},
    },
}
UPDATE: dict[str, Any] = {"whole": {"summary": "The whole document, without its id", "value": _GUERNICA}}


_PASSAGE = {
    "document_id": "guernica",
    "number": 0,
    "title": "Guernica",
    "text": "Guernica was painted by Pablo Picasso in Paris in 1937.",
    "start": 0,
    "end": 55,
    "id": "guernica#0:5f1c7f0e",
}
_EVIDENCE = {
    "passage": _PASSAGE,
    "document_version": 7,
    "score": 11.2,
    "prior": 0.61,
    "posterior": 0.97,
    "retrieval_utility": 4.1,
    "span": [24, 37],
    "source": "museums",
    "date": "2024-05-01",
    "url": "https://example.org/guernica",
    "recency": None,
}
_OTHER = {
    **_EVIDENCE,
    "passage": {
        "document_id": "rumours",
        "number": 3,
        "title": "Rumours",
        "text": "Some say that Joan Miró painted it.",
        "start": 210,
        "end": 245,
        "id": "rumours#3:90ab12cd",
    },
    "span": [14, 23],
    "source": "letters",
    "date": "2023-02-11",
}
_SIDE = {"preferred": False, "reason": None, "date": "2024-05-01"}
ANSWER = {
    "question": "Who painted Guernica?",
    "text": "Pablo Picasso",
    "confidence": 0.63,
    "abstained": False,
    "evidence": [_EVIDENCE],
    "null_prior": 0.02,
    "alternatives": [["Joan Miró", 0.29]],
    "knowledge_base_version": 9,
    "conflicts": [
        {**_SIDE, "text": "Pablo Picasso", "mass": 0.63, "preferred": True, "evidence": [_EVIDENCE], "reason": "mass"},
        {**_SIDE, "text": "Joan Miró", "mass": 0.29, "evidence": [_OTHER], "date": "2023-02-11"},
    ],
    "signals": {},
    "now": None,
    "conflict": "the passages disagree: 'Pablo Picasso' (2024-05-01, museums, 63%) / 'Joan Miró' (2023-02-11, letters, "
    "29%); 'Pablo Picasso' is preferred: it has more of the probability, 63% against 29% for 'Joan Miró', and it is "
    "the newest, 2024-05-01 against 2023-02-11",
    "unread": 0.0,
}
HITS = {
    "hits": [
        {
            "rank": 1,
            "score": 11.2,
            "id": "guernica#0:5f1c7f0e",
            "document_id": "guernica",
            "document_version": 7,
            "number": 0,
            "title": "Guernica",
            "text": "Guernica was painted by Pablo Picasso in Paris in 1937.",
            "start": 0,
            "end": 55,
            "source": "museums",
            "date": "2024-05-01",
            "url": "https://example.org/guernica",
            "recency": None,
        }
    ],
    "version": 9,
    "now": None,
}
PAGE = {"documents": [{"id": "guernica", **_GUERNICA}], "total": 120, "version": 9, "cursor": "9.30064771072"}
DOCUMENT = {
    "document": {"id": "guernica", **_GUERNICA},
    "document_version": 7,
    "revision": 2,
    "time": "2026-11-23T08:00:00+00:00",
    "version": 9,
}
HISTORY = {
    "changes": [
        {
            "version": 7,
            "revision": 2,
            "time": "2026-11-23T08:00:00+00:00",
            "change": "updated",
            "num_passages": 1,
            "title": "Guernica",
            "text": "Guernica was painted by Pablo Picasso in Paris in 1937.",
            "difference": [
                ["same", "Guernica was painted by Pablo Picasso in "],
                ["removed", "Spain"],
                ["added", "Paris"],
                ["same", " in 1937."],
            ],
            "fields": [{"name": "date", "old": None, "new": "1937-06-04"}],
            "same_as": None,
        }
    ],
    "before": 7,
}
UPDATED = {"added": 0, "updated": 1, "unchanged": 0, "deleted": 0, "version": 10}
DELETED = {"added": 0, "updated": 0, "unchanged": 0, "deleted": 1, "version": 11}
KNOWLEDGE_BASE = {
    "version": 9,
    "documents": 120,
    "passages": 340,
    "columns": {"document_id": "string", "source": "string", "date": "date32[day]", "room": "int64"},
    "encoders": {"0123456789abcdef_288": 128},
    "index": {"encoder": "0123456789abcdef_288", "waiting": 0, "age_seconds": 0.0},
}
MODEL = {
    "kind": "fine-tuned",
    "encoder": "0123456789abcdef_288",
    "k": 5,
    "trainings": [
        {
            "kind": "fine-tuning",
            "created": "2026-11-23T02:02:32+00:00",
            "realm_version": "0.7.4",
            "curves": [
                {
                    "name": "exact-match",
                    "title": "Exact match on the dev questions",
                    "meaning": "How often the answer was right, and how sure the model was of its answers.",
                    "stage": "qa",
                    "share": True,
                    "series": [
                        {"name": "exact_match", "label": "exact match", "points": [[0, 0.0], [100, 0.06], [200, 0.14]]}
                    ],
                }
            ],
        }
    ],
}
