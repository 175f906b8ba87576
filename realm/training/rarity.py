"""Spans by how many documents hold them: which of them retrieval can help with.

A span that stands in one document alone can't be told by any other, and one that stands in hundreds is in every list
of passages by accident; both give the retriever noise. Guu et al. 2020 mask any salient span; this is a narrower one.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import numpy as np

from realm.types import Spans


class Titled(Protocol):
    """What counting reads of a snapshot."""

    def __len__(self) -> int: ...

    def text(self, row: int) -> str: ...

    def document_id(self, row: int) -> str: ...


class SpansByRarity:
    """The spans of `spans` whose text is a span of `low` to `high` documents (None: no limit), case ignored."""

    def __init__(self, spans: Spans, snapshot: Titled, low: int, high: int | None) -> None:
        """One pass over all spans; memory for each distinct span and one flag a span."""
        self._spans = spans
        numbers: dict[str, int] = {}
        last: dict[int, str] = {}
        documents: Counter[int] = Counter()
        rows: list[list[int]] = []
        for row in range(len(snapshot)):
            text, document = snapshot.text(row), snapshot.document_id(row)
            found = []
            for start, end in spans.spans(row).tolist():
                number = numbers.setdefault(text[start:end].casefold(), len(numbers))
                if last.get(number) != document:
                    last[number] = document
                    documents[number] += 1
                found.append(number)
            rows.append(found)
        most = np.inf if high is None else high
        self._kept = [np.array([low <= documents[number] <= most for number in found], bool) for found in rows]

    def spans(self, row: int) -> np.ndarray:
        """Int32[S, 2]"""
        return np.asarray(self._spans.spans(row)[self._kept[row]])
