"""Which answer is written over a question's own while it is read (Longpre et al. 2021, "corpus substitution")."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from realm.errors import UsageError
from realm.knowledge.questions.likeness import opening, shape
from realm.training.matching import IntArray
from realm.types import Question

SUBSTITUTES = 7
"""Sets these draws apart from those of `realm.training.order`."""
TRIES = 8
"""Draws before a question that is like few others keeps its own answer."""


class Substitutes:
    """Answers by what they look like: a question's is exchanged for one of a question that begins alike, of the same
    shape; for one of the same shape where none such was drawn."""

    def __init__(
        self,
        questions: Sequence[Question],
        answer_pieces: Sequence[Sequence[IntArray]],
        *,
        share: float,
        most_pieces: int | None = None,
        seed: int = 0,
    ) -> None:
        """answer_pieces: of each question's answers, as many as have any; see `AnswerMatcher`.

        share: of the questions, in [0, 1]; UsageError for another. most_pieces: longer answers are not drawn.
        """
        if not 0 <= share <= 1:
            raise UsageError(f"found a share of {share} of questions to substitute: expected 0 to 1")
        self._share, self._seed = share, seed
        self._own = [{tuple(pieces.tolist()) for pieces in found} for found in answer_pieces]
        self._keys: list[tuple[tuple[str, str], ...]] = []
        self._alike: dict[tuple[str, str], list[IntArray]] = defaultdict(list)
        for question, pieces in zip(questions, answer_pieces, strict=True):
            look = shape(question.answers[0]) if pieces else ""  # patterns, and what has no pieces, stay as they are
            self._keys.append(((opening(question.text), look), ("", look)) if look else ())
            if pieces and (most_pieces is None or len(pieces[0]) <= most_pieces):
                for key in self._keys[-1]:
                    self._alike[key].append(pieces[0])

    def draw(self, step: int, number: int) -> IntArray | None:
        """Word pieces to read in the place of the answers of question `number` at a step; None leaves them."""
        random = np.random.default_rng((self._seed, SUBSTITUTES, step, number))
        if random.random() >= self._share:
            return None
        for key in self._keys[number]:
            found = self._alike[key]
            for at in random.integers(len(found), size=TRIES).tolist() if found else ():
                other: IntArray = found[at]
                if tuple(other.tolist()) not in self._own[number]:
                    return other
        return None
