"""Evaluating what answers, what retrieves, and both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realm.errors import MismatchError, UsageError
from realm.knowledge.questions.files import read_questions
from realm.knowledge.questions.results import read_predictions, read_run, write_questions
from realm.types import Answer, Passage, Question
from realm.workflows.judging.evaluate import bm25_search, compare, evaluate, open_suite

TEXTS = {
    "stoker": "Dracula is a novel by Bram Stoker, published in 1897.",
    "shelley": "Frankenstein is a novel by Mary Shelley of 1818.",
    "han": "The river Han runs through Seoul.",
    "seine": "The river Seine runs through Paris.",
}
QUESTIONS = [
    Question("1", "who wrote the novel Dracula", ("Bram Stoker",), gold=("stoker",)),
    Question("2", "which river runs through Seoul", ("Han", "Han River"), gold=("han",)),
    Question("3", "when was the novel Frankenstein published", (r"18[0-9]{2}",), patterns=True),
    Question("4", "who wrote the novel Emma", ("Jane Austen",)),
]


def passages() -> list[Passage]:
    return [Passage(name, 0, name, text, 0, len(text), ((0, len(text)),)) for name, text in TEXTS.items()]


def fixed(questions: list[Question], k: int) -> list[Answer]:
    known = {"1": ("Bram Stoker", 0.9), "2": ("the Han", 0.8), "3": ("1818", 0.6), "4": ("Shelley", 0.1)}
    return [Answer(q.text, *known[q.id], known[q.id][1] < 0.5, (), 0.0) for q in questions]


def test_bm25_alone(tmp_path: Path) -> None:
    report = evaluate(
        None, QUESTIONS, tmp_path, suite="mine", search=bm25_search(passages()), parts={"held": {"1", "2", "3"}}
    )
    figures = report["figures"]["all"]
    assert figures["recall_string@1"] == 0.75 and figures["recall_string@100"] == 0.75
    assert figures["recall_gold@1"] == figures["mrr_gold"] == figures["ndcg@10"] == 1.0
    assert report["figures"]["held"]["recall_string@1"] == 1.0 and report["figures"]["held"]["questions"] == 3
    assert "exact_match" not in figures and "coverage" not in figures and figures["latency_p50_ms"] > 0
    run = read_run(tmp_path / "retrieval.run")
    assert run["1"][0][0] == passages()[0].id and set(run) == {"1", "2", "3", "4"}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_and_retrieval_together(tmp_path: Path, batch_size: int) -> None:
    asked: list[int] = []

    def model(questions: list[Question], k: int) -> list[Answer]:
        asked.append(len(questions))
        return fixed(questions, k)

    search = bm25_search(passages())
    report = evaluate(
        model, QUESTIONS, tmp_path, suite="mine", search=search, batch_size=batch_size, dpr_results=True, depth=5
    )
    figures = report["figures"]["all"]
    assert figures["exact_match"] == 0.75 and figures["coverage"] == 0.75 and figures["exact_match_answered"] == 1.0
    assert figures["recall_string@5"] == 0.75 and "recall_string@20" not in figures
    assert sum(asked) == 4 and max(asked) == batch_size == report["batch_size"]
    assert read_predictions(tmp_path / "predictions.jsonl")["who wrote the novel Dracula"] == "Bram Stoker"
    results = json.loads((tmp_path / "retrieval.json").read_text())
    assert [ctx["has_answer"] for ctx in results[0]["ctxs"]][:1] == [True]
    assert len(read_questions(tmp_path / "retrieval.json")) == 4
    again = evaluate(model, QUESTIONS, tmp_path / "again", suite="mine", search=search, depth=5)
    assert again["figures"]["all"]["exact_match"] == figures["exact_match"]
    gain = compare(tmp_path, tmp_path / "again", samples=20)["all"]["exact_match"]
    assert gain == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_a_pattern_that_would_hang_does_not(tmp_path: Path) -> None:
    hangs = [Question("1", "a?", (r"(a|aa)+$", "x"), patterns=True), Question("2", "b?", ("(x",), patterns=True)]
    report = evaluate(
        lambda questions, k: [Answer(q.text, "a" * 60 + "b", 0.5, False, (), 0.0) for q in questions],
        hangs,
        tmp_path,
        suite="bad",
        pattern_seconds=0.05,
    )
    assert report["patterns"] == {"invalid": ["(x"], "timed_out": ["(a|aa)+$"]}
    assert report["figures"]["all"]["exact_match"] == 0.0


def test_all_unanswerable(tmp_path: Path) -> None:
    questions = [Question(str(i), f"{i}?", (), answerable=False) for i in range(3)]
    report = evaluate(
        lambda some, k: [Answer(q.text, "x", 0.2, q.id == "0", (), 0.0) for q in some],
        questions,
        tmp_path,
        suite="none",
    )
    figures = report["figures"]["all"]
    assert figures["exact_match"] == figures["abstained_unanswerable"] == pytest.approx(1 / 3)
    assert figures["exact_match_answered"] == 0.0 and "recall_string@5" not in figures
    assert figures["ece"] == pytest.approx(0.2)  # 0.2 is claimed, nothing is right


def test_what_can_not_be_evaluated(tmp_path: Path) -> None:
    search = bm25_search(passages())
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate(None, QUESTIONS, tmp_path, suite="x")
    with pytest.raises(UsageError, match="no questions"):
        evaluate(None, [], tmp_path, suite="x", search=search)
    with pytest.raises(UsageError, match="depth=0"):
        evaluate(None, QUESTIONS, tmp_path, suite="x", search=search, depth=0)
    with pytest.raises(MismatchError, match="3 answers"):
        evaluate(lambda q, k: fixed(q, k)[:-1], QUESTIONS, tmp_path, suite="x", batch_size=4)
    with pytest.raises(MismatchError, match="not to the 4 questions"):
        evaluate(lambda q, k: fixed(q, k)[::-1], QUESTIONS, tmp_path, suite="x", batch_size=4)
    assert list(tmp_path.iterdir()) == []  # nothing that could be taken for a report


def test_suites_by_name_and_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    lines = [
        {"id": str(i), "question": f"{i}?", "answers": ["x"], "in_kb": i % 2 == 0, "gold_ids": []} for i in range(10)
    ]
    folder.mkdir()
    (folder / "nq_open.test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    suite = open_suite("nq", tmp_path)
    assert (suite.name, len(suite.questions), suite.parts["answerable"]) == ("nq", 10, {"0", "2", "4", "6", "8"})
    few = open_suite("nq", tmp_path, limit=4)
    assert [q.id for q in few.questions] == ["0", "2", "5", "7"] and few.parts["answerable"] == {"0", "2"}
    write_questions(tmp_path / "mine.jsonl", QUESTIONS)
    mine = open_suite(str(tmp_path / "mine.jsonl"))
    assert (mine.name, mine.questions, mine.parts) == ("mine.jsonl", QUESTIONS, {})
    with pytest.raises(UsageError, match="one of nq, webq"):
        open_suite("trivia")
    with pytest.raises(UsageError, match=r"make it with benchmarks/wiki204k"):
        open_suite("webq", tmp_path)
