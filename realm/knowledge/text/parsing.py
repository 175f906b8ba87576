"""Sentences with their parse and their salient spans, from the spaCy pipelines of `realm.knowledge.text.taggers`.

A sentence is a list of words and knows nothing of spaCy, so that what is made from it can be tested by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from realm.errors import UnavailableError, UsageError
from realm.knowledge.text.sentences import sentence_spans
from realm.knowledge.text.taggers import MAX_CHARACTERS, PATTERN, Span, Tagger, find_tagger, pattern_tagger, tag_texts

ENGLISH_RELATIONS = frozenset({"nsubj", "nsubjpass", "dobj", "pobj", "prep", "auxpass", "attr"})
"""Relations of the scheme that spaCy's English parsers have; other languages' follow Universal Dependencies."""
BATCH = 32
_HANGUL, _KANA, _HAN = re.compile("[가-힣]"), re.compile("[ぁ-ヿ]"), re.compile("[一-鿿]")


class Word(NamedTuple):
    """A word of a sentence. Places are characters of the whole text, `head` is a position in the sentence."""

    text: str
    start: int
    end: int
    lemma: str
    tag: str
    """Part of speech, Penn Treebank's; empty without a parse."""
    relation: str
    """To its head; empty without a parse."""
    head: int
    """The word's own position at the root."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text, its words and the salient spans that lie wholly in it."""

    start: int
    end: int
    words: tuple[Word, ...]
    """Empty without a parse."""
    spans: tuple[Span, ...]
    """(start, end, label) in characters of the text, in order."""


@dataclass(frozen=True)
class Parser:
    """A way to sentences, with what tells its results from another's."""

    name: str
    version: str
    parse: Callable[[Sequence[str]], Iterator[list[Sentence]]]
    has_relations: bool
    """Whether words come with a parse that English rules can use."""


def words_of(text: str) -> frozenset[str]:
    """The words of a list that is written as a text."""
    return frozenset(text.split())


def load_parser(pipeline: str) -> Parser:
    """A parser by name: ``pattern`` (spans and sentences alone), or any spaCy pipeline that finds entities.

    A pipeline without a parser of English gives spans and sentences alone, too. Raises what `find_tagger` raises,
    UnavailableError when the pipeline can't be loaded, UsageError when it finds no entities.
    """
    name, version = find_tagger(pipeline)
    if name == PATTERN:
        tagger = pattern_tagger()
        return Parser(PATTERN, version, lambda texts: _without_words(tagger, texts), has_relations=False)
    import spacy

    try:
        nlp = spacy.load(name)
    except (ImportError, OSError, ValueError) as error:
        raise UnavailableError(f"spaCy pipeline {pipeline!r} can't be loaded: {error}") from error
    if not any("doc.ents" in nlp.get_pipe_meta(each).assigns for each in nlp.pipe_names):
        raise UsageError(
            f"spaCy pipeline {pipeline!r} finds no entities (its components: {', '.join(nlp.pipe_names) or 'none'}): "
            f"expected one with 'ner' or 'entity_ruler'; give another, or {PATTERN!r}"
        )
    labels = {str(label) for each in nlp.pipe_names for label in nlp.pipe_labels.get(each, ())}
    english = nlp.lang == "en"
    relations = english and labels >= ENGLISH_RELATIONS

    def parse(texts: Sequence[str]) -> Iterator[list[Sentence]]:
        texts = [_clean(text)[:MAX_CHARACTERS] for text in texts]
        docs = list(nlp.pipe((_paragraphs(nlp.make_doc(text)) for text in texts), batch_size=BATCH))
        entities = [[(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents] for doc in docs]
        known = Tagger(pipeline, version, lambda _: iter(entities), english=english)
        for text, doc, spans in zip(texts, docs, tag_texts(known, texts, ()), strict=True):
            yield _from_doc(doc, spans) if relations else _split(text, spans)

    return Parser(pipeline, version, parse, relations)


def _paragraphs(doc: Any) -> Any:
    """A blank line ends a sentence, whatever the parser thinks: a heading is none of what follows it."""
    for before, word in pairwise(doc):
        if before.is_space and before.text.count("\n") > 1:
            word.is_sent_start = True
    return doc


def _clean(text: str) -> str:
    """A lone surrogate is no character to a recogniser; a question mark has the same length."""
    return re.sub("[\ud800-\udfff]", "?", text)


def _without_words(tagger: Tagger, texts: Sequence[str]) -> Iterator[list[Sentence]]:
    for text, spans in zip(texts, tag_texts(tagger, texts, ()), strict=True):
        yield _split(text, spans)


def _split(text: str, spans: Sequence[Span]) -> list[Sentence]:
    return [
        Sentence(start, end, (), tuple(span for span in spans if start <= span[0] and span[1] <= end))
        for start, end in sentence_spans(text, language_of(text) or None)
    ]


def _from_doc(doc: Any, spans: Sequence[Span]) -> list[Sentence]:
    found = []
    for sent in doc.sents:
        words = tuple(
            Word(w.text, w.idx, w.idx + len(w.text), w.lemma_ or w.text, w.tag_, w.dep_, w.head.i - sent.start)
            for w in sent
        )
        start, end = sent.start_char, sent.end_char
        found.append(Sentence(start, end, words, tuple(s for s in spans if start <= s[0] and s[1] <= end)))
    return found


def language_of(text: str) -> str:
    """ "ko", "ja" or "zh" by the script of a text; empty for all others."""
    counts = {"ko": len(_HANGUL.findall(text)), "ja": len(_KANA.findall(text)), "zh": len(_HAN.findall(text))}
    if counts["ja"] * 10 > counts["zh"] and counts["ja"]:
        counts["ja"] += counts["zh"]
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] * 5 > len(text) else ""
