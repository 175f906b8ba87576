"""Facts that can be edited: which words of a document are the answer, of which type they are, and what else of that
type may stand in their place.

A *fact* is a question with the passages retrieved for it, at least one of which holds an accepted answer. Its *old*
value is the form of the answer that is replaced; the type comes from the tagger that finds salient spans.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import regex

from realm.evaluation.answers import normalize_orqa
from realm.evaluation.retrieval import answer_in_text, answer_tokens
from realm.files import fingerprint
from realm.knowledge.taggers import Span, dates, trim

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
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_SHORTEST_SURNAME = 3


@dataclass(frozen=True, slots=True)
class Value:
    """Words with their type, so that others like them can be found."""

    text: str
    type: str
    label: str = ""
    """The tagger's, where it has one."""
    asked: str = ""
    """How a question begins that it answers; empty for words that were found in a passage."""

    @property
    def shape(self) -> str:
        """What it looks like: "May 12, 1969" is "A 9 9", "two weeks" "a a"."""
        return " ".join(_shape(word) for word in self.text.split())


def _shape(word: str) -> str:
    if any(c.isdigit() for c in word):
        ending = regex.sub(r"[\d.,]+", "", word).strip("()[]\"'")
        return f"9{ending.lower()}"
    return "A" if word[:1].isupper() else "a"


@dataclass(frozen=True, slots=True)
class Place:
    """An occurrence of an accepted answer in a document, and what was put there."""

    field: str
    """title or text"""
    start: int
    end: int
    old: str
    new: str


@dataclass(frozen=True)
class Substitution:
    """Words for words, longest first, each at its whole-token occurrences."""

    words: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        """The text after it."""
        made, at = [], 0
        for start, end, new in self.places(text):
            made += [text[at:start], new]
            at = end
        return "".join([*made, text[at:]])

    def places(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, replacement) in characters of the text, in order, not overlapping."""
        by_name = {normalize_orqa(old): new for old, new in self.words.items()}
        return [(s, e, by_name[name]) for s, e, name in _occurrences(text, list(self.words))]


def stands_in(text: str, forms: Iterable[str]) -> bool:
    """Whether any of the forms stands in the text where `Substitution` would replace it."""
    return bool(_occurrences(text, list(forms)))


def _occurrences(text: str, forms: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, normalised form) of whole-token occurrences, the longer form first where two begin together.

    Case is free where a form has none; a form that begins with a capital is not a small word ("May", "US").
    """
    forms = [form for form in forms if normalize_orqa(form)]
    if not forms:
        return []
    by_length = sorted(dict.fromkeys(forms), key=lambda form: (-len(form), form))
    pattern = "|".join(f"(?:{_pattern(form)})" for form in by_length)
    found = []
    for match in regex.finditer(pattern, text, regex.IGNORECASE):
        name = normalize_orqa(match.group())
        form = next((f for f in by_length if normalize_orqa(f) == name), None)
        if form is not None and not (form[0].isupper() and match.group()[0].islower()):
            found.append((match.start(), match.end(), name))
    return found


def _pattern(form: str) -> str:
    """Whole tokens: no letter or digit may go on at either end, nor a number over its comma or point. Scripts without
    spaces have no such ends, and a Korean noun bears its particles."""
    words = r"\s+".join(regex.escape(word) for word in form.split())
    first, last = form.split()[0][0], form.split()[-1][-1]
    before = "" if regex.match(_UNSPACED, first) else r"(?<!\w)"
    after = "" if regex.match(rf"{_UNSPACED}|\p{{Hangul}}", last) else r"(?!\w)"
    before += r"(?<!\d[.,])" if first.isdigit() else ""
    after += r"(?![.,]\d)" if last.isdigit() else ""
    return f"{before}{words}{after}"


# ---------------------------------------------------------------- what is replaced


def core(answer: str) -> str:
    """The answer without an article, quotation marks and a possessive."""
    span = trim(answer, (0, len(answer), ""))
    return "" if span is None else answer[span[0] : span[1]]


def opening(question: str) -> str:
    """How a question begins, which says what it asks for: "how many", "what country"."""
    words = regex.findall(r"\w+", question.casefold())
    asks = next((i for i, word in enumerate(words) if word in _ASKING), 0)
    return " ".join(words[asks : asks + 2])


