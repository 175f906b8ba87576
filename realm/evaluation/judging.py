"""One question: what was answered and retrieved, and how right each was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from realm.errors import ArtefactError
from realm.evaluation.answers import exact_match, is_correct, token_f1
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.retrieval import NOT_FOUND, gold_rank, string_rank
from realm.types import Answer, Question


class Ranked(NamedTuple):
    """A retrieved passage."""

    id: str
    document_id: str
    title: str
    text: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The figures of one question. None: not known, or not defined for it. Ranks count from 0."""

    id: str
    question: str
    answers: tuple[str, ...]
    group: str
    """Questions that are not independent share it: the first gold id, else the question's own."""
    answerable: bool
    prediction: str = ""
    confidence: float | None = None
    masses: tuple[float, ...] = ()
    """Of the answer and those that came after it: what a calibration is fitted on."""
    signals: Mapping[str, float] = field(default_factory=dict)
    """`Answer.signals`."""
    abstained: bool | None = None
    exact_match: bool | None = None
    """By ORQA's convention; for patterns the anchored match; without an answer to find, whether none was given."""
    exact_match_squad: bool | None = None
    """By SQuAD's convention; None for patterns."""
    f1: float | None = None
    retrieved: int | None = None
    """How many passages were asked for."""
    string_rank: int | None = None
    """Of the first passage whose text holds an answer."""
    gold_rank: int | None = None
    """Of the first passage that is gold, or whose document is."""
    has_gold: bool = False
    retrieval_utility: float | None = None
    """Mean RU over the evidence."""
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Question and prediction first, so that the line is one of NQ-open's predictions, too."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"question": self.question, "prediction": self.prediction, **values}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Judged:
        """Back from a line. ArtefactError when it is not one."""
        try:
            values = {one.name: value[one.name] for one in fields(cls) if one.name != "signals"}
            values["signals"] = value.get("signals", {})  # reports of before had none
            return cls(**{**values, "answers": tuple(value["answers"]), "masses": tuple(value["masses"])})
        except (KeyError, TypeError) as error:
            raise ArtefactError(
                f"a prediction without {error}: expected predictions.jsonl as realm evaluate writes it; evaluate again"
            ) from None


def judge(
    question: Question,
    matcher: PatternMatcher,
    *,
    answer: Answer | None = None,
    ranking: Sequence[Ranked] | None = None,
    depth: int | None = None,
    seconds: float | None = None,
) -> Judged:
    """Judge an answer, a ranking, or both.

    An answer is judged by its text over all questions, as the papers do; a calibrated model that abstains gives none.
    A question that has no answer is right when nothing was answered (abstained, or empty; Rajpurkar et al. 2018).
    ranking: best first; without one, the evidence of the answer by its retrieval score. depth: how many passages were
    asked for, where there may have been fewer.
    """
    figures: dict[str, Any] = {}
    if answer is not None:
        figures |= _answered(question, matcher, answer)
        if ranking is None and answer.evidence:
            ranking = evidence_ranking(answer)
    if ranking is not None:
        asked = question.answerable
        first = string_rank(question, (hit.text for hit in ranking), matcher) if asked else NOT_FOUND
        gold = gold_rank(question, ((hit.id, hit.document_id) for hit in ranking))
        figures |= {
            "retrieved": len(ranking) if depth is None else depth,
            "string_rank": None if first == NOT_FOUND else first,
            "gold_rank": None if gold == NOT_FOUND else gold,
        }
    return Judged(
        id=question.id,
        question=question.text,
        answers=question.answers,
        group=question.gold[0] if question.gold else question.id,
        answerable=question.answerable,
        has_gold=bool(question.gold),
        seconds=seconds,
        **figures,
    )


def evidence_ranking(answer: Answer) -> list[Ranked]:
    """The passages of an answer, by retrieval score."""
    hits = (
        Ranked(e.passage.id, e.passage.document_id, e.passage.title, e.passage.text, e.score) for e in answer.evidence
    )
    return sorted(hits, key=lambda hit: -hit.score)


def units(question: Question, ranking: Sequence[Ranked]) -> list[str]:
    """The ids of a ranking as the question's gold names them: a gold passage or document by that name, any other
    by its passage."""
    gold = set(question.gold)
    return [hit.document_id if hit.document_id in gold and hit.id not in gold else hit.id for hit in ranking]


def _answered(question: Question, matcher: PatternMatcher, answer: Answer) -> dict[str, Any]:
    text = answer.text
    known = [e.retrieval_utility for e in answer.evidence if math.isfinite(e.retrieval_utility)]
    figures: dict[str, Any] = {
        "prediction": text,
        "confidence": answer.confidence if math.isfinite(answer.confidence) else None,
        "masses": (answer.confidence, *(mass for _, mass in answer.alternatives)),
        "signals": dict(answer.signals),
        "abstained": answer.abstained,
        "retrieval_utility": sum(known) / len(known) if known else None,
    }
    if not question.answerable:
        none_given = answer.abstained or not text.strip()
        return figures | {"exact_match": none_given, "exact_match_squad": none_given, "f1": float(none_given)}
    if not question.answers:  # nothing is known to compare with (BEIR)
        return figures
    figures["exact_match"] = is_correct(text, question, matcher)
    if not question.patterns:
        figures["exact_match_squad"] = exact_match(text, question.answers, "squad")
        figures["f1"] = token_f1(text, question.answers)
    return figures
