"""Answers kept by what they follow from: the version of the knowledge base, the model, the question as the model sees
it, and how it was asked.

A version never changes and a model's parameters don't, so what is kept can't be stale: it is only found while the
version that is asked for is the one it was given from. An edit makes another version, also one that cannot touch the
answer; then it is read anew.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from realm.types import Answer, Evidence

K = TypeVar("K", bound=Hashable)
_FIXED = 1_000
"""Bytes of an answer, and of a passage in it, beside the texts: measured as 600 to 900."""


class AnswerCache(Generic[K]):
    """The answers that were asked for last, up to a number and a size. Threads may share it."""

    def __init__(self, entries: int, size: int) -> None:
        """size: bytes. An answer larger than that is not kept. 0 of either keeps none."""
        self.entries, self.size = entries, size
        self._answers: OrderedDict[K, tuple[Answer, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def held(self) -> int:
        """Bytes, as `size_of` counts them."""
        return self._held

    def get(self, key: K) -> Answer | None:
        """The answer, which counts as asked for; None where there is none."""
        with self._lock:
            found = self._answers.get(key)
            if found is None:
                return None
            self._answers.move_to_end(key)
            return found[0]

    def put(self, key: K, answer: Answer) -> None:
        """Keep it in the place of the one of this key, and let go those that were not asked for the longest."""
        size = size_of(answer)
        with self._lock:
            self._drop(key)
            if size > self.size:
                return
            self._answers[key] = answer, size
            self._held += size
            while len(self._answers) > self.entries or self._held > self.size:
                self._drop(next(iter(self._answers)))

    def forget(self, which: Callable[[K], bool]) -> None:
        """Let go all whose key is one of these."""
        with self._lock:
            for key in [key for key in self._answers if which(key)]:
                self._drop(key)

    def _drop(self, key: K) -> None:
        found = self._answers.pop(key, None)
        self._held -= 0 if found is None else found[1]


def size_of(answer: Answer) -> int:
    """Bytes that an answer takes, near enough: a passage counts once for each place it is named in."""
    named = [*answer.evidence, *(one for side in answer.conflicts for one in side.evidence)]
    texts = [answer.question, answer.text, answer.conflict or "", *(text for text, _ in answer.alternatives)]
    return _FIXED + sum(map(sys.getsizeof, texts)) + sum(map(_size_of_evidence, named))


def _size_of_evidence(evidence: Evidence) -> int:
    passage = evidence.passage
    texts = (passage.title, passage.text, passage.document_id, evidence.source or "", evidence.url or "")
    return _FIXED + sum(map(sys.getsizeof, texts)) + 100 * len(passage.sentences)
