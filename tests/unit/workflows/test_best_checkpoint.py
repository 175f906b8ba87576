"""Which checkpoint of a fine-tuning becomes the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm import files
from realm.settings_finetune import FinetuneConfig
from realm.types import Question
from realm.workflows.finetuning.judge import FEW, Judge, is_best
from realm.workflows.run import FINETUNING, Run

QUESTIONS = 40


def chosen(right: list[int]) -> int:
    """The checkpoint that is left as the model after all were judged in turn."""
    curve: list[dict[str, Any]] = []
    best = -1
    for number, count in enumerate(right):
        figures = {"questions": QUESTIONS, "exact_match": count / QUESTIONS}
        if is_best(figures, curve):
            best = number
        curve.append(figures)
    return best


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_the_best_is_kept_and_the_newest_of_equals(right: list[int]) -> None:
    newest_best = max(range(len(right)), key=lambda number: (right[number], number))
    assert chosen(right) == (newest_best if max(right) >= FEW else len(right) - 1)


def test_hardly_any_right_answer_tells_nothing() -> None:
    assert chosen([1, 0, 0]) == 2  # the untrained one, right by accident, must not be the model
    assert chosen([7, 6, 6]) == 0


def test_without_dev_questions_the_newest_is_the_model() -> None:
    assert is_best({"step": 2}, [{"step": 1}])


class Reader:
    """Keeps a number."""

    def __init__(self) -> None:
        self.number = 0

    def save_pretrained(self, folder: Path) -> None:
        files.write_json(folder / "number.json", self.number)

    def fingerprint(self) -> str:
        return str(self.number)


def test_a_model_of_a_step_that_is_gone_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that lost its newest checkpoint goes on from the one before; what the lost one had learnt is no model."""
    run = Run(tmp_path / "run", FINETUNING)
    places = {"knowledge_base": "kb", "model": "m", "questions": "q", "dev": "", "licence": ""}
    run.create_or_resume(FinetuneConfig(), {**places, "knowledge_base_version": 1, "snapshot": "s", "start": "s"})
    reader = Reader()

    def judged(step: int, right: int, judge: Judge) -> int:
        """The step whose model there is after a checkpoint was judged."""
        reader.number = step
        monkeypatch.setattr(judge, "figures", lambda: {"questions": QUESTIONS, "exact_match": right / QUESTIONS})
        judge(run.checkpoints / f"step-{step:06d}")
        number = files.read_json(run.path / "model" / "reader" / "number.json")
        assert files.read_json(run.path / "model" / files.MANIFEST)["step"] == number
        return int(number)

    def begun() -> Judge:
        judge: Judge = object.__new__(Judge)  # without the dev questions' passages, of which nothing is asked here
        judge.run, judge.config, judge.networks = run, FinetuneConfig(), {"reader": reader}
        judge.questions, judge.about = (
            [Question("q", "who ?", ("x",))],
            {"questions": {"known": 1}, "steps": 9, "licence": ""},
        )
        return judge

    judge = begun()
    assert [judged(step, right, judge) for step, right in ((1, 20), (2, 6), (3, 30))] == [1, 1, 3]
    judge = begun()
    judge.forget(2)
    assert not (run.path / "model").exists()
    assert [one["step"] for one in judge.curve()] == [1]
    assert judged(2, 6, judge) == 2, "the model of step 1 was replaced by the lost one: this is what there is"
    assert judged(3, 7, judge) == 3
    judge.forget(2)
    judge.forget(2)
    assert judged(2, 30, judge) == 2
    judge.forget(2)
    assert judged(3, 7, judge) == 2 and [one["step"] for one in judge.curve()] == [1, 2, 3]
