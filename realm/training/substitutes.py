"""Which answer is written over a question's own while it is read (Longpre et al. 2021, "corpus substitution")."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from realm.knowledge.questions.likeness import opening, shape
from realm.training.matching import IntArray
from realm.types import Question

SUBSTITUTES = 7
"""Sets these draws apart from those of `realm.training.order`."""
TRIES = 8
"""Draws before a question that is like few others keeps its own answer."""


class Substitutes:
    """Answers by what they look like: a question's is exchanged for one of a question that begins alike, of the same
    shape; for one of the same shape where no other question begins so."""

    def __init__(
        self, questions: Sequence[Question], answer_pieces: Sequence[Sequence[IntArray]], *, share: float, seed: int = 0
    ) -> None:
        """answer_pieces: of each question's answers; see `AnswerMatcher`. share: of the questions, in [0, 1]."""
        self._questions, self._pieces = questions, answer_pieces
        self._share, self._seed = share, seed
        self._alike: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, pieces in enumerate(answer_pieces):
            if pieces:
                for key in self._keys(number):
                    self._alike[key].append(number)

    def draw(self, step: int, number: int) -> IntArray | None:
        """Word pieces to read in the place of the answers of question `number` at a step; None leaves them."""
        random = np.random.default_rng((self._seed, SUBSTITUTES, step, number))
        if random.random() >= self._share or not self._pieces[number]:
            return None
        own = {tuple(pieces.tolist()) for pieces in self._pieces[number]}
        for key in self._keys(number):
            found = self._alike[key]
            for at in random.integers(len(found), size=TRIES).tolist():
                other: IntArray = self._pieces[found[at]][0]
                if tuple(other.tolist()) not in own:
                    return other
        return None

    def _keys(self, number: int) -> tuple[tuple[str, str], tuple[str, str]]:
        question = self._questions[number]
        look = shape(question.answers[0])
        return (opening(question.text), look), ("", look)
