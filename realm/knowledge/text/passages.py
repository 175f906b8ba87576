"""Document to passages: whole sentences packed to a budget of word pieces, or a fixed number of words.

`passage.text` is always `document.text[start:end]`; between two passages of a document lies white space only,
so nothing that was written is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from realm.errors import DataError, UsageError
from realm.knowledge.text.pieces import PieceEnds, piece_ends
from realm.knowledge.text.sentences import sentence_spans, strip_span
from realm.types import Document, Passage

Span = tuple[int, int]

_BATCH = 1_000_000
"""Characters tokenized at once: enough to keep every core busy, little enough to hold."""


class Splitter(Protocol):
    """Documents to their passages, in order. A document without text has none."""

    @property
    def settings(self) -> dict[str, str | int]:
        """What the passages depend on besides the text, as JSON values: kept with what is made from them."""
        ...

    def __call__(self, documents: Sequence[Document]) -> list[list[Passage]]: ...


@dataclass(frozen=True)
class SentenceSplitter:
    """Greedy packing of whole sentences (Guu et al. 2020, section 4.3; ORQA's preprocessing).

    A sentence joins the passage while specials + |title| + |passage| + |sentence| <= `max_tokens`, in word
    pieces; passages do not overlap. A sentence over the budget is a passage of its own, truncated only when it
    is encoded; over twice the budget, or over 16 characters for each piece of the budget, it is taken for
    something else than a sentence (a table, a list, base64) and cut into pieces that fit.
    """

    tokenizer: Any
    """A fast tokenizer (`transformers` or `tokenizers`), or a function from texts to the ends of their pieces."""
    max_tokens: int = 288

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise UsageError(f"max_tokens={self.max_tokens}: expected at least 8, room for the title and a few words")

    @property
    def settings(self) -> dict[str, str | int]:
        return {"splitter": "sentences", "max_tokens": self.max_tokens}

    def __call__(self, documents: Sequence[Document]) -> list[list[Passage]]:
        """Passages of each document. Raises DataError for text that UTF-8 can't hold."""
        ends, specials = self._pieces
        titles = _counted(ends, [document.title for document in documents])
        found: list[list[Passage]] = [[] for _ in documents]
        for batch, sentences, pieces in self._tokenized(ends, documents):
            for index, spans, counts in zip(batch, sentences, pieces, strict=True):
                # A title may take half of the budget at most: a passage must have room for its own words.
                budget = self.max_tokens - specials - min(titles[index], self.max_tokens // 2)
                fitting, sizes = self._cut(documents[index].text, spans, counts, budget)
                found[index] = _passages(documents[index], self._pack(fitting, sizes, budget))
        return found

    @staticmethod
    def _tokenized(
        ends: PieceEnds, documents: Sequence[Document]
    ) -> Iterator[tuple[list[int], list[list[Span]], list[list[np.ndarray]]]]:
        """(indices of documents, their sentences, the ends of those's pieces) of each batch.

        A tokenizer works outside Python's lock: the next batch is tokenized while this one is packed.
        """
        waiting: tuple[list[int], list[list[Span]], Future[list[list[np.ndarray]]]] | None = None
        with ThreadPoolExecutor(1) as pool:
            for batch in _batches(documents):
                sentences = [_sentences(documents[index]) for index in batch]
                started = pool.submit(_pieces, ends, [documents[index].text for index in batch], sentences)
                if waiting is not None:
                    yield *waiting[:2], waiting[2].result()
                waiting = batch, sentences, started
            if waiting is not None:
                yield *waiting[:2], waiting[2].result()

    @cached_property
    def _pieces(self) -> tuple[PieceEnds, int]:
        return piece_ends(self.tokenizer)

    def _cut(self, text: str, spans: list[Span], ends: list[np.ndarray], budget: int) -> tuple[list[Span], list[int]]:
        """Sentences that are none, cut where a piece ends, at white space if there is any near."""
        fitting: list[Span] = []
        sizes: list[int] = []
        longest = 16 * self.max_tokens
        for (start, end), piece in zip(spans, ends, strict=True):
            if len(piece) <= 2 * self.max_tokens and end - start <= longest:
                fitting.append((start, end))
                sizes.append(len(piece))
                continue
            while start < end:
                left = int(np.searchsorted(piece, start, side="right"))
                stop = int(piece[left + budget - 1]) if len(piece) > left + budget else end
                stop = _cut_near(text, start, stop, longest) if stop < end or stop - start > longest else end
                span = strip_span(text, start, stop)
                if span[0] < span[1]:
                    fitting.append(span)
                    sizes.append(int(np.searchsorted(piece, stop, side="right")) - left)
                start = stop
        return fitting, sizes

    def _pack(self, spans: list[Span], sizes: list[int], budget: int) -> Iterator[list[Span]]:
        group: list[Span] = []
        total = 0
        longest = 16 * self.max_tokens  # in characters: some tokenizers make one piece of a word of any length
        for span, size in zip(spans, sizes, strict=True):
            if group and (total + size > budget or span[1] - group[0][0] > longest):
                yield group
                group, total = [], 0
            group.append(span)
            total += size
        if group:
            yield group


@dataclass(frozen=True)
class WordSplitter:
    """Passages of `num_words` words, whatever the sentences (Karpukhin et al. 2020, section 4.1).

    Words are what stands between white space; every 32 characters of a longer one count as a word, so that
    text written without spaces is cut too. The last passage of a document may be shorter.
    """

    num_words: int = 100

    def __post_init__(self) -> None:
        if self.num_words < 1:
            raise UsageError(f"num_words={self.num_words}: expected at least 1")

    @property
    def settings(self) -> dict[str, str | int]:
        return {"splitter": "words", "num_words": self.num_words}

    def __call__(self, documents: Sequence[Document]) -> list[list[Passage]]:
        return [_passages(document, self._groups(document)) for document in documents]

    def _groups(self, document: Document) -> Iterator[list[Span]]:
        words = re.finditer(r"\S{1,32}", document.text)
        sentences = iter(_sentences(document))
        sentence = next(sentences, None)
        for first in words:
            end = first.end()
            for _, word in zip(range(self.num_words - 1), words, strict=False):
                end = word.end()
            group: list[Span] = []
            while sentence is not None and sentence[0] < end:
                span = strip_span(document.text, max(sentence[0], first.start()), min(sentence[1], end))
                if span[0] < span[1]:
                    group.append(span)
                if sentence[1] > end:
                    break
                sentence = next(sentences, None)
            yield group


def sentence_passages(document: Document, tokenizer: Any, max_tokens: int = 288) -> list[Passage]:
    """The passages of one document by `SentenceSplitter`; for many documents `split_documents` is faster."""
    return SentenceSplitter(tokenizer, max_tokens)([document])[0]


def word_passages(document: Document, num_words: int = 100) -> list[Passage]:
    """The passages of one document by `WordSplitter`."""
    return WordSplitter(num_words)([document])[0]


def split_documents(
    documents: Iterable[Document], splitter: Splitter, *, batch_characters: int = _BATCH
) -> Iterator[tuple[Document, list[Passage]]]:
    """Stream documents with their passages, in the order given, holding one batch at a time."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text) + len(document.title) + 1
        if characters >= batch_characters:
            yield from zip(batch, splitter(batch), strict=True)
            batch, characters = [], 0
    yield from zip(batch, splitter(batch), strict=True)


def _batches(documents: Sequence[Document]) -> Iterator[list[int]]:
    """Indices of documents whose text is tokenized together."""
    batch: list[int] = []
    characters = 0
    for index, document in enumerate(documents):
        if batch and characters + len(document.text) > _BATCH:
            yield batch
            batch, characters = [], 0
        batch.append(index)
        characters += len(document.text)
    if batch:
        yield batch


def _sentences(document: Document) -> list[Span]:
    try:
        return list(sentence_spans(document.text, document.lang))
    except UnicodeEncodeError as error:
        raise DataError(
            f"document {document.id!r}: found half a character (U+{ord(document.text[error.start]):04X}) at position "
            f"{error.start}, expected text that UTF-8 can hold; correct the document"
        ) from None


def _passages(document: Document, groups: Iterable[list[Span]]) -> list[Passage]:
    return [
        Passage(
            document_id=document.id,
            number=number,
            title=document.title,
            text=document.text[group[0][0] : group[-1][1]],
            start=group[0][0],
            end=group[-1][1],
            sentences=tuple((start - group[0][0], end - group[0][0]) for start, end in group),
        )
        for number, group in enumerate(groups)
    ]


def _counted(ends: PieceEnds, texts: list[str]) -> list[int]:
    return [len(pieces) for pieces in ends(texts)]


def _pieces(ends: PieceEnds, texts: list[str], sentences: list[list[Span]]) -> list[list[np.ndarray]]:
    """For each sentence of each text the ends of its pieces, as positions in the text.

    Texts are tokenized in stretches of whole sentences, so that a long document costs no more memory than short ones.
    """
    stretches: list[tuple[int, int, int]] = []  # text, first sentence, sentence after the last
    for index, spans in enumerate(sentences):
        first = 0
        for number in range(1, len(spans) + 1):
            if number == len(spans) or spans[number][1] - spans[first][0] > _BATCH // 10:
                stretches.append((index, first, number))
                first = number
    found: list[list[np.ndarray]] = [[] for _ in texts]
    for group in _stretch_groups(stretches, sentences):
        inputs = [texts[i][sentences[i][first][0] : sentences[i][last - 1][1]] for i, first, last in group]
        for (index, first, last), piece in zip(group, ends(inputs), strict=True):
            spans = sentences[index][first:last]
            # A piece belongs to the sentence that holds its last character: some begin with the space before.
            piece = piece + spans[0][0]
            limits = np.searchsorted(piece, np.array([end for _, end in spans]), side="right")
            found[index].extend(np.split(piece, limits[:-1]))
    return found


def _stretch_groups(
    stretches: list[tuple[int, int, int]], sentences: list[list[Span]]
) -> Iterator[list[tuple[int, int, int]]]:
    group: list[tuple[int, int, int]] = []
    characters = 0
    for index, first, last in stretches:
        group.append((index, first, last))
        characters += sentences[index][last - 1][1] - sentences[index][first][0]
        if characters >= _BATCH:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _cut_near(text: str, start: int, stop: int, longest: int) -> int:
    """Where to cut text[start:stop] at the latest: after white space in its second half, else between characters
    that are not written on top of each other."""
    stop = min(stop, start + longest)
    half = start + (stop - start + 1) // 2
    for position in range(stop, half, -1):
        if text[position - 1].isspace() or text[position : position + 1].isspace():
            return position
    for position in range(stop, half, -1):
        if not _joins(text, position):
            return position
    return stop


def _joins(text: str, position: int) -> bool:
    """Whether the characters on both sides of `position` are parts of one: accents, emoji sequences."""
    import unicodedata

    if position >= len(text):
        return False
    before, after = text[position - 1], text[position]
    skin_tone = "\U0001f3fb" <= after <= "\U0001f3ff"
    return skin_tone or "\u200d" in (before, after) or unicodedata.category(after) in ("Mn", "Me", "Mc")
