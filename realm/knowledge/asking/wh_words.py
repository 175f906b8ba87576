"""What asks for an answer: the wh-word of its type, with the preposition that stands before it.

Lewis et al. 2019 ("Unsupervised question answering by cloze translation", section 2.3) map types to wh-words alone;
here the preposition, the noun beside the name and the shape of a date choose among them, too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PLACES = frozenset({"GPE", "LOC", "FAC"})
NOUNS = {
    "ORG": "organization",
    "GPE": "place",
    "LOC": "place",
    "FAC": "place",
    "NORP": "people",
    "EVENT": "event",
    "WORK_OF_ART": "work",
    "LAW": "law",
    "LANGUAGE": "language",
    "PRODUCT": "product",
}
"""What kind of thing a name is of, by the label of OntoNotes."""
NUMBERS = frozenset({"CARDINAL"})
WITH_NAMES = {
    "PERSON": frozenset({"about", "after", "against", "by", "for", "from", "of", "to", "under", "with"}),
    "GPE": frozenset({"against", "by", "for", "with"}),
    "PERCENT": frozenset(),
    "NORP": frozenset({"against", "among", "by", "from", "to", "with"}),
    "": frozenset({"about", "against", "at", "by", "during", "for", "from", "in", "into", "of", "on", "to", "with"}),
}
"""Prepositions that a name is asked for with, by its label; behind others the parse or the label is mostly wrong."""
ASKED = frozenset({*NOUNS, *NUMBERS, "PERSON", "DATE", "TIME", "MONEY", "PERCENT", "PHRASE"})
"""Labels that questions ask for. Ordinals and measures are not: too little of what they count stands in the span."""

_YEAR = re.compile(r"(?:AD\s?)?\d{3,4}(?:\s?(?:BCE|BC|AD|CE))?")
_DURATION = re.compile(r"\b(?:year|month|week|day|hour|minute|second|decade|centurie)s?\b", re.IGNORECASE)
_DAY = re.compile(
    r"\b(?:1\d|20)\d\d\b|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)|\d0s\b|\b(?:BCE?|AD|CE)\b|century",
    re.IGNORECASE,
)
_AGE = re.compile(r"[- ]old\b", re.IGNORECASE)
_RANGE = re.compile(r"\d\s?(?:[-–—]|to|and)\s?\d|\bbetween\b|\bfrom\b|\bto\b", re.IGNORECASE)


class Asking(NamedTuple):
    """How an answer is asked for."""

    words: str
    """What comes first in the question: "who", "in what year"."""
    stranded: bool = False
    """Whether the preposition stays where it is: "Who was it painted by?" """


def subject_word(label: str, kind: str = "", even: bool = False) -> str | None:
    """What asks for a noun phrase that is the answer and has no preposition.

    kind: the noun beside the name ("French painter" in "the French painter Manet"), or nothing. even: which of two
    ways; a bare "what" is right whatever the thing is, where a recogniser is often wrong.
    """
    if label == "PERSON":
        return f"which {kind}" if kind else "who"
    if kind and label in NOUNS:
        return f"which {kind}"
    if label in ("PRODUCT", "WORK_OF_ART", "PHRASE") or (even and label in ("ORG", "EVENT", "LAW", "FAC", "LOC")):
        return "what"
    if label in NOUNS:
        return f"{'which' if label in ('NORP', 'LANGUAGE') else 'what'} {NOUNS[label]}"
    return None


def adverbial(label: str, answer: str, preposition: str, kind: str, even: bool) -> Asking | None:
    """What asks for an answer after a preposition (lower case; empty for "last Friday"). even: which of two ways."""
    if label == "DATE":
        return _date(answer, preposition, even)
    if label == "TIME":
        if preposition == "for" and _DURATION.search(answer):
            return Asking("for how long" if even else "how long")
        return Asking("at what time") if preposition == "at" else None
    if not preposition:
        return None
    if label == "MONEY":
        return Asking(f"{preposition} how much")
    if label == "PERCENT" and preposition in ("at", "by", "for", "to"):
        return Asking(f"{preposition} what percentage")
    if label in PLACES and not kind:
        if preposition in ("in", "at", "near", "within", "inside"):
            return Asking("where")
        if preposition in ("from", "to", "into", "through", "across"):
            return Asking("where", stranded=True)
    if preposition not in WITH_NAMES.get(label, WITH_NAMES[""]):
        return None
    if label == "PERSON":
        return Asking(subject_word(label, kind, even) or "who", stranded=True)
    if label == "ORG" and not kind and preposition in ("at", "in"):
        return Asking("where")
    noun = subject_word(label, kind, even)
    return None if noun is None else Asking(f"{preposition} {noun}")


def _date(answer: str, preposition: str, even: bool) -> Asking | None:
    if _AGE.search(answer):
        return None
    if _DURATION.search(answer) and not _DAY.search(answer):
        return Asking("for how long" if even else "how long") if preposition == "for" else None
    if _YEAR.fullmatch(answer):
        unit = "year"
    elif re.fullmatch(r"(?:early |mid-?|late )?\d{3}0s", answer):
        unit = "decade"
    elif answer.lower().endswith("century"):
        unit = "century"
    elif _DAY.search(answer):
        unit = ""
    else:
        return None
    if preposition in ("in", "on", "during", "around", "circa", ""):
        if preposition == "" and unit:
            return None  # "1969" with no preposition is part of a name, or of another date
        if even or not unit:
            day = re.search(r"\d{1,2}.*\d{4}|\d{4}.*\d{1,2}|[a-z] \d{1,2}\b", answer) and not _RANGE.search(answer)
            return Asking("on what date") if day and even else Asking("when")
        return Asking(f"in what {unit}")
    if preposition in ("since", "until", "by", "before", "after") and unit:
        return Asking(f"{preposition} what {unit}")
    if preposition in ("since", "until"):
        return Asking(f"{preposition} when")
    return None
