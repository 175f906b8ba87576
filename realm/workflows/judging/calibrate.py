"""Make a fine-tuned model's confidence mean something: fitted on one half of some questions, judged on the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from realm import __version__, files
from realm.answering.answerer import CARD, answerer_folder, model_fingerprint
from realm.answering.confidence import Confidence, save_confidence
from realm.answering.packing import model_folder
from realm.errors import DataError, UsageError
from realm.evaluation import calibration as cal
from realm.evaluation import thresholds
from realm.evaluation.judging import Judged
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.retrieval import holds_answer
from realm.evaluation.scores import REPORT, answer_is_right, read_report
from realm.knowledge.snapshot import Snapshot
from realm.methods.open_qa import OpenQA
from realm.types import Answer, Question
from realm.workflows import parts
from realm.workflows.judging.answers import open_method
from realm.workflows.judging.calibration_page import write_page
from realm.workflows.judging.evaluate import evaluate, open_suite
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.store import open_knowledge_base

FEWEST = 20
"""Judged questions, below which a fit would be an accident."""
REMOVED = "passages removed"


class Source(NamedTuple):
    """Questions of one origin."""

    name: str
    questions: list[Question]
    removed: bool = False
    """Whether they are asked as if no passage that answers them were there."""


class Kept(NamedTuple):
    """A judged question of a source."""

    source: str
    one: Judged


def calibrate_answers(
    model: Path,
    suite: str,
    kb_path: Path,
    *,
    unanswerable: Sequence[Path] = (),
    remove_passages: float = 0.0,
    accuracy: float | None = None,
    coverage: float | None = None,
    abstain_ratio: float = 1.0,
    benchmark: Path | None = None,
    k: int | None = None,
    limit: int = 0,
    batch_size: int = 16,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Fit a temperature or a logistic curve, and a threshold of abstention, and write them into the model's folder.

    What was judged and a page of plots go beside it, into MODEL.calibration. What was asked before is not asked again.
    A claim is the share of right answers among questions mixed as these are: give as many without an answer as you
    expect to be asked.

    suite, benchmark, limit: questions the model did not learn from, as for `judge_answers`; half of them, by the hash
        of their ids, is fitted on, and the figures are of the other half.
    unanswerable: further files; of them the questions that say they have no answer, up to `limit` each.
    remove_passages: this share of the suite's answerable questions is asked a second time as if no passage that is gold
        or holds an answer were there: then they are unanswerable.
    accuracy: answers at or above the threshold should be right in this share. coverage: so many questions of the suite
        should be answered. With neither, the threshold parts questions with an answer from those without, where there
        are both; else everything is answered.
    abstain_ratio: of that threshold: it abstains from unanswerable questions at least so many times as often as from
        answerable ones, on the half that is fitted on.

    Returns the figures before and after, as JSON values. DataError with too few questions; UsageError where the
    accuracy can't be reached.
    """
    if accuracy is not None and coverage is not None:
        raise UsageError("found an accuracy and a coverage: expected one of them, the other follows from it")
    if not 0 <= remove_passages <= 1:
        raise UsageError(f"found remove_passages={remove_passages}: expected a share from 0 to 1")
    reporter = reporter or Silent()
    if model_folder(model) != Path(model).expanduser():
        raise UsageError(
            f"{model} is a packed model: expected a folder; write one first: realm export {model} --out NAME"
        )
    folder = answerer_folder(model)
    place = folder.parent / f"{folder.name}.calibration"
    sources = _sources(suite, benchmark, unanswerable, remove_passages, limit)
    method, snapshot = open_method(model, open_knowledge_base(kb_path), parts.choose_device("auto"), reporter)
    k = k or method.num_passages
    kept: list[Kept] = []
    for number, source in enumerate(sources):
        where = place if number == 0 else place / re.sub(r"\W+", "-", source.name)
        answered_by = _identity(folder, snapshot, source, k)
        if not _is_judged(where, answered_by):
            _judge(method, snapshot, source, where, k, batch_size, reporter, answered_by)
        judged = read_report(where).judged.values()
        kept += [Kept(source.name, one) for one in judged if one.masses and not one.abstained and _is_known(one)]
    kept.sort(key=lambda one: (files.fingerprint(one.one.id), one.source))  # in the fit's folds the sources are mixed
    fitted = [one for one in kept if int(files.fingerprint(one.one.id), 16) % 2]
    others = [one for one in kept if not int(files.fingerprint(one.one.id), 16) % 2]
    if min(len(fitted), len(others)) < FEWEST:
        raise DataError(
            f"found {len(fitted)} and {len(others)} answered questions in the two halves of {suite}: expected at least "
            f"{FEWEST} in each to fit on one and to judge on the other"
        )
    if not _right(fitted).any():
        raise DataError(
            f"found none of {len(fitted)} answers right: expected some, or nothing could be claimed of any answer; "
            "give questions that these documents answer, or train on"
        )
    curve, losses = cal.fit_best(_masses(fitted), _right(fitted).tolist(), _signals(fitted))
    threshold = _threshold(
        fitted, curve(_masses(fitted), _signals(fitted)), accuracy, coverage, abstain_ratio, sources[0].name
    )
    shares = np.array([one.one.masses[0] for one in others])
    claimed = curve(_masses(others), _signals(others))
    result = {
        "questions": {"fitted": len(fitted), "judged": len(others)},
        "passages": k,
        "calibration": curve.to_json(),
        "log_loss_in_cross_validation": losses,
        "threshold": threshold,
        "before": _figures(others, shares, 0.0, sources),
        "after": _figures(others, claimed, threshold, sources),
    }
    save_confidence(folder, Confidence(curve, threshold), {"suite": suite, **result})
    page = place / "calibration.html"
    write_page(page, folder, suite, result, _right(others), shares, claimed)
    _tell_card(folder, suite, result)
    return {**result, "model": str(folder), "page": str(page)}