_ASKING = frozenset(["who", "whom", "whose", "what", "which", "when", "where", "why", "how"])


def choose_old(question: str, answers: Sequence[str], texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> Value:
    """The form of the answer that is replaced, with its type.

    texts: passages that hold an answer. spans: of each, what the tagger found. The longest form that is a span of the
    tagger's, or lies within one, is taken; then a span that makes up most of an answer ("1 trillion" of "1 trillion
    RMB": its unit stays); else the longest form that stands there, which is a phrase of its own kind.
    """
    forms = sorted({core(answer) for answer in answers} - {""}, key=lambda form: (-len(form), form))
    here = [form for form in forms if any(stands_in(text, [form]) for text in texts)]
    inner: list[Value] = []
    for form in here:
        for text, found in zip(texts, spans, strict=True):
            for start, end, _ in _occurrences(text, [form]):
                for first, last, label in found:
                    if first <= start and end <= last:
                        return value_of(form, label, question)
                    part = text[first:last]
                    if start <= first and last <= end and 2 * len(part) >= len(form):
                        inner.append(value_of(part, label, question))
    if inner:
        return inner[0]
    form = here[0]
    return value_of(form, "", question)


def value_of(text: str, label: str, question: str = "") -> Value:
    """Words with the type that a tagger's label and their look say."""
    kind = TYPES.get(label, "name") if label else "phrase"
    if _YEAR.fullmatch(text) and kind in ("date", "number", "phrase"):
        kind = "year"
    elif kind == "date" and not dates(text):
        kind = "period"
    if _NUMBER.fullmatch(text) and kind in ("period", "phrase"):
        kind = "number"
    return Value(text, kind, label, opening(question) if question else "")


def substitution(old: str, kind: str, new: str, question: str, answers: Sequence[str]) -> Substitution:
    """Every accepted answer gives way: forms that hold the old value change with it, others become the new one.

    A person's last name alone stands for the person: it becomes the new one's, unless the question says it.
    """
    words = {old: new}
    parts = old.split()
    surname, own = parts[-1], new.split()[-1]
    if kind == "person" and len(parts) > 1 and len(surname) >= _SHORTEST_SURNAME:
        known = surname[0].isupper() and not answer_in_text(surname, question)
        words |= {surname: own} if known else {}
    for form in {core(answer) for answer in answers} - {""}:
        if normalize_orqa(form) not in map(normalize_orqa, words) and not stands_in(form, [old]):
            words[form] = new
    return Substitution(words)


# ---------------------------------------------------------------- what takes its place


class Pool:
    """Values to draw from: answers of the questions and spans of the passages."""

    def __init__(self, values: Iterable[Value]) -> None:
        by_type: dict[str, dict[str, Value]] = {}
        for value in values:
            by_type.setdefault(value.type, {}).setdefault(f"{value.text}\0{value.asked}", value)
        self._by_type = {kind: [found[key] for key in sorted(found)] for kind, found in by_type.items()}

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
        """
        random_ = random.Random(fingerprint(str(seed), identity))
        named = old.type not in ("date", "period", "number", "year", "phrase")
        words = set(answer_tokens(" ".join([old.text, *answers])))

        def usable(value: Value) -> bool:
            if any(answer_in_text(value.text, a) or answer_in_text(a, value.text) for a in [old.text, *answers]):
                return False
            if named and words.intersection(answer_tokens(value.text)):
                return False
            return not any(answer_in_text(value.text, text) for text in [question, *texts]) and fits(value.text)

        for like in _LIKENESS:
            found = [value for value in self._by_type.get(old.type, []) if like(value, old) and value.text != old.text]
            random_.shuffle(found)
            chosen = next((value for value in found if answer_tokens(value.text) and usable(value)), None)
            if chosen is not None:
                return chosen.text
        return None


_LIKENESS: tuple[Callable[[Value, Value], bool], ...] = (
    lambda a, b: a.label == b.label and a.shape == b.shape and a.asked == b.asked,
    lambda a, b: a.label == b.label and a.shape == b.shape,
    lambda a, b: a.shape == b.shape,
    lambda a, b: len(a.shape.split()) == len(b.shape.split()),
    lambda a, b: a.type != "phrase",
)
"""From close to far: first the answers to questions that begin alike, which are surer than a tagger's spans. A phrase
is never replaced by one of another length."""
