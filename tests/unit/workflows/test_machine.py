"""Which questions a calibration asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from realm.knowledge.questions.results import write_questions
from realm.types import Question
from realm.workflows.judging.calibrate import _sources

KNOWN = Question("k", "who wrote Dracula", ("Bram Stoker",))
UNKNOWN = [Question(f"u{n}", f"who is number {n}", (), answerable=False) for n in range(4)]


def write(path: Path, questions: list[Question]) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_questions(path, questions)
    return path


def test_no_question_counts_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    suite = write(Path("mixed.jsonl"), [KNOWN, *UNKNOWN[:2]])
    found = _sources(str(suite), None, [suite], 1.0, 0)
    assert [source.name for source in found] == ["mixed.jsonl", "passages removed"]
    others = write(Path("more.jsonl"), UNKNOWN)
    found = _sources(str(suite), None, [others, others], 0.0, 0)
    assert [[question.id for question in source.questions] for source in found] == [["k", "u0", "u1"], ["u2", "u3"]]


def test_sources_have_names_of_their_own(tmp_path: Path) -> None:
    suite = write(tmp_path / "dev.jsonl", [KNOWN])
    first = write(tmp_path / "a" / "dev.jsonl", UNKNOWN[:2])
    (tmp_path / "other").mkdir()
    second = write(tmp_path / "other" / "a" / "dev.jsonl", UNKNOWN[2:])
    names = [source.name for source in _sources(str(suite), None, [first, second], 0.0, 0)]
    assert names == ["dev.jsonl", "a/dev.jsonl", "a/dev.jsonl (2)"]
