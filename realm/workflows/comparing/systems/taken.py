"""A run of `realm finetune` that was trained elsewhere: judged as it is, never trained or written to."""

from __future__ import annotations

from contextlib import AbstractContextManager

from realm.answering.answerer import answerer_folder
from realm.errors import ArtefactError
from realm.workflows.comparing.systems.base import Leg, Opened
from realm.workflows.comparing.systems.tuned import open_tuned, tuned_fingerprint
from realm.workflows.run import FINETUNING, Run


class Taken:
    """Its budget is its own; the comparison says which of its settings are not those of the others."""

    def __init__(self, title: str, *, seeded: bool) -> None:
        self.title, self.seeded = title, seeded

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        return None

    def train(self, leg: Leg) -> None:
        """ArtefactError when there is no fine-tuned run in the folder; one that is still trained is judged by its best
        checkpoint so far."""
        if not leg.folder.is_dir():
            raise ArtefactError(f"no folder {leg.folder}: expected a run of realm finetune")
        Run(leg.folder, FINETUNING).facts()
        answerer_folder(leg.folder)

    def fingerprint(self, leg: Leg) -> str:
        return tuned_fingerprint(leg)

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        return open_tuned(leg)
