"""Opening a knowledge base with the splitter it was made with, so that an edit is cut as the ingest was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm.errors import MismatchError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table.anywhere import place_of
from realm.knowledge.table.places import Place
from realm.knowledge.table.times import AsOf
from realm.types import Document, Passage

TOKENIZER = "tokenizer"
"""Folder kept with the knowledge base: the tokenizer that counts word pieces, so that no edit needs the hub."""


class LazySplitter:
    """Builds the splitter that kb.json describes when the first document is split: most openings only read."""

    def __init__(self, place: Place, settings: Mapping[str, Any]) -> None:
        """place: of the knowledge base."""
        self.place = place
        self.settings = settings
        self._split: Any = None

    def __call__(self, documents: Sequence[Document]) -> list[list[Passage]]:
        if self._split is None:
            self._split = self._build()
        found: list[list[Passage]] = self._split(documents)
        return found

    def _build(self) -> Any:
        from realm.knowledge.text.passages import SentenceSplitter, WordSplitter

        if self.settings.get("splitter") == "words":
            return WordSplitter(int(self.settings["num_words"]))
        folder = self.place.kept(TOKENIZER)
        if folder is None:  # interrupted between creating the knowledge base and keeping its tokenizer
            keep_tokenizer(self.place, str(self.settings["tokenizer"]))
            folder = self.place.kept(TOKENIZER)
        return SentenceSplitter(load_tokenizer(str(folder)), int(self.settings["max_tokens"]))


def load_tokenizer(source: str) -> Any:
    """A fast tokenizer from a catalogue name, a folder or a hub id."""
    from realm.knowledge.fetching import resolve_model
    from realm.models.backbone import load_tokenizer as load

    return load(resolve_model(source))


def keep_tokenizer(place: Place, source: str) -> None:
    tokenizer = load_tokenizer(source)
    with place.keep(TOKENIZER) as staged:
        tokenizer.save_pretrained(staged)


def open_knowledge_base(path: str | Path, *, as_of: AsOf | None = None, lock_timeout: float = 60.0) -> KnowledgeBase:
    """Open a knowledge base, in a folder or at an address, so that it can also be written (unless `as_of` is given)."""
    place = place_of(path)
    split = LazySplitter(place, KnowledgeBase.splitter_of(place))
    return KnowledgeBase.open(place, split=split, as_of=as_of, lock_timeout=lock_timeout)


def create_or_open(path: str | Path, *, passages: str, max_tokens: int, tokenizer: str) -> KnowledgeBase:
    """The knowledge base at `path`, made if there is none. MismatchError when it was made with another splitter."""
    if passages not in ("sentences", "words"):
        raise UsageError(f"found passages={passages!r}: expected sentences or words")
    wanted: dict[str, Any] = (
        {"splitter": "words", "num_words": 100}
        if passages == "words"
        else {"splitter": "sentences", "max_tokens": max_tokens, "tokenizer": tokenizer}
    )
    place = place_of(path)
    if place.is_laid():
        found = KnowledgeBase.splitter_of(place)
        if found != wanted:
            raise MismatchError(
                f"{place.address} was made with {found}: found {wanted}; leave these settings as they were, or give "
                "another --kb"
            )
        return open_knowledge_base(path)
    kb = KnowledgeBase.create(place, split=LazySplitter(place, wanted), splitter=wanted)
    if passages == "sentences":
        keep_tokenizer(place, tokenizer)
    return kb
