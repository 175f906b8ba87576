"""Answers that were given before, for the service: looked for before a question is queued, kept when it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from realm.answering.cache import AnswerCache
from realm.answering.constraints import Constraints
from realm.knowledge.base import KnowledgeBase
from realm.service.asking import Asking, Model
from realm.service.metrics import Metrics
from realm.service.settings import CacheConfig
from realm.types import Answer


class _Key(NamedTuple):
    base: tuple[Path, tuple[int, int]]
    """The knowledge base, and which one of those that stood there."""
    version: int
    past: bool
    """Whether the version was asked for; else it was the newest."""
    model: str
    how: Asking
    """Without its moment."""
    question: str
    """As the model sees it."""


class Caching:
    """Where it is on, a repeated question costs a look at the newest version."""

    def __init__(self, kb: KnowledgeBase, config: CacheConfig, metrics: Metrics) -> None:
        self.on = config.entries > 0 and config.bytes > 0
        self._kb, self._metrics = kb, metrics
        self._answers: AnswerCache[_Key] = AnswerCache(config.entries, config.bytes)
        self._serving: tuple[Model, str] | None = None

    def take(self, model: Model) -> None:
        """From now on `model` answers; reads its parameters for its name. Answers of the same one are still good."""
        if self.on:
            self._serving = model, model.fingerprint()

    def look(self, how: Asking, questions: Sequence[str]) -> list[Answer | None]:
        """For each question the answer that a reading of the version asked for would give, if it is there.

        The newest version is looked up here, after the question came: an edit that was acknowledged before counts.
        """
        if self._serving is None or not _lasting(how):
            return [None] * len(questions)
        model, name = self._serving
        # A past version is opened, so that one which was let go is told and not remembered.
        version = self._kb.version if how.as_of is None else self._kb.at(how.as_of).version
        key, found = self._key(name, how, version), list[Answer | None]()
        for question in questions:
            answer = self._answers.get(key._replace(question=model.sees(question)))
            found.append(None if answer is None else replace(answer, question=question))
        hits = sum(answer is not None for answer in found)
        self._metrics.cached(hits, len(found) - hits)
        return found

    def keep(self, model: Model, how: Asking, question: str, answer: Answer) -> None:
        """An answer that `model` gave, by the version that it gave it from."""
        serving, version = self._serving, answer.knowledge_base_version
        if serving is None or serving[0] is not model or version is None or not _lasting(how):
            return
        key = self._key(serving[1], how, version, model.sees(question))
        self._answers.put(key, answer)
        if how.as_of is None:  # what older versions were asked is not asked again, but as of them
            self._answers.forget(lambda one: not one.past and (one.base != key.base or one.version < version))
        self._metrics.cache_entries.set(len(self._answers))
        self._metrics.cache_bytes.set(self._answers.held)

    def _key(self, name: str, how: Asking, version: int, question: str = "") -> _Key:
        base = (self._kb.path, self._kb.identity)
        return _Key(base, version, how.as_of is not None, name, replace(how, as_of=None), question)


def _lasting(how: Asking) -> bool:
    """Whether the answer hangs on nothing but the version: not on what the time is."""
    return not (how.constraints or Constraints()).needs_now(how.where)
