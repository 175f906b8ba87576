"""What a knowledge base is tried with, and what it must say then: dictionaries that remember every version."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

import dots
import numpy as np
from hypothesis import strategies as st

from realm.knowledge.base import PassageEncoder
from realm.types import Document, Passage

IDS = ("a", "b'; --", "ü😀", "d/e", "new")
WORDS = ("kumquat", "zebra", "fjord", "quartz")
BIG = 1_000
"""More than there ever is of anything."""


# ---------------------------------------------------------------- what is tried

SENTENCES = st.lists(st.sampled_from([*WORDS, "ä'b", "😀"]), min_size=1, max_size=3).map(" ".join)
TEXTS = st.one_of(
    st.lists(SENTENCES, max_size=4).map(". ".join), st.text(alphabet="xyz. \n😀'", max_size=12), st.just("")
)
DAYS = (date(2023, 12, 31), date(2024, 1, 1), date(2024, 2, 29))
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "size": st.one_of(st.integers(-3, 3), st.sampled_from([-0.5, 2.0]), st.just("large")),
        "Open": st.booleans(),
    },
)


@st.composite
def documents(draw: Any) -> Document:
    return Document(
        draw(st.sampled_from(IDS)),
        draw(st.sampled_from(["", "Kumquat", "it's"])),
        draw(TEXTS),
        source=draw(st.sampled_from([None, "news", "it's"])),
        date=draw(st.sampled_from([None, *DAYS])),
        metadata=draw(METADATA),
    )


BATCHES = st.lists(documents(), min_size=1, max_size=4, unique_by=lambda document: document.id)


def _size(document: Document) -> Any:
    return document.metadata.get("size")


Asked = tuple[str | None, Callable[[Document], bool]]
"""A predicate, and what it means."""
WHERE: tuple[Asked, ...] = (
    (None, lambda d: True),
    ("source = 'it''s'", lambda d: d.source == "it's"),
    ("not (source = 'news')", lambda d: d.source not in (None, "news")),
    ("source is null or date > '2023-12-31'", lambda d: d.source is None or (d.date is not None and d.date > DAYS[0])),
    ("document_id in ('a', 'b''; --')", lambda d: d.id in ("a", "b'; --")),
    ("date between '2024-01-01' and '2024-12-31'", lambda d: d.date is not None and d.date.year == 2024),
    ("size is null", lambda d: _size(d) is None),
    ("open", lambda d: d.metadata.get("Open") is True),
    ("not open and title like 'K%'", lambda d: d.metadata.get("Open") is False and d.title.startswith("K")),
)
WHERES = st.sampled_from(WHERE)


class Encoder:
    """Vectors of whole numbers, whose products are exact; of two kinds, so that a mix-up shows."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __call__(self, passages: Sequence[Passage]) -> np.ndarray:
        return np.array([self.vector(passage) for passage in passages], np.float32).reshape(len(passages), -1)

    def vector(self, passage: Passage) -> list[int]:
        digest = zlib.crc32(f"{self.kind} {passage.title} {passage.text}".encode())
        return [len(passage.text), digest % 97, digest // 97 % 89][: 2 + self.kind]


ENCODERS = {name: PassageEncoder(name, Encoder(kind)) for kind, name in enumerate(("e", "f"))}
NAMES = st.sampled_from(sorted(ENCODERS))
MAYBE = st.one_of(st.none(), NAMES)


# ---------------------------------------------------------------- the oracle


@dataclass(frozen=True)
class State:
    """What one version holds."""

    version: int = 0
    time: datetime | None = None
    documents: Mapping[str, Document] = field(default_factory=dict)
    """As they were given, in order of insertion."""
    embedded: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """Encoder -> document -> text hashes of the passages that have its vector."""
    columns: Mapping[str, type] = field(default_factory=dict)

    def read(self, document: Document) -> Document:
        """As it comes out: a whole number in a column of fractions is one."""
        found = {k: float(v) if self.columns[k] is float else v for k, v in document.metadata.items()}
        return replace(document, metadata=found)

    def passages(self) -> list[Passage]:
        return [passage for found in dots.split(list(self.documents.values())) for passage in found]

    def embedded_after(
        self, batch: Sequence[Document], encoder: str | None, known: Mapping[str, frozenset[str]]
    ) -> dict[str, dict[str, frozenset[str]]]:
        """Vectors after the documents of a batch are replaced: what any of them had, or is known, stays with equal
        texts; `encoder` makes the rest."""
        found = {name: dict(of) for name, of in self.embedded.items()}
        held = {
            name: known.get(name, frozenset()).union(*(of.get(d.id, frozenset()) for d in batch))
            for name, of in found.items()
        }
        if encoder is not None:
            wanted = frozenset[str]().union(*map(hashes, batch))
            if wanted - held.get(encoder, frozenset()):
                found.setdefault(encoder, {})
            if encoder in found:
                held[encoder] = held.get(encoder, frozenset()) | wanted
        for name, of in found.items():
            for document in batch:
                of[document.id] = hashes(document) & held[name]
        return found


def columns_for(columns: Mapping[str, type], batch: Iterable[Document]) -> dict[str, type] | None:
    """The metadata's columns with those that a batch brings; None where one doesn't fit."""
    found, fresh = dict(columns), set[str]()
    for document in batch:
        for key, value in document.metadata.items():
            kind = type(value)
            if key not in found:
                found[key] = kind
                fresh.add(key)
            elif found[key] is not kind and not (kind is int and found[key] is float):
                if key not in fresh or {found[key], kind} != {int, float}:
                    return None
                found[key] = float
    return found


def hashes(document: Document) -> frozenset[str]:
    return frozenset(passage.text_hash for passage in dots.split([document])[0])
