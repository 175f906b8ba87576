"""Judged questions to a report, reports to a comparison.

A report is a folder: ``report.json`` (the figures, written last), ``predictions.jsonl`` (every question with what was
judged of it) and ``retrieval.run`` (TREC's run).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.evaluation.calibration import area_under_risk_coverage, expected_calibration_error
from realm.evaluation.judging import Judged
from realm.evaluation.retrieval import NOT_FOUND, IntArray, Interval, mean_reciprocal_rank, paired_bootstrap, recall_at
from realm.files import fingerprint, read_json, write_json
from realm.knowledge.questions.results import Run, write_predictions, write_run

FORMAT = "realm-evaluation"
VERSION = 1
KS = (1, 5, 20, 100)

REPORT, PREDICTIONS, RUN = "report.json", "predictions.jsonl", "retrieval.run"


class Results(NamedTuple):
    """A report as it was read: the figures, and the questions by id."""

    report: dict[str, Any]
    judged: dict[str, Judged]


def questions_fingerprint(judged: Sequence[Judged]) -> str:
    """Of what was asked, in any order: ids, texts, accepted answers."""
    parts = sorted(json.dumps([one.id, one.question, list(one.answers)], ensure_ascii=False) for one in judged)
    return fingerprint(*parts)


def figures_of(judged: Sequence[Judged], ndcg: Mapping[str, float] | None = None, k: int = 10) -> dict[str, float]:
    """Means over the questions for which a figure is defined; a figure that is for none of them is left out.

    recall@n is given where n passages were asked for: a ranking of 5 has no recall@20. Latency is in
    milliseconds. coverage: share of the questions that were answered. ece and aurc judge the confidence.
    """
    if not judged:
        return {}
    found: dict[str, float] = {"questions": float(len(judged))}
    for name in ("exact_match", "exact_match_squad", "f1", "retrieval_utility"):
        values = [float(value) for one in judged if (value := getattr(one, name)) is not None]
        if values:
            found[name] = float(np.mean(values))
    found |= _ranks([one for one in judged if one.answerable and one.answers], "string", lambda one: one.string_rank)
    found |= _ranks([one for one in judged if one.has_gold], "gold", lambda one: one.gold_rank)
    gains = [ndcg[one.id] for one in judged if ndcg and one.id in ndcg]
    if gains:
        found[f"ndcg@{k}"] = float(np.mean(gains))
    return found | _confidence(judged) | _latency(judged)


def _ranks(judged: list[Judged], name: str, rank_of: Callable[[Judged], int | None]) -> dict[str, float]:
    judged = [one for one in judged if one.retrieved is not None]
    if not judged:
        return {}
    ranks: IntArray = np.array([NOT_FOUND if rank_of(one) is None else rank_of(one) for one in judged], np.int64)
    depth = max(one.retrieved or 0 for one in judged)
    found = {f"recall_{name}@{k}": recall_at(ranks, k) for k in KS if k <= depth}
    return found | {f"mrr_{name}": mean_reciprocal_rank(ranks)}


def _confidence(judged: Sequence[Judged]) -> dict[str, float]:
    asked = [one for one in judged if one.abstained is not None]
    if not asked:
        return {}
    found = {"coverage": float(np.mean([not one.abstained for one in asked]))}
    for name, part in (("answerable", True), ("unanswerable", False)):
        some = [bool(one.abstained) for one in asked if one.answerable is part]
        if some:
            found[f"abstained_{name}"] = float(np.mean(some))
    answered = [one.exact_match for one in asked if not one.abstained and one.exact_match is not None]
    if answered:  # what was answered to a question without an answer is wrong here
        found["exact_match_answered"] = float(np.mean(answered))
    pairs = [(one.confidence, answer_is_right(one)) for one in asked if one.confidence is not None]
    known = [(confidence, right) for confidence, right in pairs if right is not None]
    if known:
        confidence_P, right_P = (np.asarray(column, np.float64) for column in zip(*known, strict=True))
        found["ece"] = expected_calibration_error(confidence_P, right_P)
        found["aurc"] = area_under_risk_coverage(confidence_P, right_P)
    return found


def answer_is_right(one: Judged) -> bool | None:
    """What a confidence should foretell: that the text is right. To a question without an answer none is."""
    return one.exact_match if one.answerable else False


def _latency(judged: Sequence[Judged]) -> dict[str, float]:
    seconds = [one.seconds for one in judged if one.seconds is not None]
    if not seconds:
        return {}
    quantiles = {f"latency_p{q}_ms": float(np.percentile(seconds, q)) * 1000 for q in (50, 90, 99)}
    return {"latency_mean_ms": float(np.mean(seconds)) * 1000, **quantiles}


def build_report(
    judged: Sequence[Judged],
    *,
    suite: str,
    parts: Mapping[str, Collection[str]] | None = None,
    ndcg: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Figures over all questions, and over each of `parts` (name to question ids).

    facts: further JSON values that say what was measured (model, knowledge base, k, ...).
    UsageError for no question, an id that comes twice, or a part with a question that was not asked.
    """
    asked = {one.id for one in judged}
    if not judged or len(asked) < len(judged):
        found = f"{len(judged)} questions of {len(asked)} ids" if judged else "no questions"
        raise UsageError(f"found {found}: expected at least one, each id once")
    figures = {"all": figures_of(judged, ndcg)}
    for name, ids in (parts or {}).items():
        missing = set(ids) - asked
        if missing:
            raise UsageError(
                f"part {name!r} names {len(missing)} questions that were not asked (first {min(missing)!r}): expected "
                "a part of the same set; give the flags of the same file"
            )
        figures[name] = figures_of([one for one in judged if one.id in ids], ndcg)
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "suite": suite,
        "questions": len(judged),
        "questions_fingerprint": questions_fingerprint(judged),
        "figures": figures,
        "parts": {name: sorted(ids) for name, ids in (parts or {}).items()},
        **dict(facts or {}),
    }


