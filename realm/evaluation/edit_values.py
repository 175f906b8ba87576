"""Words with a type, and others of that type that may stand in their place: what an edit writes.

The type comes from the tagger that finds salient spans and, where there is a parse, from the parts of speech. What is
no span is a "phrase", and only gives way to one that is built alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import regex

from realm.evaluation.retrieval import answer_in_text, answer_tokens
from realm.files import fingerprint
from realm.knowledge.questions.likeness import coarse_shape, shape
from realm.knowledge.text.parsing import Sentence, Word, words_of
from realm.knowledge.text.taggers import dates

TYPES: Mapping[str, str] = {
    "PERSON": "person",
    "GPE": "place",
    "LOC": "place",
    "FAC": "place",
    "ORG": "organisation",
    "NORP": "group",
    "DATE": "date",
    "TIME": "number",
    "PERCENT": "number",
    "MONEY": "number",
    "QUANTITY": "number",
    "CARDINAL": "number",
    "ORDINAL": "number",
    "NAME": "name",
}
"""A tagger's label to a type; other labels (WORK_OF_ART, EVENT, ...) are "name". What is no span is a "phrase"."""

_YEAR = regex.compile(r"1\d{3}|20\d{2}")
_NUMBER = regex.compile(r"[$€£¥]?\d[\d.,]*(?:st|nd|rd|th|%)?")
_NEAR_YEARS = 30
_NEAREST = 3
_COUNTED = ("date", "period", "number", "year")
"""Types that look alike where they mean alike."""
_NUMBER_WORDS = words_of(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion"
)


@dataclass(frozen=True, slots=True)
class Value:
    """Words with their type, so that others like them can be found."""

    text: str
    type: str
    label: str = ""
    """The tagger's, where it has one."""
    asked: str = ""
    """How a question begins that it answers; empty for words that were found in a passage."""
    tags: str = ""
    """Parts of speech of its words, Penn Treebank's, where there is a parse."""

    @property
    def shape(self) -> str:
        """What it looks like, see `likeness.shape`."""
        return shape(self.text)

    @property
    def last_tag(self) -> str:
        return self.tags.split()[-1] if self.tags else ""


def value_of(text: str, label: str, tags: str = "", asked: str = "") -> Value:
    """Words with the type that a tagger's label and their look say."""
    kind = TYPES.get(label, "name") if label else "phrase"
    if _YEAR.fullmatch(text) and kind in ("date", "number", "phrase"):
        kind = "year"
    elif kind == "date" and not dates(text):
        kind = "period"
    counted = all(word in _NUMBER_WORDS for word in text.lower().replace("-", " ").split())
    if (_NUMBER.fullmatch(text) or counted) and kind in ("period", "phrase"):
        kind = "number"
    return Value(text, kind, label, asked, tags)


def values_in(text: str, sentences: Sequence[Sentence]) -> list[Value]:
    """What a passage brings to draw from: its salient spans, and its noun phrases without a name in them."""
    spans = [span for sentence in sentences for span in sentence.spans]
    found = [value_of(text[s:e], label, tags_of(sentences, s, e)) for s, e, label in spans]
    for sentence in sentences:
        run: list[Word] = []
        for word in [*sentence.words, None]:
            if (
                word is not None
                and word.tag in _IN_PHRASES
                and not any(s < word.end and word.start < e for s, e, _ in spans)
            ):
                run.append(word)
                continue
            while run and not run[-1].tag.startswith("NN"):
                run.pop()
            if run:
                start, end = run[0].start, run[-1].end
                found.append(value_of(text[start:end], "", tags_of(sentences, start, end)))
            run = []
    return [value for value in found if _PLAIN.fullmatch(value.text)]


_IN_PHRASES = frozenset({"JJ", "NN", "NNS", "VBN"})
_PLAIN = regex.compile(r"[\p{L}\p{M}\d$€£%][\p{L}\p{M}\d $€£%&.,'’–-]*")
"""Without brackets, quotation marks and line breaks, which a tagger takes along by mistake."""


