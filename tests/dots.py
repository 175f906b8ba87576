"""A splitter for tests about storage: every piece between full stops is a passage, and white space is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from realm.types import Document, Passage

SETTINGS = {"splitter": "dots"}


def split(documents: Sequence[Document]) -> list[list[Passage]]:
    """Passages of each document, one sentence each; blank documents have none."""
    return [_passages(document) for document in documents]


def _passages(document: Document) -> list[Passage]:
    pieces = re.finditer(r"[^.\s][^.]*", document.text)
    return [
        Passage(document.id, number, document.title, m.group(), m.start(), m.end(), ((0, len(m.group())),))
        for number, m in enumerate(pieces)
    ]
