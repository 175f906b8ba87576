"""REALM and BM25 together: fine-tuned as REALM is, from the same start, with the score of words added to that of
vectors (Karpukhin et al. 2020, section 5.1)."""

from __future__ import annotations

from contextlib import AbstractContextManager

from realm.workflows.comparing.systems.base import Leg, Opened
from realm.workflows.comparing.systems.tuned import open_tuned, require_start, train_tuned, tuned_fingerprint


class Fused:
    """Fine-tuned with ``qa.retriever=fused``. Its start is its own, or else REALM's."""

    title = "REALM + BM25"
    seeded = True

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        return require_start(name if name in starts else "realm", starts)

    def train(self, leg: Leg) -> None:
        train_tuned(leg, ["qa.retriever=fused"])

    def fingerprint(self, leg: Leg) -> str:
        return tuned_fingerprint(leg)

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        return open_tuned(leg)
