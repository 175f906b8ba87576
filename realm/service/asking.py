"""The threads that answer questions: one for the present with others to help it, one for the past, whose vectors may
have to be made first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch

from realm.answering.ask import Realm
from realm.answering.conflicts import ConflictRule
from realm.answering.constraints import Constraints
from realm.answering.early import EarlyExit
from realm.answering.questions import QuestionAnswering
from realm.knowledge.base import KnowledgeBase, Match
from realm.knowledge.table.times import AsOf
from realm.service.batching import Batcher
from realm.service.settings import BatchingConfig
from realm.types import Answer

Model = Realm | QuestionAnswering


@dataclass(frozen=True, slots=True)
class Asking:
    """How a question is asked; equal ones share a batch. The words are those of `Realm.ask`."""

    k: int
    where: str | None = None
    as_of: AsOf | None = None
    aggregate: str | None = None
    conflicts: ConflictRule | None = None
    constraints: Constraints | None = None
    early_exit: EarlyExit | None = None


@dataclass(frozen=True, slots=True)
class Searching:
    """How passages are searched by meaning; equal ones share a batch."""

    k: int
    where: str | None = None
    as_of: AsOf | None = None
    constraints: Constraints | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave."""

    matches: list[Match]
    version: int
    now: datetime | None = None
    """See `Answer.now`."""


class Answers:
    """Answers and searches to come. A question never waits for one about the past."""

    def __init__(
        self,
        model: Callable[[], Model],
        kb: KnowledgeBase,
        config: BatchingConfig,
        on_batch: Callable[[int, float], None],
        on_answer: Callable[[Model, Asking, str, Answer], None] | None = None,
    ) -> None:
        """model: what answers now. on_batch: see `Batcher`. on_answer: told of each, in the thread that gave it."""
        self._model, self._kb, self._on_answer = model, kb, on_answer
        self.cores = torch.get_num_threads()
        self._present, self._past = (
            Batcher(
                self._answer,
                window=config.window_ms / 1000,
                size=config.size,
                name=name,
                on_batch=on_batch,
                threads=threads,
                parts=self._parts,
                on_part=self._share_cores,
            )
            for name, threads in (
                ("realm-ask", self.cores if config.side_by_side else 1),
                ("realm-ask-past", 1),
            )
        )

    def submit(self, how: Asking | Searching, text: str) -> Future[Any]:
        """An `Answer`, or what was `Found`. RuntimeError after `close`."""
        return (self._present if how.as_of is None else self._past).submit(how, text)

    def close(self) -> None:
        """Answer what waits, then end."""
        self._present.close()
        self._past.close()

    def _parts(self, how: Asking | Searching) -> int:
        """A search is one product for all its queries; a pre-trained model's recogniser of names wants one thread."""
        together = isinstance(how, Searching) or not isinstance(self._model(), QuestionAnswering)
        return 1 if together else self.cores

    def _share_cores(self, parts: int) -> None:
        """For the calling thread alone; torch would give a new thread what any other was told last."""
        torch.set_num_threads(max(1, self.cores // parts))

    def _answer(self, how: Asking | Searching, asked: Sequence[str]) -> Iterable[Any]:
        model = self._model()
        if isinstance(how, Searching):
            found = model.retrieval.search_many(asked, self._kb, how.k, how.where, how.as_of, how.constraints)
            return [Found(matches, found.version, found.now) for matches in found.matches]
        answers = model.ask_many(
            asked,
            self._kb,
            how.k,
            how.where,
            how.as_of,
            aggregate=how.aggregate,
            conflicts=how.conflicts,
            constraints=how.constraints,
            early_exit=how.early_exit,
            batch=len(asked),
        )
        return answers if self._on_answer is None else self._told(model, how, asked, answers)

    def _told(self, model: Model, how: Asking, asked: Sequence[str], answers: Iterable[Answer]) -> Iterator[Answer]:
        identity = self._kb.identity
        for question, answer in zip(asked, answers, strict=True):
            assert self._on_answer is not None
            if self._kb.identity == identity:  # no other one was laid in its place meanwhile
                self._on_answer(model, how, question, answer)
            yield answer
