"""Questions about a passage, made from its own salient spans; see `realm.knowledge.asking.cloze_questions`.

English with a parse is asked by rules. Elsewhere the wh-word stands in the answer's place: Korean, Japanese and Chinese
ask so anyway, and other languages understand it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from realm.knowledge.asking.cloze_questions import drafts
from realm.knowledge.asking.phrases import noun_phrases
from realm.knowledge.asking.wh_words import ASKED
from realm.knowledge.asking.wording import Topic, fault, word_question
from realm.knowledge.text.parsing import Sentence, language_of
from realm.knowledge.text.taggers import Span

IN_PLACE = "in place"

_WORDS = {
    "ko": {"who": "누구", "when": "언제", "where": "어디", "group": "어느 기관", "what": "무엇"},
    "ja": {"who": "誰", "when": "いつ", "where": "どこ", "group": "どの組織", "what": "何"},
    "zh": {"who": "谁", "when": "什么时候", "where": "哪里", "group": "哪个机构", "what": "什么"},
    "": {"who": "who", "when": "when", "where": "where", "group": "what organization", "what": "what"},
}
_KINDS = {
    "who": {"PERSON", "PER", "PS"},
    "when": {"DATE", "DT", "TIME", "TI"},
    "where": {"GPE", "LOC", "LC", "FAC"},
    "group": {"ORG", "OG"},
}
"""Labels of OntoNotes, of WikiNER and of KLUE; any other is asked for by "what"."""
_BESIDE = tuple('()（）[]-~〜～–—/"')
_UNASKED = frozenset({"CARDINAL", "ORDINAL", "QUANTITY", "PERCENT", "MONEY", "QT", "NUM"})
"""In place, a wh-word for a number would need its counter."""


@dataclass(frozen=True)
class Limits:
    """What a question must be like."""

    min_words: int = 5
    max_words: int = 22
    min_content: int = 3
    max_answer_words: int = 8


@dataclass(frozen=True)
class Made:
    """A question, and what it was made from."""

    question: str
    answer: str
    """The text's own characters between `start` and `end`."""
    start: int
    end: int
    label: str
    rule: str
    sentence: int
    """Which of the text's sentences."""


def ask_passage(
    title: str,
    text: str,
    sentences: Sequence[Sentence],
    limits: Limits,
    faults: Counter[str] | None = None,
    *,
    phrases: bool = False,
) -> Iterator[Made]:
    """The questions of a passage, sentence by sentence. faults: counts what was left out, by reason.

    phrases: ask for noun phrases, too, behind the names of their sentence; only where there is a parse.
    """
    faults = Counter() if faults is None else faults
    persons = [text[a:b] for each in sentences for a, b, label in each.spans if label == "PERSON"]
    topic = Topic.of(title, text, persons)
    for number, sentence in enumerate(sentences):
        others = noun_phrases(sentence) if phrases and sentence.words else ()
        for span in (*sentence.spans, *others):
            start, end, label = _bare_number(text, span)
            answer = text[start:end]
            if label in _OFTEN_PERSONS and _is_person(answer, persons, topic):
                label = "PERSON"
            span = start, end, label
            if len(answer.split()) > limits.max_answer_words:
                faults["long answer"] += 1
                continue
            found = False
            for question, rule in _ask(text, sentence, span, topic):
                found = True
                reason = "points elsewhere"
                if question is not None:
                    made = Made(question, answer, start, end, label, rule, number)
                    reason = _fault(made, title, limits, bool(sentence.words)) or ""
                if not reason:
                    yield made
                else:
                    faults[reason] += 1
            if not found:
                faults["no rule"] += 1


_ABOUT = re.compile(
    r"(?:(?:a total of|about|almost|approximately|around|as many as|at least|at most|circa|estimated|fewer than|just"
    r"|less than|more than|nearly|no more than|only|over|roughly|some|under|up to|well over)\s+)+",
    re.IGNORECASE,
)


def _bare_number(text: str, span: Span) -> Span:
    """A number without "about" and the like, which recognisers count to it and people don't."""
    start, end, label = span
    found = _ABOUT.match(text, start, end) if label in ("CARDINAL", "MONEY", "PERCENT") else None
    return (found.end() if found else start), end, label


_OFTEN_PERSONS = frozenset({"ORG", "GPE", "PRODUCT", "NORP", "FAC", "LOC", "WORK_OF_ART"})


def _is_person(name: str, persons: Sequence[str], topic: Topic) -> bool:
    """Whether a recogniser that calls a name something else calls a fuller one of the same passage a person's: it sees
    one sentence at a time."""
    words = set(name.split())
    fuller = [each for each in (*persons, *([topic.title] if topic.person else [])) if each != name]
    return any(words <= set(each.split()) and each.split()[-1] in words for each in fuller)


def _ask(text: str, sentence: Sentence, span: Span, topic: Topic) -> Iterator[tuple[str | None, str]]:
    if not sentence.words:
        question = in_place(text, sentence, span)
        if question:
            yield question, IN_PLACE
    elif span[2] in ASKED:
        for draft in drafts(sentence, span):
            yield word_question(sentence, draft, topic), draft.rule


def _fault(made: Made, title: str, limits: Limits, english: bool) -> str | None:
    if english or not re.search("[가-힣ぁ-ヿ一-鿿]", made.question):
        return fault(
            made.question,
            made.answer,
            title,
            min_words=limits.min_words,
            max_words=limits.max_words,
            min_content=limits.min_content,
        )
    if made.answer in made.question:
        return "tells"
    # Three characters of these scripts say about as much as a word.
    words = len(made.question) / (3 if language_of(made.question) in ("ja", "zh") else 4)
    return "short" if words < limits.min_words else "long" if words > 2 * limits.max_words else None


def in_place(text: str, sentence: Sentence, span: Span) -> str | None:
    """The sentence with a wh-word where the answer stood; None for a number, which would need its counter, and for
    what stands in brackets or in a range of dates."""
    start, end, label = span
    if label in _UNASKED or text[max(0, start - 1) : start] in _BESIDE or text[end : end + 1] in _BESIDE:
        return None
    kind = next((kind for kind, labels in _KINDS.items() if label in labels), "what")
    before, after = text[sentence.start : start], text[end : sentence.end]
    language = language_of(text)
    word = _WORDS[language][kind]
    if kind == "when":  # "in" of a date, which their words for "when" don't take
        after = re.sub({"ko": r"^에(?=\s)", "ja": "^に"}.get(language, "(?!)"), "", after)
    whole = f"{before}{word}{after}".strip().rstrip(".!?。．！？…")
    return f"{whole[:1].upper()}{whole[1:]}{'？' if language in ('ja', 'zh') else '?'}"
