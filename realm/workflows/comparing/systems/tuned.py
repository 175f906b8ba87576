"""What systems share that are a fine-tuned retriever and reader: `realm finetune` trains them, its run is the leg."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from realm import files
from realm.answering.answerer import model_fingerprint
from realm.config import override
from realm.errors import MismatchError, UsageError
from realm.types import Answer, Question
from realm.workflows import parts
from realm.workflows.comparing.systems.base import Leg, Opened
from realm.workflows.finetuning.finetune import finetune
from realm.workflows.judging.answers import open_method
from realm.workflows.judging.evaluate import search_snapshot
from realm.workflows.run import FINETUNING, Run
from realm.workflows.store import open_knowledge_base


def require_start(name: str, starts: Mapping[str, str]) -> str:
    """The start that was given for a system. UsageError when none was."""
    if name not in starts:
        raise UsageError(f"found no --start {name}=...: expected the run, warm-start or model that {name} starts from")
    return starts[name]


@dataclass(frozen=True)
class Tuned:
    """A system whose start is all that sets it apart: it retrieves by vectors alone, as the papers do."""

    title: str
    seeded: bool = True

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        return require_start(name, starts)

    def train(self, leg: Leg) -> None:
        train_tuned(leg, ["qa.retriever=dense"])

    def fingerprint(self, leg: Leg) -> str:
        return tuned_fingerprint(leg)

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        return open_tuned(leg)


def train_tuned(leg: Leg, settings: Sequence[str] = ()) -> None:
    """Fine-tune with `settings` on top of the leg's."""
    assert leg.start is not None, "checked by find_start"
    finetune(
        leg.start,
        leg.knowledge_base,
        leg.folder,
        override(leg.config, settings),
        questions=leg.questions,
        dev=leg.dev,
        reporter=leg.reporter,
        should_stop=leg.should_stop,
    )


def tuned_fingerprint(leg: Leg) -> str:
    """Of the best checkpoint, networks and settings, and the snapshot they were trained on."""
    return files.fingerprint(model_fingerprint(leg.folder), snapshot_of(leg))


def snapshot_of(leg: Leg) -> str:
    """The fingerprint of what a leg's run stands on."""
    return str(Run(leg.folder, FINETUNING).facts()["parents"]["snapshot"])


@contextmanager
def open_tuned(leg: Leg) -> Iterator[Opened]:
    """The best checkpoint over the version of the knowledge base that the run stands on."""
    parents = Run(leg.folder, FINETUNING).facts()["parents"]
    kb = open_knowledge_base(leg.knowledge_base).at(parents["knowledge_base_version"])
    method, snapshot = open_method(leg.folder, kb, parts.choose_device(leg.config.loop.device), leg.reporter)
    if snapshot.fingerprint != parents["snapshot"]:
        raise MismatchError(
            f"{leg.folder} was trained over snapshot {parents['snapshot']} of {parents['knowledge_base']}: found "
            f"{snapshot.fingerprint} of {leg.knowledge_base}; compare what stands on one knowledge base"
        )

    def answer(questions: list[Question], k: int) -> list[Answer]:
        found: list[Answer] = method.answer([question.text for question in questions], k, batch=len(questions))
        return found

    with torch.inference_mode():
        yield Opened(answer, search_snapshot(method.search, snapshot), method.num_passages)
