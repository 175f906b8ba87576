"""No passage is read: the answer of the training question that is most like the asked one, by BM25 over questions.

Lewis, Stenetorp & Riedel (2021, "Question and Answer Test-Train Overlap in Open-Domain Question Answering Datasets")
use it to show how far memory alone goes: what it gets right, a system may have got right without any retrieval. It is
the closed-book baseline that a span reader leaves room for; one that generates answers would be a file beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from realm import files
from realm.errors import DataError
from realm.knowledge.questions.files import read_questions
from realm.search.postings import Bm25
from realm.types import NO_ROW, Answer, Question
from realm.workflows.comparing.systems.base import Leg, Opened
from realm.workflows.finetuning.finetune import split

NEIGHBOURS = 5
"""Questions whose scores share out the confidence."""


class ClosedBook:
    """Nothing to train. An answer's confidence is its question's share of the five best scores; where no word of a
    question is known it abstains."""

    title = "closed book"
    seeded = False

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        return None

    def train(self, leg: Leg) -> None:
        self._questions(leg)  # bad questions are told before anything is asked

    def fingerprint(self, leg: Leg) -> str:
        return files.fingerprint(*(f"{q.text}\0{q.answers[0]}" for q in self._questions(leg)))

    @contextmanager
    def open(self, leg: Leg) -> Iterator[Opened]:
        known = self._questions(leg)
        engine = Bm25.build(("", question.text) for question in known)

        def answer(asked: list[Question], k: int) -> list[Answer]:
            hits = engine([question.text for question in asked], NEIGHBOURS)
            found = []
            for question, rows, scores in zip(asked, hits.rows.tolist(), hits.scores.tolist(), strict=True):
                near = [
                    (known[row].answers[0], score) for row, score in zip(rows, scores, strict=True) if row != NO_ROW
                ]
                total = sum(score for _, score in near)
                text, best = near[0] if near else ("", 0.0)
                confidence = best / total if total else 0.0
                others = tuple((other, score / total) for other, score in near[1:])
                found.append(Answer(question.text, text, confidence, not near, (), 0.0, others))
            return found

        yield Opened(answer, None, 1)

    def _questions(self, leg: Leg) -> list[Question]:
        """The training questions with a plain answer; those that choose the others' checkpoints left out, too."""
        dev = read_questions(leg.dev) if leg.dev else None
        taught, _ = split(read_questions(leg.questions), dev, leg.config.questions.held_out_fraction)
        known = [question for question in taught if question.answerable and question.answers and not question.patterns]
        if not known:
            raise DataError(
                f"none of {len(taught)} questions in {leg.questions} has an answer in plain words: give others"
            )
        return known
