"""How long passages are: assumed, or read off documents of one's own, which every size and most times follow from.

Also the documents that the measurements work on: one's own, or made ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realm.errors import DataError
from realm.knowledge.text.taggers import PATTERN
from realm.types import Document

if TYPE_CHECKING:
    from realm.knowledge.snapshot import Snapshot

SAMPLE = (
    "The harbour of Almby was rebuilt in 1874, after the storm that had sunk eleven ships in a single night.",
    "Its architect, Clara Moss, had studied in Vienna and came back with drawings of covered markets and iron bridges.",
    "Most of the granite was carried down the river from the quarries near Borstad, forty kilometres to the north.",
    "When the railway arrived on 3 May 1891, the population had doubled and the old fish hall was too small.",
    "The poet Emil Hart, who lived in the customs house, described the smell of tar and coffee in his letters.",
    "Today the warehouses hold workshops, a library and the regional museum, which opened in September 1988.",
)
"""Prose with about as many names and dates as an encyclopaedia has; made up."""
BYTES_A_PIECE = 4.75
"""English under a vocabulary of 30,000: 4.66, 4.83 and 4.86 in three sets of encyclopaedia articles."""
PIECES_A_SENTENCE = 29.0
"""28, 28 and 31 in the same."""
SPANS_A_PIECE, PATTERN_SPANS_A_PIECE = 0.06, 0.115
"""Salient spans: names by spaCy's small English pipeline, and by pattern."""
SAMPLE_BYTES = 800_000
"""Of the documents that are measured on."""
LOOKED_BYTES = 16_000_000
"""Of documents in a file, of which those that are measured on are taken evenly: the first are seldom like the rest."""
LOOKED_AT = 2_000
"""Passages of a knowledge base whose word pieces are counted, spread over it."""
WORDS = 20_000
"""Made words, so that an index of words has about as many to hold as it would."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Means over passages."""

    pieces: float
    """Word pieces of the body, without specials."""
    bytes: float
    """UTF-8 of the body."""
    title_pieces: float
    title_bytes: float
    id_bytes: float
    """Of the document's id."""
    sentences: float
    documents: float
    """A passage's share of its document: 1 where every document is one passage."""
    source: str
    """Where they come from: "assumed", or what was read."""

    def spans(self, pipeline: str) -> float:
        """Salient spans of a passage, reckoned from its pieces."""
        return self.pieces * (PATTERN_SPANS_A_PIECE if pipeline == PATTERN else SPANS_A_PIECE)

    def tokens(self, most: int) -> float:
        """Of [CLS] title [SEP] body [SEP], cut to `most`."""
        return min(self.pieces + self.title_pieces + 3, most)


ASSUMED = Lengths(
    pieces=160,
    bytes=160 * BYTES_A_PIECE,
    title_pieces=4,
    title_bytes=15,
    id_bytes=14,
    sentences=160 / PIECES_A_SENTENCE,
    documents=0.5,
    source="assumed",
)
"""Sentences packed to at most 288 pieces; short documents and last passages are well below."""
WIKIPEDIA = replace(ASSUMED, pieces=205.0, bytes=205 * BYTES_A_PIECE, sentences=205 / PIECES_A_SENTENCE, documents=0.44)
"""2.1 billion words (DPR's 21 million passages of 100) in 13.35 million passages, of 5.9 million articles."""


@dataclass(frozen=True)
class Text:
    """What is measured on, and how long passages are."""

    lengths: Lengths
    documents: Sequence[Document]


