"""A draft in words: pronouns give way to the title, punctuation to its place, and what reads badly is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from realm.knowledge.asking.cloze_questions import Draft
from realm.knowledge.text.parsing import Sentence, Word, words_of

PERSONS = frozenset({"he", "she", "him", "her", "his"})
THINGS = frozenset({"it", "its"})
REFUSED = words_of(
    "i me my mine we us our ours you your yours they them their theirs this these those such himself herself itself "
    "themselves myself former latter above below following aforementioned respectively"
)
"""Words that point outside the question. "their" and the like are let through behind a name they can belong to."""
OWNED = frozenset({"his", "her", "its", "their"})
COMMON = words_of(
    "a an the of in on at to for from by with and or as is was were are be been being has have had do does did not who "
    "whom whose what which when where why how many much that it its his her their he she they than then into over "
    "after before during until since between about also"
)
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_WORD = re.compile(r"\w+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Topic:
    """What a passage is about, as its title says."""

    title: str
    person: bool = False
    the: bool = False
    """Whether the text puts an article before it."""

    @staticmethod
    def of(title: str, text: str, persons: Sequence[str]) -> Topic:
        """persons: names of persons in the passage."""
        title = _BRACKETS.sub("", title).strip() or title.strip()
        parts = set(title.lower().split())
        person = any(parts and set(name.lower().split()) & parts and _same_person(name, title) for name in persons)
        the = bool(title) and re.search(rf"\bthe {re.escape(title)}\b", text, re.IGNORECASE) is not None
        return Topic(title, person, the and not person)

    @property
    def name(self) -> str:
        return f"the {self.title}" if self.the else self.title


def _same_person(name: str, title: str) -> bool:
    """Whether a title is a person's name that the text calls by it, or by its last word."""
    last = title.split(",")[0].split()[-1].lower()
    return name.lower() == title.lower() or (last in name.lower().split() and len(title.split()) <= 4)


def word_question(sentence: Sentence, draft: Draft, topic: Topic) -> str | None:
    """The text of a question; None where it would point at something that it does not say."""
    words = sentence.words
    texts: list[str] = []
    places: list[int | None] = []
    named = False
    """Whether something came that a pronoun may stand for."""
    noun = titled = False
    for at, piece in enumerate(draft.pieces):
        if isinstance(piece, str):
            texts.append(piece)
            places.append(None)
            named = named or (at == 0 and piece.startswith(("who", "which", "what ")))
            continue
        word = words[piece]
        owned = named and word.text.lower() in OWNED
        if word.tag[:3] == "PRP" and not titled and not owned and _may_be_another(words, piece):
            return None
        new, titled_now = _say(word, topic, named, titled, noun and piece != draft.subject)
        if new is not None and not titled_now:
            new = _lowered(sentence, piece, new)
        if new is None:
            return None
        texts.append(new)
        places.append(piece)
        titled = titled or titled_now
        named = named or titled_now or word.tag[:2] == "NN"
        noun = noun or titled_now or word.tag[:2] == "NN"
    text = _joined(_with_title(texts, places, words, topic, titled), places, words)
    return text[:1].upper() + text[1:] + "?" if text else None


def _may_be_another(words: Sequence[Word], place: int) -> bool:
    """Whether a subject that stands before a pronoun in the sentence may be what it means, and not the title."""
    return any(word.relation in ("nsubj", "nsubjpass") and word.tag[:2] == "NN" for word in words[:place])


def _say(word: Word, topic: Topic, named: bool, titled: bool, meant: bool) -> tuple[str | None, bool]:
    """(a word's text in the question or None where it can't be said, whether it is the title).

    named: whether a possessive has someone to belong to. meant: whether "it" has something to stand for.
    """
    low = word.text.lower()
    if word.tag in ("PRP", "PRP$") or low in REFUSED:
        if low in OWNED and word.tag == "PRP$" and named:
            return low, False
        if low in PERSONS | THINGS and (titled or (low == "it" and meant)):
            return low, False
        fits = (low in PERSONS and topic.person) or (low in THINGS and not topic.person)
        if not topic.title or not fits:
            return None, False
        return (f"{topic.name}'s" if word.tag == "PRP$" else topic.name), True
    if low == "that" and word.relation == "det":
        return None, False
    return word.text, False


