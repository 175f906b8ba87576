"""Is the answer right? Exact match under two named conventions, never one silent `EM`; F1 over words; patterns.

``orqa``: what Lee et al. (2019) and Guu et al. (2020) report (realm's table 1). ``squad``: Rajpurkar et al. (2016).
They differ in one step: ORQA first decomposes the text (NFD), so that a precomposed and a combining accent are
equal. Neither strips accents: "Beyoncé" is not "Beyonce".
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from realm.errors import UsageError
from realm.evaluation.patterns import PatternMatcher
from realm.types import Question

Convention = Literal["orqa", "squad"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_orqa(text: str) -> str:
    """NFD, lower case, ASCII punctuation deleted, articles to spaces, whitespace collapsed; in this order.

    The order shows: "an apple-pie" becomes "applepie", "U.S.A." "usa", and "the" nothing at all.
    """
    return normalize_squad(unicodedata.normalize("NFD", text))


def normalize_squad(text: str) -> str:
    """Lower case, ASCII punctuation deleted, articles to spaces, whitespace collapsed; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


NORMALIZERS: Mapping[Convention, Callable[[str], str]] = {"orqa": normalize_orqa, "squad": normalize_squad}


def exact_match(prediction: str, references: Sequence[str], convention: Convention = "orqa") -> bool:
    """Whether the prediction equals any of the references after the convention's normalisation.

    No text is no answer, whatever the references: SQuAD has some that normalise to nothing (".").
    """
    if not prediction.strip():
        return False
    normalize = NORMALIZERS[convention]
    wanted = normalize(prediction)
    return any(normalize(reference) == wanted for reference in references)


def token_f1(prediction: str, references: Sequence[str], convention: Convention = "squad") -> float:
    """Best overlap with any reference: the harmonic mean of precision and recall over words, counted with repetition.

    Rajpurkar et al. (2016). Where one side has no words after normalising, it is 1 if both have none, else 0. No
    reference, or no text predicted: 0.
    """
    if not prediction.strip():
        return 0.0
    normalize = NORMALIZERS[convention]
    found = normalize(prediction).split()
    return max((_overlap(found, normalize(reference).split()) for reference in references), default=0.0)


def _overlap(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def is_correct(prediction: str, question: Question, matcher: PatternMatcher, convention: Convention = "orqa") -> bool:
    """Exact match; for patterns, a match anchored at the start of the prediction, as the reference has it."""
    if question.patterns:
        return matcher.matches(prediction, question.answers)
    return exact_match(prediction, question.answers, convention)


def accuracy(
    predictions: Mapping[str, str],
    questions: Sequence[Question],
    matcher: PatternMatcher | None = None,
    convention: Convention = "orqa",
) -> float:
    """Share of the references that a file of predictions gets right, by the rules of the released evaluation.

    predictions: by the question's text. A question without one is wrong. Questions of equal text are one, the last.
    UsageError without a question.
    """
    if not questions:
        raise UsageError("found no questions: expected at least one to judge")
    judge = matcher or PatternMatcher()
    references = {question.text: question for question in questions}
    right = sum(
        text in predictions and is_correct(predictions[text], question, judge, convention)
        for text, question in references.items()
    )
    return right / len(references)
