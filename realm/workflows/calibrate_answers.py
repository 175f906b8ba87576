"""Make a fine-tuned model's confidence mean something: fitted on one half of some questions, judged on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from realm import files
from realm.answering.answerer import answerer_folder
from realm.answering.confidence import Confidence, save_confidence
from realm.errors import DataError
from realm.evaluation.calibration import (
    expected_calibration_error,
    fit_logistic,
    fit_temperature,
    threshold_between,
    threshold_for_accuracy,
)
from realm.evaluation.judging import Judged
from realm.evaluation.scores import answer_is_right, read_report
from realm.workflows.judge_answers import judge_answers
from realm.workflows.reporting import Reporter

FEWEST = 20
"""Judged questions, below which a fit would be an accident."""


def calibrate_answers(
    model: Path,
    suite: str,
    kb_path: Path,
    *,
    accuracy: float | None = None,
    benchmark: Path | None = None,
    k: int | None = None,
    limit: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Fit temperature, logistic curve and threshold of abstention, and write them into the model's folder.

    suite, benchmark, limit: questions the model did not learn from, as for `judge_answers`; half of them, by the hash
    of their ids, is fitted on, and the figures are of the other half. accuracy: answers at or above the threshold
    should be right in this share. Without it the threshold parts questions with an answer from those without, where
    there are both; else everything is answered.

    Returns the figures before and after, as JSON values. DataError with too few questions; UsageError where the
    accuracy can't be reached.
    """
    folder = answerer_folder(model)
    place = folder.parent / f"{folder.name}.calibration"
    judge_answers(
        suite, kb_path, place, model=model, benchmark=benchmark, k=k, limit=limit, depth=1, raw=True, reporter=reporter
    )
    judged = [
        one
        for one in read_report(place).judged.values()
        if one.masses and one.abstained is False and answer_is_right(one) is not None
    ]
    fitted = [one for one in judged if int(files.fingerprint(one.id), 16) % 2]
    others = [one for one in judged if not int(files.fingerprint(one.id), 16) % 2]
    if min(len(fitted), len(others)) < FEWEST:
        raise DataError(
            f"found {len(fitted)} and {len(others)} answered questions in the two halves of {suite}: expected at least "
            f"{FEWEST} in each to fit on one and to judge on the other"
        )
    masses, right = [one.masses for one in fitted], _right(fitted)
    curve = fit_logistic(masses, right, fit_temperature(masses, right).temperature)
    claimed = curve(masses)
    answerable = [one.answerable for one in fitted]
    threshold = 0.0
    if accuracy is not None:
        threshold = threshold_for_accuracy(claimed, right, accuracy)
    elif not all(answerable) and any(answerable):
        threshold = threshold_between(claimed, answerable)
    result = {
        "questions": {"fitted": len(fitted), "judged": len(others)},
        "calibration": curve.to_json(),
        "threshold": threshold,
        "before": _figures(others, np.array([one.masses[0] for one in others]), 0.0),
        "after": _figures(others, curve([one.masses for one in others]), threshold),
    }
    save_confidence(folder, Confidence(curve, threshold), {"suite": suite, **result})
    return {**result, "model": str(folder)}


def _right(judged: list[Judged]) -> list[bool]:
    return [bool(answer_is_right(one)) for one in judged]


def _figures(judged: list[Judged], claimed_P: Any, threshold: float) -> dict[str, float]:
    right_P, answered_P = np.array(_right(judged)), claimed_P >= threshold
    half_P = np.argsort(-claimed_P, kind="stable")[: max(1, len(judged) // 2)]
    found = {
        "exact_match": float(right_P.mean()),
        "exact_match_at_half": float(right_P[half_P].mean()),
        "ece": expected_calibration_error(claimed_P, right_P),
        "coverage": float(answered_P.mean()),
    }
    if answered_P.any():
        found["exact_match_answered"] = float(right_P[answered_P].mean())
    for name, kind in (("answerable", True), ("unanswerable", False)):
        some_P = np.array([one.answerable is kind for one in judged])
        if some_P.any():
            found[f"abstained_{name}"] = float((~answered_P[some_P]).mean())
    return found