def tags_of(sentences: Sequence[Sentence], start: int, end: int) -> str:
    """Parts of speech of the words of a stretch of the text; empty without a parse."""
    return " ".join(w.tag for sentence in sentences for w in sentence.words if w.start < end and start < w.end)


# ---------------------------------------------------------------- what takes its place


Meaning = Callable[[Sequence[str]], np.ndarray]
"""Texts to Float[N, D], unit vectors; those of texts that mean alike lie close."""


class Pool:
    """Values to draw from: answers of the questions and spans of the passages."""

    def __init__(self, values: Iterable[Value], meaning: Meaning | None = None) -> None:
        """meaning: of words, of names and phrases; None draws from those that look alike."""
        self._meaning = meaning
        self._by_key: dict[tuple[str, ...], list[Value]] = {}
        for value in sorted(set(values), key=lambda value: (value.text, value.label, value.asked, value.tags)):
            for key in _keys(value):
                self._by_key.setdefault(key, []).append(value)

    def draw(
        self,
        old: Value,
        question: str,
        answers: Sequence[str],
        texts: Sequence[str],
        *,
        seed: int,
        identity: str,
        fits: Callable[[str], bool] = bool,
    ) -> str | None:
        """Another value of the type of `old`, as like it as there is, or None.

        It is no accepted answer, nor part of one or the other way round, and stands neither in `texts` (title and text
        of the passages retrieved) nor in the question. The same seed and identity draw the same. fits: whether a text
        could be an answer at all.

        Dates and numbers are drawn from those of the same look first; names and phrases, where there is a `meaning`,
        from the few of their type that mean most alike: a team for a team, for nobody believes that another thing won.
        """
        random_ = random.Random(fingerprint(str(seed), identity))
        named = old.type not in (*_COUNTED, "phrase")
        words = set(answer_tokens(" ".join([old.text, *answers])))

        def usable(value: Value) -> bool:
            if any(answer_in_text(value.text, a) or answer_in_text(a, value.text) for a in [old.text, *answers]):
                return False
            if named and words.intersection(answer_tokens(value.text)):
                return False
            return not any(answer_in_text(value.text, text) for text in [question, *texts]) and fits(value.text)

        if self._meaning is not None and old.type not in _COUNTED:
            near = (value.text for value in self._nearest(old) if answer_tokens(value.text) and usable(value))
            chosen_of = list(islice(near, _NEAREST))
            return random_.choice(chosen_of) if chosen_of else None
        for key in _keys(old):
            found = [value for value in self._by_key.get(key, []) if value.text != old.text]
            random_.shuffle(found)
            if old.type == "year":  # years of its time first
                found.sort(key=lambda value: abs(int(value.text) - int(old.text)) > _NEAR_YEARS)
            chosen = next((value for value in found if answer_tokens(value.text) and usable(value)), None)
            if chosen is not None:
                return chosen.text
        return None

    def _nearest(self, old: Value) -> list[Value]:
        """Of the widest kind that `old` is of, nearest in meaning first, each text once."""
        assert self._meaning is not None
        found = list(
            {value.text: value for value in self._by_key.get(_keys(old)[-1], []) if value.text != old.text}.values()
        )
        if not found:
            return []
        vector_ND = self._meaning([old.text, *(value.text for value in found)])
        return [found[at] for at in np.argsort(-(vector_ND[1:] @ vector_ND[0]), kind="stable")]


def _keys(value: Value) -> list[tuple[str, ...]]:
    """What makes others like it, from close to far: first the answers to questions that begin alike, which are surer
    than a tagger's spans. A phrase is only like one that is built alike."""
    shape, coarse = value.shape, coarse_shape(value.text)
    found = [
        ("asked", value.type, value.label, shape, value.tags, value.asked),
        ("typed", value.type, value.label, shape, value.tags),
    ]
    if value.type == "phrase":
        return [*found, ("coarse", value.type, coarse, value.tags)]
    last = value.last_tag
    return [*found, ("coarse", value.type, coarse, last), ("last", value.type, last), ("type", value.type)]
