"""Judged questions, reports, and what may be compared with what."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.evaluation import scores
from realm.evaluation.judging import Judged, Ranked, evidence_ranking, judge, units
from realm.evaluation.patterns import PatternMatcher
from realm.types import Answer, Evidence, Passage, Question

MATCHER = PatternMatcher()


def passage(document: str, text: str) -> Passage:
    return Passage(document, 0, "T", text, 0, len(text), ((0, len(text)),))


def evidence(document: str, text: str, score: float, utility: float = 1.0) -> Evidence:
    return Evidence(passage(document, text), 1, score, 0.5, 0.5, utility, None)


def answer(question: str, text: str, confidence: float = 0.5, abstained: bool = False, *found: Evidence) -> Answer:
    return Answer(question, text, confidence, abstained, found, 0.0)


WHO = Question("1", "who?", ("Bram Stoker",), gold=("d2",))
WHEN = Question("2", "when?", ("18[0-9]{2}",), patterns=True)
NEVER = Question("3", "why?", (), answerable=False)


def test_an_answer_is_judged_under_each_convention() -> None:
    one = judge(WHO, MATCHER, answer=answer("who?", "the Bram Stoker!", 0.7), seconds=0.5)
    assert (one.exact_match, one.exact_match_squad, one.f1, one.confidence) == (True, True, 1.0, 0.7)
    assert (one.retrieved, one.string_rank, one.seconds, one.retrieval_utility) == (None, None, 0.5, None)
    several = replace(answer("who?", "x", 0.5), alternatives=(("y", 0.3), ("z", 0.1)))
    assert judge(WHO, MATCHER, answer=several).masses == (0.5, 0.3, 0.1)
    half = judge(WHO, MATCHER, answer=answer("who?", "Stoker"))
    assert (half.exact_match, half.f1) == (False, pytest.approx(2 / 3))
    year = judge(WHEN, MATCHER, answer=answer("when?", "1897 in London"))
    assert (year.exact_match, year.exact_match_squad, year.f1) == (True, None, None)


def test_abstaining_is_right_where_nothing_can_be_answered_and_changes_nothing_elsewhere() -> None:
    assert judge(WHO, MATCHER, answer=answer("who?", "Bram Stoker", abstained=True)).exact_match
    given, refused, empty = (
        judge(NEVER, MATCHER, answer=a)
        for a in (answer("why?", "so"), answer("why?", "so", abstained=True), answer("why?", " "))
    )
    assert (given.exact_match, refused.exact_match, empty.exact_match) == (False, True, True)
    assert [scores.answer_is_right(one) for one in (given, refused)] == [False, False]


def test_a_ranking_by_string_and_by_gold() -> None:
    hits = [Ranked("d1#0", "d1", "", "Bram Stoker", 2.0), Ranked("d2#0", "d2", "", "nothing", 1.0)]
    one = judge(WHO, MATCHER, ranking=hits, depth=20)
    assert (one.string_rank, one.gold_rank, one.retrieved, one.exact_match) == (0, 1, 20, None)
    assert units(WHO, hits) == ["d1#0", "d2"]
    found = answer(
        "who?", "x", 0.5, False, evidence("d2", "no", 1.0, 2.0), evidence("d9", "Bram Stoker", 3.0, -math.inf)
    )
    assert [hit.document_id for hit in evidence_ranking(found)] == ["d9", "d2"]
    one = judge(WHO, MATCHER, answer=found)
    assert (one.string_rank, one.gold_rank, one.retrieved, one.retrieval_utility) == (0, 1, 2, 2.0)
    assert judge(NEVER, MATCHER, ranking=hits).string_rank is None


def ranked(question: Question, string: int | None, gold: int | None, right: bool, confidence: float) -> Judged:
    return Judged(
        id=question.id,
        question=question.text,
        answers=question.answers,
        group=question.id,
        answerable=True,
        prediction="x",
        confidence=confidence,
        masses=(confidence, 0.1),
        abstained=confidence < 0.3,
        exact_match=right,
        retrieved=20,
        string_rank=string,
        gold_rank=gold,
        has_gold=bool(question.gold),
        seconds=confidence,
    )


FOUR = [
    ranked(replace(WHO, id="a"), 0, 4, True, 0.9),
    ranked(replace(WHO, id="b"), 3, None, True, 0.8),
    ranked(replace(WHO, id="c", gold=()), None, None, False, 0.4),
    ranked(replace(WHO, id="d"), 19, 0, False, 0.2),
]


def test_figures_by_hand() -> None:
    figures = scores.figures_of(FOUR, {"a": 0.5, "b": 0.0, "d": 1.0})
    assert figures["recall_string@1"] == 0.25 and figures["recall_string@5"] == 0.5
    assert figures["recall_string@20"] == 0.75 and "recall_string@100" not in figures  # 20 were asked for
    assert figures["recall_gold@1"] == pytest.approx(1 / 3) and figures["recall_gold@5"] == pytest.approx(2 / 3)
    assert figures["mrr_string"] == pytest.approx((1 + 1 / 4 + 1 / 20) / 4)
    assert figures["mrr_gold"] == pytest.approx((1 / 5 + 1) / 3)
    assert figures["ndcg@10"] == 0.5 and figures["exact_match"] == 0.5
    assert figures["coverage"] == 0.75 and figures["exact_match_answered"] == pytest.approx(2 / 3)
    assert figures["abstained_answerable"] == 0.25 and "abstained_unanswerable" not in figures
    assert figures["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert figures["latency_p50_ms"] == pytest.approx(600) and figures["latency_mean_ms"] == pytest.approx(575)
    assert "f1" not in figures and "exact_match_squad" not in figures and "retrieval_utility" not in figures


def write(folder: Path, judged: list[Judged]) -> Path:
    report = scores.build_report(judged, suite="four", parts={"first": {"a", "b"}}, facts={"k": 5})
    scores.write_report(folder, report, judged, {one.id: [("p 1", 2.0)] for one in judged}, "test")
    return folder


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = scores.read_report(write(tmp_path / "one", FOUR))
    assert list(found.judged.values()) == FOUR
    assert found.report["figures"]["first"]["exact_match"] == 1.0 and found.report["k"] == 5
    line = json.loads((tmp_path / "one" / "predictions.jsonl").read_text().splitlines()[0])
    assert (line["question"], line["prediction"]) == ("who?", "x")
    assert (tmp_path / "one" / "retrieval.run").read_text().startswith("a Q0 p%201 1 2.0 test\n")
    (tmp_path / "one" / "predictions.jsonl").write_text(json.dumps(FOUR[0].to_json()) + "\n")
    with pytest.raises(ArtefactError, match="not of one evaluation"):
        scores.read_report(tmp_path / "one")
    (tmp_path / "one" / "predictions.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ArtefactError, match="evaluate again"):
        scores.read_report(tmp_path / "one")
    (tmp_path / "one" / "report.json").write_text("{}")
    with pytest.raises(ArtefactError, match="no report"):
        scores.read_report(tmp_path / "one")


def test_what_can_not_be_reported() -> None:
    with pytest.raises(UsageError, match="no questions"):
        scores.build_report([], suite="x")
    with pytest.raises(UsageError, match="2 questions of 1 ids"):
        scores.build_report([FOUR[0], FOUR[0]], suite="x")
    with pytest.raises(UsageError, match="were not asked"):
        scores.build_report(FOUR, suite="x", parts={"p": {"zz"}})


def test_reports_are_compared_question_by_question(tmp_path: Path) -> None:
    before = scores.read_report(write(tmp_path / "one", FOUR))
    better = [replace(FOUR[3], exact_match=True, string_rank=0), *FOUR[:3]]  # in another order, which means nothing
    after = scores.read_report(write(tmp_path / "two", better))
    found = scores.compare_reports(before, after, samples=500)
    assert set(found) == {"all", "first"}
    gain = found["all"]["exact_match"]
    assert gain.difference == 0.25 and gain.low <= 0.25 <= gain.high
    assert found["all"]["recall_string@1"].difference == 0.25
    assert found["first"]["exact_match"] == (0.0, 0.0, 0.0)
    assert scores.compare_reports(before, before, samples=50)["all"]["seconds"].clear is False


@pytest.mark.parametrize(
    "other",
    [FOUR[:2], [replace(FOUR[0], answers=("y",)), *FOUR[1:]], [replace(FOUR[0], question="where?"), *FOUR[1:]]],
)
def test_reports_over_different_questions_are_not(tmp_path: Path, other: list[Judged]) -> None:
    before = scores.read_report(write(tmp_path / "one", FOUR))
    after = scores.read_report(write(tmp_path / "two", other))
    with pytest.raises(MismatchError, match=r"different questions .*same file"):
        scores.compare_reports(before, after)