def assumed(characters: int = 4_000) -> Text:
    """Made documents, for passages of the assumed length."""
    draw = np.random.default_rng(0)
    texts = (_with_made_words(text, draw) for text in sample_texts(SAMPLE_BYTES // characters, characters))
    return Text(ASSUMED, [Document(f"made-{n}", f"Almby {n}", text) for n, text in enumerate(texts)])


def of_documents(documents: Iterable[Document], split: Any, name: str) -> Text:
    """Of documents of one's own, as many as `SAMPLE_BYTES` hold. split: `SentenceSplitter` with its tokenizer.

    DataError: they have no text.
    """
    taken = _some(documents)
    counted = [(one, passages) for one, passages in zip(taken, split(taken), strict=True) if passages]
    if not counted:
        raise DataError(f"{name} holds no text: expected documents like those that are to be ingested")
    bodies = [passage.text for _, passages in counted for passage in passages]
    lengths = Lengths(
        pieces=_mean_pieces(split.tokenizer, bodies),
        bytes=_mean(len(body.encode()) for body in bodies),
        title_pieces=_mean_pieces(split.tokenizer, [one.title for one, _ in counted]),
        title_bytes=_mean(len(one.title.encode()) for one, _ in counted),
        id_bytes=_mean(len(one.id.encode()) for one, _ in counted),
        sentences=_mean(len(passage.sentences) for _, passages in counted for passage in passages),
        documents=len(counted) / len(bodies),
        source=f"{len(bodies):,} passages of {name}",
    )
    return Text(lengths, taken)


def tokenizer_at(*places: Path | None) -> Any:
    """The tokenizer of the first of these folders that has one; else a function that makes about as many pieces."""
    for place in places:
        if place is not None and (place / "tokenizer.json").exists():
            from realm.knowledge.build import load_tokenizer

            return load_tokenizer(place)
    return stand_in_pieces


def of_file(source: str, split: Any) -> Text:
    """Of the first documents of anything that `realm ingest` reads. DataError: no file, or no text in it."""
    from realm.knowledge.formats.sources import read_documents

    if not source.startswith("hf:") and not Path(source).expanduser().exists():
        raise DataError(f"no file or folder {source}: expected documents like those that are to be ingested")
    return of_documents(read_documents(source), split, Path(source).name)


def of_knowledge_base(path: Path, tokenizer: Any) -> Text:
    """Of all passages that a knowledge base holds; word pieces are counted of some of them. DataError: it is empty."""
    from realm.knowledge.base import KnowledgeBase

    kb = KnowledgeBase.open(path)
    kb = kb.at(kb.version)
    passages, documents = kb.num_passages(), len(kb)
    if not passages:
        raise DataError(f"the knowledge base {path} holds no passages: expected some to take the lengths from")
    totals = np.zeros(2)
    titles: list[str] = []
    bodies: list[str] = []
    ids = seen = 0
    every = max(1, passages // LOOKED_AT)
    for batch in kb.batches(["text", "title", "document_id", "sentences"]):
        spans = batch["sentences"]
        totals += (_bytes(batch["text"]), len(spans.flatten()) / 2)
        chosen = slice((-seen) % every, None, every)
        bodies += batch["text"].to_pylist()[chosen]
        titles += [title or "" for title in batch["title"].to_pylist()[chosen]]
        ids += sum(len(one.encode()) for one in batch["document_id"].to_pylist()[chosen])
        seen += batch.num_rows
    lengths = Lengths(
        pieces=_mean_pieces(tokenizer, bodies),
        bytes=float(totals[0]) / passages,
        title_pieces=_mean_pieces(tokenizer, titles),
        title_bytes=_mean(len(title.encode()) for title in titles),
        id_bytes=ids / len(bodies),
        sentences=float(totals[1]) / passages,
        documents=documents / passages,
        source=f"{passages:,} passages of {Path(path).name}",
    )
    return Text(lengths, _some(kb.documents()))


def of_snapshot(snapshot: Snapshot) -> Lengths:
    """Of all its passages."""
    rows = range(len(snapshot))
    first = [row for row in rows if not row or snapshot.document_id(row) != snapshot.document_id(row - 1)]
    return Lengths(
        pieces=_mean(len(snapshot.body_ids(row)) for row in rows),
        bytes=_mean(len(snapshot.text(row).encode()) for row in rows),
        title_pieces=_mean(len(snapshot.title_ids(row)) for row in first),
        title_bytes=_mean(len(snapshot.title(row).encode()) for row in first),
        id_bytes=_mean(len(snapshot.document_id(row).encode()) for row in first),
        sentences=_mean(len(snapshot.sentences(row)) for row in rows),
        documents=len(first) / len(snapshot),
        source=f"{len(snapshot):,} passages",
    )


def sample_texts(count: int, characters: int) -> list[str]:
    """Texts of about so many characters, no two neighbours equal."""
    texts = []
    for start in range(count):
        text, sentences = "", islice(cycle(SAMPLE), start % len(SAMPLE), None)
        while len(text) < characters:
            text += next(sentences) + " "
        texts.append(text[:characters])
    return texts


def _with_made_words(text: str, draw: np.random.Generator) -> str:
    """Half of the words without a capital become others: numbers in letters, small ones often (Zipf's law)."""
    words = text.split(" ")
    rank_N = (WORDS ** draw.random(len(words))).astype(int)
    swap_N = draw.random(len(words)) < 0.5
    for at in np.flatnonzero(swap_N).tolist():
        if words[at].isalpha() and words[at].islower():
            words[at] = _spelt(int(rank_N[at]))
    return " ".join(words)


def _spelt(number: int) -> str:
    """A number in syllables."""
    word = ""
    while number or not word:
        number, syllable = divmod(number, 60)
        word += "bdfgklmnprst"[syllable % 12] + "aeiou"[syllable // 12] + ("n" if syllable % 3 else "")
    return word


def stand_in_pieces(texts: Sequence[str]) -> list[np.ndarray]:
    """Ends of about as many word pieces as a tokenizer of English makes (`PieceEnds`), where there is none."""
    import re

    return [np.array([found.end() for found in re.finditer(r"\w{1,8}|[^\w\s]", text)], np.int64) for text in texts]


def _some(documents: Iterable[Document]) -> list[Document]:
    """Documents of about `SAMPLE_BYTES` together, taken evenly from the first `LOOKED_BYTES`."""
    seen: list[Document] = []
    size = 0
    for one in documents:
        seen.append(replace(one, text=one.text[:SAMPLE_BYTES]))
        size += len(seen[-1].text)
        if size >= LOOKED_BYTES:
            break
    return seen[:: max(1, -(-size // SAMPLE_BYTES))]


def _mean_pieces(tokenizer: Any, texts: Sequence[str]) -> float:
    from realm.knowledge.text.pieces import piece_ends

    ends, _ = piece_ends(tokenizer)
    return _mean(len(one) for one in ends(list(texts)))


def _mean(numbers: Iterable[float]) -> float:
    listed = list(numbers)
    return float(np.mean(listed)) if listed else 0.0


def _bytes(column: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(column)).as_py() or 0)
