"""ORQA (Lee, Chang & Toutanova 2019): the retriever starts from the inverse cloze task alone, the reader from a
language model that never saw a retrieved passage."""

from __future__ import annotations

from contextlib import AbstractContextManager

from realm.workflows.systems.base import Leg, Opened
from realm.workflows.systems.tuned import open_tuned, require_start, train_tuned, tuned_fingerprint


class Orqa:
    """Fine-tuned from the warm start of a run."""

    title = "ORQA"
    seeded = True

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        return require_start(name, starts)

    def train(self, leg: Leg) -> None:
        train_tuned(leg)

    def fingerprint(self, leg: Leg) -> str:
        return tuned_fingerprint(leg)

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        return open_tuned(leg)