def _sources(
    suite: str, benchmark: Path | None, unanswerable: Sequence[Path], removed: float, limit: int
) -> list[Source]:
    asked = open_suite(suite, benchmark, limit=limit)
    sources = [Source(asked.name, asked.questions)]
    seen = {(question.id, question.text) for question in asked.questions}
    for path in unanswerable:
        found = [question for question in open_suite(str(path)).questions if not question.answerable]
        if not found:
            raise DataError(f"{path}: found no question without an answer, expected some with answerable: false")
        new = [question for question in found if (question.id, question.text) not in seen]
        count = len(new)
        some = [new[i * count // limit] for i in range(limit)] if 0 < limit < count else new
        seen |= {(question.id, question.text) for question in some}
        if some:  # the suite may hold them all, and a question asked twice would count twice
            sources.append(Source(_new_name(f"{path.absolute().parent.name}/{path.name}", sources), some))
    known = [question for question in asked.questions if question.answerable and question.answers]
    again = _share(known, removed)
    return [*sources, Source(REMOVED, again, removed=True)] if again else sources


def _new_name(name: str, sources: Sequence[Source]) -> str:
    """A name by which the figures of a source are its own."""
    taken = {re.sub(r"\W+", "-", source.name) for source in sources} | {re.sub(r"\W+", "-", REMOVED)}
    names = [name, *(f"{name} ({number})" for number in range(2, len(sources) + 3))]
    return next(one for one in names if re.sub(r"\W+", "-", one) not in taken)


def _share(questions: list[Question], share: float) -> list[Question]:
    """By the hash of the ids, so that a longer file chooses the same."""
    return [q for q in questions if int(files.fingerprint("removed", q.id), 16) % 10_000 < share * 10_000]


def _identity(folder: Path, snapshot: Snapshot, source: Source, k: int) -> str:
    """Of everything that decides what is answered: model and its settings, documents, passages read, questions."""
    asked = [f"{one.id} {one.text} {one.answers} {one.gold} {one.answerable}" for one in source.questions]
    return files.fingerprint(
        __version__, model_fingerprint(folder), snapshot.fingerprint, str(k), str(source.removed), *asked
    )


def _is_judged(place: Path, answered_by: str) -> bool:
    """Whether a calibration of before has asked the same of the same; it is not asked again."""
    report = files.read_json(place / REPORT) if (place / REPORT).exists() else {}
    return isinstance(report, dict) and report.get("answered_by") == answered_by


def _judge(
    method: OpenQA,
    snapshot: Snapshot,
    source: Source,
    out: Path,
    k: int,
    batch_size: int,
    reporter: Reporter,
    answered_by: str,
) -> None:
    matcher = PatternMatcher()
    originals = {question.id: question for question in source.questions}

    def answer(questions: list[Question], number: int) -> list[Answer]:
        def answers_it(at: int, row: int) -> bool:
            question, passage = originals[questions[at].id], snapshot.passage(row)
            gold = passage.document_id in question.gold or passage.id in question.gold
            return gold or holds_answer(question, passage.text, matcher)

        texts = [question.text for question in questions]
        return method.answer(texts, number, batch=batch_size, without=answers_it if source.removed else None)

    asked = source.questions
    if source.removed:
        asked = [replace(question, answers=(), gold=(), answerable=False) for question in asked]
    with torch.inference_mode():
        facts = {"answered_by": answered_by}
        evaluate(answer, asked, out, suite=source.name, k=k, batch_size=batch_size, facts=facts, reporter=reporter)


def _is_known(one: Judged) -> bool:
    return answer_is_right(one) is not None


def _right(kept: Sequence[Kept]) -> cal.FloatArray:
    return np.array([float(bool(answer_is_right(one.one))) for one in kept])


def _masses(kept: Sequence[Kept]) -> list[Sequence[float]]:
    return [one.one.masses for one in kept]


def _signals(kept: Sequence[Kept]) -> list[Any]:
    return [one.one.signals for one in kept]


def _threshold(
    fitted: Sequence[Kept],
    claimed: cal.FloatArray,
    accuracy: float | None,
    coverage: float | None,
    abstain_ratio: float,
    suite: str,
) -> float:
    own = np.array([one.source == suite for one in fitted])
    if accuracy is not None:
        return thresholds.threshold_for_accuracy(claimed, _right(fitted), accuracy)
    if coverage is not None:
        return thresholds.threshold_for_coverage(claimed[own], coverage)
    answerable = [one.one.answerable for one in fitted]
    if all(answerable) or not any(answerable):
        return 0.0
    return thresholds.threshold_between(claimed, answerable, abstain_ratio)


def _figures(
    kept: Sequence[Kept], claimed: cal.FloatArray, threshold: float, sources: Sequence[Source]
) -> dict[str, float]:
    """Exact match over the suite, error of the claims over all, abstentions by kind and by source."""
    right, answered = _right(kept), claimed >= threshold
    own = np.array([one.source == sources[0].name for one in kept])
    best_half = np.argsort(-claimed[own], kind="stable")[: max(1, int(own.sum()) // 2)]
    found = {
        "exact_match": float(right[own].mean()),
        "exact_match_at_half": float(right[own][best_half].mean()),
        "ece": cal.expected_calibration_error(claimed, right),
        "ece_by_chance": cal.error_by_chance(claimed),
        "aurc": cal.area_under_risk_coverage(claimed, right),
        "coverage": float(answered.mean()),
    }
    if len(sources) > 1:
        found["ece_of_suite"] = cal.expected_calibration_error(claimed[own], right[own])
    if answered.any():
        found["exact_match_answered"] = float(right[answered].mean())
    for name, kind in (("answerable", True), ("unanswerable", False)):
        some = np.array([one.one.answerable is kind for one in kept])
        if some.any():
            found[f"abstained_{name}"] = float((~answered[some]).mean())
    for source in sources[1:]:
        some = np.array([one.source == source.name for one in kept])
        if some.any():
            found[f"abstained: {source.name}"] = float((~answered[some]).mean())
    return found


def _tell_card(folder: Path, suite: str, result: dict[str, Any]) -> None:
    """The model card's line about confidence."""
    place, after = folder / CARD, result["after"]
    if not place.exists():
        return
    questions, threshold = result["questions"], result["threshold"]
    told = "it answers every question, answerable or not"
    if threshold > 0:
        told = f"it does not answer where it claims less than {threshold:.2f}"
    line = (
        f"- Its confidence was calibrated on {questions['fitted']:,} questions of {suite}; its error on "
        f"{questions['judged']:,} others is {after['ece']:.3f} (by chance alone {after['ece_by_chance']:.3f}); {told}."
    )
    files.write_text(place, re.sub(r"(?m)^- Its confidence .*$", lambda _: line, place.read_text(encoding="utf-8")))
