"""BM25 and the same reader (Lee et al. 2019's baseline of BM25 and BERT): words retrieve and nothing of that learns;
the span reader is trained with the same loss on what they find, without the early loss, which would teach nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager

from realm.errors import UsageError
from realm.workflows.comparing.systems.base import Leg, Opened
from realm.workflows.comparing.systems.tuned import open_tuned, train_tuned, tuned_fingerprint


class Bm25Reader:
    """Fine-tuned with ``qa.retriever=bm25``. Its start gives word pieces and the reader's beginning: its own, or else
    that of ORQA, so that both readers begin alike."""

    title = "BM25 + reader"
    seeded = True

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        start = starts.get(name) or starts.get("orqa")
        if start is None:
            raise UsageError(
                f"found no --start {name}=... and none of orqa: expected an encoder, whose word pieces and network the "
                "reader begins with (all-MiniLM-L6-v2, say)"
            )
        return start

    def train(self, leg: Leg) -> None:
        train_tuned(leg, ["qa.retriever=bm25", "qa.documents=frozen"])

    def fingerprint(self, leg: Leg) -> str:
        return tuned_fingerprint(leg)

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        return open_tuned(leg)
