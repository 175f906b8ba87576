"""REALM (Guu et al. 2020): retriever and reader start from retrieval-augmented pre-training."""

from __future__ import annotations

from contextlib import AbstractContextManager

from realm.workflows.systems.base import Leg, Opened
from realm.workflows.systems.tuned import open_tuned, require_start, train_tuned, tuned_fingerprint


class RealmTuned:
    """Fine-tuned from a run, exactly as ORQA is: the start is the difference."""

    title = "REALM"
    seeded = True

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        return require_start(name, starts)

    def train(self, leg: Leg) -> None:
        train_tuned(leg)

    def fingerprint(self, leg: Leg) -> str:
        return tuned_fingerprint(leg)

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        return open_tuned(leg)
