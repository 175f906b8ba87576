"""Closed book: the answer of the most similar training question, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realm.errors import DataError
from realm.recipes.finetuning import small
from realm.types import Answer, Question
from realm.workflows.comparing.systems import Leg, find_system
from realm.workflows.reporting import Silent

TAUGHT = [
    {"question": "who painted guernica", "answers": ["Picasso", "Pablo Picasso"]},
    {"question": "which river runs through seoul", "answers": ["Han"]},
    {"question": "who painted the night watch", "answers": ["Rembrandt"]},
    {"question": "what is unanswered", "answers": [], "answerable": False},
]


def leg(folder: Path, taught: list[dict[str, Any]], dev: list[dict[str, Any]]) -> Leg:
    for name, part in (("train", taught), ("dev", dev)):
        rows = [{"id": f"{name}{n}", **row} for n, row in enumerate(part)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Leg(
        folder=folder / "leg",
        knowledge_base=folder / "no-kb",
        questions=folder / "train.jsonl",
        dev=folder / "dev.jsonl",
        config=small(),
        start=None,
        reporter=Silent(),
        should_stop=None,
    )


def ask(one: Leg, *texts: str) -> list[Answer]:
    with find_system("closed-book").open(one) as opened:
        assert opened.search is None and opened.answer is not None
        return opened.answer([Question(text, text, ()) for text in texts], 5)


def test_the_nearest_question_answers(tmp_path: Path) -> None:
    one = leg(tmp_path, TAUGHT, [{"question": "x", "answers": ["y"]}])
    found = ask(one, "who was it that painted Guernica?", "the river of Seoul", "zzz")
    assert [answer.text for answer in found] == ["Picasso", "Han", ""]
    assert [answer.abstained for answer in found] == [False, False, True]
    assert found[0].alternatives[0][0] == "Rembrandt" and not found[0].evidence
    assert found[0].confidence + sum(share for _, share in found[0].alternatives) == pytest.approx(1)
    assert found[0].confidence > found[0].alternatives[0][1] > 0 and found[2].confidence == 0


def test_what_chooses_the_others_checkpoints_is_not_known(tmp_path: Path) -> None:
    one = leg(tmp_path, TAUGHT, [TAUGHT[0]])
    assert ask(one, "who painted guernica")[0].text == "Rembrandt"
    system = find_system("closed-book")
    assert system.fingerprint(one) != system.fingerprint(leg(tmp_path, TAUGHT, TAUGHT[1:2]))


def test_questions_without_a_plain_answer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 questions"):
        find_system("closed-book").train(leg(tmp_path, TAUGHT[3:], TAUGHT[:1]))