def write_report(folder: Path, report: Mapping[str, Any], judged: Sequence[Judged], run: Run, tag: str) -> None:
    """Write the three files, each whole or not at all, ``report.json`` last."""
    folder = Path(folder)
    (folder / REPORT).unlink(missing_ok=True)  # an old report must not stand beside new predictions
    write_predictions(folder / PREDICTIONS, (one.to_json() for one in judged))
    write_run(folder / RUN, run, tag)
    write_json(folder / REPORT, dict(report))


def read_report(folder: Path) -> Results:
    """A report and its questions. ArtefactError: missing, torn, or its two files are not of one evaluation."""
    folder = Path(folder)
    folder = folder.parent if folder.name == REPORT else folder
    report = read_json(folder / REPORT)
    if not isinstance(report, dict) or report.get("format") != FORMAT or report.get("format_version") != VERSION:
        raise ArtefactError(f"{folder / REPORT} is no report of realm evaluate (version {VERSION}): evaluate again")
    try:
        lines = (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()
        judged = [Judged.from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder / PREDICTIONS} can't be read ({error}): evaluate again") from error
    if questions_fingerprint(judged) != report["questions_fingerprint"]:
        raise ArtefactError(f"{folder}: {REPORT} and {PREDICTIONS} are not of one evaluation: evaluate again")
    return Results(report, {one.id: one for one in judged})


def compare_reports(before: Results, after: Results, *, samples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """after - before with its 95% interval, for every figure that both have question by question, in all and in the
    parts that both have.

    Questions are drawn in groups that share their gold passage (see `paired_bootstrap`). MismatchError when the two
    did not ask the same questions with the same accepted answers.
    """
    one, other = before.report, after.report
    if one["questions_fingerprint"] != other["questions_fingerprint"]:
        missing = set(before.judged) ^ set(after.judged)
        what = f"{len(missing)} questions are in one only" if missing else "texts or accepted answers differ"
        raise MismatchError(
            f"the reports are over different questions ({one['suite']}: {one['questions']}, {other['suite']}: "
            f"{other['questions']}; {what}): evaluate both on the same file"
        )
    common = {name: ids for name, ids in one["parts"].items() if other["parts"].get(name) == ids}
    return {
        name: _differences(before.judged, after.judged, ids, samples, seed)
        for name, ids in {"all": sorted(before.judged), **common}.items()
    }


def _differences(
    before: Mapping[str, Judged], after: Mapping[str, Judged], ids: Sequence[str], samples: int, seed: int
) -> dict[str, Interval]:
    found = {}
    for name, value_of in PER_QUESTION.items():
        pairs = [(before[i].group, value_of(before[i]), value_of(after[i])) for i in ids]
        both = [(group, x, y) for group, x, y in pairs if x is not None and y is not None]
        if both:
            groups, x_P, y_P = zip(*both, strict=True)
            found[name] = paired_bootstrap(np.asarray(x_P), np.asarray(y_P), samples, seed, groups=groups)
    return found


def _within(name: str, k: int) -> Callable[[Judged], float | None]:
    def value(one: Judged) -> float | None:
        asked = one.has_gold if name == "gold_rank" else one.answerable and bool(one.answers)
        if one.retrieved is None or not asked:
            return None
        rank = getattr(one, name)
        return float(rank is not None and rank < k)

    return value


PER_QUESTION: dict[str, Callable[[Judged], float | None]] = {
    "exact_match": lambda one: one.exact_match,
    "exact_match_squad": lambda one: one.exact_match_squad,
    "f1": lambda one: one.f1,
    **{f"recall_string@{k}": _within("string_rank", k) for k in KS},
    **{f"recall_gold@{k}": _within("gold_rank", k) for k in KS},
    "retrieval_utility": lambda one: one.retrieval_utility,
    "seconds": lambda one: one.seconds,
}
"""A figure of one question by name; None where it is not known or not defined."""
