"""Facts that can be edited: which words of a document are the answer, and what is written in their place.

A *fact* is a question with the passages retrieved for it, at least one of which holds an accepted answer. Its *old*
value is the form of the answer that is replaced (see `edit_values` for its type and for what replaces it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import regex

from realm.evaluation.answers import normalize_orqa
from realm.evaluation.edit_values import Value, tags_of, value_of
from realm.evaluation.retrieval import answer_in_text
from realm.knowledge.questions.likeness import coarse_shape, opening
from realm.knowledge.text.parsing import Sentence
from realm.knowledge.text.taggers import trim

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_SHORTEST_SURNAME = 3


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


def choose_old(
    question: str, answers: Sequence[str], texts: Sequence[str], parsed: Sequence[Sequence[Sentence]]
) -> Value:
    """The form of the answer that is replaced, with its type.

    texts: passages that hold an answer. parsed: each of them, with its salient spans. The longest form that is a span
    or lies within one is taken; then an amount that makes up most of an answer ("1 trillion" of "1 trillion RMB": its
    unit stays); else the longest form that stands there, which is a phrase: a type of its own.
    """
    forms = sorted({core(answer) for answer in answers} - {""}, key=lambda form: (-len(form), form))
    asked = opening(question)
    amounts: list[Value] = []
    phrases: list[Value] = []
    for form in forms:
        for text, sentences in zip(texts, parsed, strict=True):
            spans = [span for sentence in sentences for span in sentence.spans]
            for start, end, _ in _occurrences(text, [form]):
                for first, last, label in spans:
                    if first <= start and end <= last:
                        return value_of(form, label, tags_of(sentences, start, end), asked)
                    part = text[first:last]
                    if start <= first and last <= end and 2 * len(part) >= len(form):
                        amounts.append(value_of(part, label, tags_of(sentences, first, last), asked))
                phrases.append(value_of(form, "", tags_of(sentences, start, end), asked))
    return next((value for value in amounts if value.type in _AMOUNTS), phrases[0])


_AMOUNTS = ("number", "year", "date", "period")


def substitution(old: str, kind: str, new: str, question: str, answers: Sequence[str]) -> Substitution:
    """Every accepted answer gives way: forms that hold the old value change with it, a number that is a part of it
    becomes that part of the new one, others become the new one.

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
            words[form] = _part(old, form, new) or new
    return Substitution(words)


def _part(old: str, form: str, new: str) -> str | None:
    """The words of `new` that stand where a shorter `form` stands in `old`, with a number and of the same look: of
    "1906 season" "1906", as "2015" of "2015 season"."""
    words, fresh, size = old.split(), new.split(), len(form.split())
    fits = any(c.isdigit() for c in form) and len(fresh) > len(words) - size
    for first in range(len(words) - size + 1) if fits else ():
        part = " ".join(fresh[first : len(fresh) - (len(words) - size - first)])
        if normalize_orqa(" ".join(words[first : first + size])) == normalize_orqa(form):
            return part if coarse_shape(part) == coarse_shape(form) else None
    return None