def _lowered(sentence: Sentence, place: int, text: str) -> str:
    """The first word of the sentence, written as it would be inside one; names keep their capital."""
    word = sentence.words[place]
    if word.tag == "EX":
        return text.lower()
    name = word.tag[:3] == "NNP" or any(start <= word.start < end for start, end, _ in sentence.spans)
    if place or name or (len(text) > 1 and text.isupper()):
        return text
    return text[:1].lower() + text[1:]


def _with_title(
    texts: list[str], places: list[int | None], words: Sequence[Word], topic: Topic, titled: bool
) -> list[str]:
    """ "the earthquake" in a text about the 2008 Sichuan earthquake is called by its title, once."""
    parts = topic.title.lower().split()
    if titled or len(parts) < 2 or any(part in " ".join(texts).lower() for part in parts[:-1]):
        return texts
    for at in range(1, len(texts)):
        place, before = places[at], places[at - 1]
        if place is None or before is None or before + 1 != place or words[before].text.lower() != "the":
            continue
        following = places[at + 1] if at + 1 < len(places) else None
        alone = following is None or following != place + 1 or words[following].tag[:2] not in ("NN", "HY")
        if texts[at].lower() == parts[-1] and alone:
            kept = [*texts]
            common = words[place].tag == "NN" and not topic.person
            kept[at - 1 : at + 1] = ["the" if topic.the or common else "", topic.title]
            return kept
    return texts


def _joined(texts: list[str], places: list[int | None], words: Sequence[Word]) -> str:
    """Words that stood side by side keep what was between them; a comma stays only between its neighbours."""
    out = ""
    last: int | None = None
    for at, (text, place) in enumerate(zip(texts, places, strict=True)):
        if not text:
            continue
        if place is not None and words[place].tag in (",", "``", "''", "HYPH", ":"):
            before, after = (places[at - 1] if at else None), (places[at + 1] if at + 1 < len(places) else None)
            if before != place - 1 or after != place + 1:
                continue
        close = place is not None and last is not None and place == last + 1 and words[last].end == words[place].start
        attached = place is not None and words[place].tag == "POS"
        out += text if close or attached or not out else f" {text}"
        last = place
    return re.sub(r"\s+", " ", out).strip(" ,")


def content_words(text: str) -> list[str]:
    """The words of a text that say something, in lower case."""
    return [word for word in _WORD.findall(text.lower()) if word not in COMMON]


def fault(question: str, answer: str, title: str, *, min_words: int, max_words: int, min_content: int) -> str | None:
    """Why a question is not worth keeping; None where it is.

    "no answer" (a letter, a sign), "short", "long", "vague" (too few words that say something, or no name and no
    number among them), "tells" (a word of the answer stands in it), "broken" (brackets, quotation marks or dashes that
    lost their other half).
    """
    if not re.search(r"\w\w|\d", answer):
        return "no answer"
    count = len(question.split())
    if count < min_words:
        return "short"
    if count > max_words:
        return "long"
    told = set(content_words(answer))
    content = content_words(question)
    if told & set(content):
        return "tells"
    if any(question.count(a) != question.count(b) for a, b in ("()", "[]", "“”")) or question.count('"') % 2:
        return "broken"
    # A full stop inside is that of an initial or a title, or the end of a sentence that was taken for none.
    if re.search(r"[;:/]|\s['‘–—-]|[–—]\s|\w{4}\.\s|\?\S|\?.*\?", question):
        return "broken"
    specific = any(re.search(r"[A-Z0-9]", word) for word in question.split()[1:]) or bool(
        set(content_words(title)) & set(content)
    )
    if len(content) < min_content or not specific:
        return "vague"
    return None
