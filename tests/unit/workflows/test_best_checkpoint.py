"""Which checkpoint of a fine-tuning becomes the model."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realm.workflows.finetuning.judge import FEW, is_best

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
