"""Edits made in rounds, each independent of the others of its round, on a knowledge base made for it.

A round is one commit: many documents change at once, and those of the round before are put back in the same commit. No
document that a question reads is changed for another question of its round; where the search brings one in after
the edit, the question is asked again in a later round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from realm.evaluation.answers import normalize_orqa
from realm.evaluation.edit_facts import Place, Substitution, core, stands_in
from realm.evaluation.edit_verdicts import Edit, EditedDocument, Said, Seen, judge_edit
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.types import Answer, Document

LARGEST_ROUND = 100
"""Facts of a round: one that is stopped loses no more than asking so many again."""


class Asker(Protocol):
    """A model over the knowledge base that is edited."""

    def search(self, questions: Sequence[str]) -> list[list[Match]]:
        """Passages of each question, best first."""
        ...

    def ask(self, questions: Sequence[str]) -> Iterator[Answer]:
        """The answer to each, as they come."""
        ...

    def can_say(self, text: str) -> bool:
        """Whether a text could be its answer at all."""
        ...

    def meaning(self, texts: Sequence[str]) -> np.ndarray:
        """Float[N, D]: unit vectors, close for texts that it takes to mean alike."""
        ...


@dataclass(frozen=True)
class Plan:
    """A fact, and what its edit does."""

    id: str
    question: str
    group: str
    type: str
    old: str
    new: str
    accepted: tuple[str, ...]
    before: Said
    change: Substitution
    documents: tuple[Document, ...]
    """Those that are edited, as they were."""

    @property
    def edited(self) -> frozenset[str]:
        return frozenset(document.id for document in self.documents)

    @property
    def read(self) -> frozenset[str]:
        """Documents of the passages that were read before."""
        return frozenset(seen.document for seen in self.before.passages)

    @property
    def accepted_after(self) -> tuple[str, ...]:
        """Every accepted answer as the edit leaves it; without those that the edit leaves as they were ("paris" where
        "Paris" gave way), or clinging to the old value would count as following."""
        before = {normalize_orqa(answer) for answer in self.accepted}
        changed = [self.change(answer) for answer in self.accepted]
        return tuple(dict.fromkeys([self.new, *(one for one in changed if normalize_orqa(one) not in before)]))


class Scratch:
    """A knowledge base that is edited and put back."""

    def __init__(self, kb: KnowledgeBase, encoder: PassageEncoder, base: int) -> None:
        """base: the version that edits start from."""
        self.kb, self.encoder, self.base = kb, encoder, kb.at(base)
        self._known: dict[str, Document] = {}
        self._changed: frozenset[str] = frozenset()

    def original(self, identity: str) -> Document:
        """A document as it is without any edit."""
        if identity not in self._known:
            found = self.base.get(identity)
            assert found is not None, identity  # it was retrieved from this version
            self._known[identity] = found
        return self._known[identity]

    def commit(self, edits: Mapping[str, Document]) -> None:
        """One commit: these documents changed, all others as they were."""
        back = {identity: self.original(identity) for identity in sorted(self._changed - edits.keys())}
        documents = [*back.values(), *edits.values()]
        if documents:
            self.kb.upsert(documents, encoder=self.encoder)
        self._changed = frozenset(edits)

    def put_back(self, identities: Sequence[str]) -> None:
        """Undo what a process that was stopped may have left."""
        self._changed = frozenset(identities)
        self.commit({})


def edit(document: Document, change: Substitution) -> tuple[Document, EditedDocument]:
    """The document after the change, and what was replaced where."""
    places = [
        Place(name, start, end, text[start:end], new)
        for name, text in (("title", document.title), ("text", document.text))
        for start, end, new in change.places(text)
    ]
    changed = replace(document, title=change(document.title), text=change(document.text))
    return changed, EditedDocument(document.id, tuple(places))


def play(
    plans: Sequence[Plan], scratch: Scratch, asker: Asker, before_commit: Callable[[Sequence[str]], None]
) -> Iterator[Edit]:
    """Every plan's edit, asked after it; in rounds, so not in the order of the plans.

    before_commit: told which documents are about to change.
    """
    waiting = list(plans)
    apart: dict[str, frozenset[str]] = {}  # documents that came into a question's evidence uncalled
    while waiting:
        chosen = _round(waiting, apart)
        edited: dict[str, Document] = {}
        for plan in chosen:
            edited.update((document.id, edit(document, plan.change)[0]) for document in plan.documents)
        before_commit(sorted(edited))
        scratch.commit(edited)
        done = set()
        answers = asker.ask([plan.question for plan in chosen])
        for plan, answer in zip(chosen, answers, strict=True):
            after = said(answer, plan.edited, plan.accepted, plan.accepted_after)
            strangers = {seen.document for seen in after.passages} & (edited.keys() - plan.edited)
            if strangers:
                apart[plan.id] = apart.get(plan.id, frozenset()) | strangers
                continue
            done.add(plan.id)
            yield judged(plan, after)
        waiting = [plan for plan in waiting if plan.id not in done]


def _round(waiting: Sequence[Plan], apart: Mapping[str, frozenset[str]]) -> list[Plan]:
    """The first plans that leave each other alone; never none."""
    chosen: list[Plan] = []
    edited: set[str] = set()
    read: set[str] = set()
    for plan in waiting:
        reads = plan.read | apart.get(plan.id, frozenset())
        if edited.isdisjoint(reads) and read.isdisjoint(plan.edited):
            chosen.append(plan)
            edited |= plan.edited
            read |= reads
            if len(chosen) == LARGEST_ROUND:
                break
    return chosen


def judged(plan: Plan, after: Said) -> Edit:
    verdict, cause = judge_edit(after, plan.accepted, plan.accepted_after)
    return Edit(
        id=plan.id,
        question=plan.question,
        group=plan.group,
        type=plan.type,
        old=plan.old,
        new=plan.new,
        accepted_before=plan.accepted,
        accepted_after=plan.accepted_after,
        documents=tuple(edit(document, plan.change)[1] for document in plan.documents),
        before=plan.before,
        after=after,
        verdict=verdict,
        cause=cause,
    )


def said(
    answer: Answer, edited: frozenset[str] = frozenset(), old: Sequence[str] = (), new: Sequence[str] = ()
) -> Said:
    """What is kept of an answer: passages in the order of the search, and which values they hold."""
    passages = tuple(
        Seen(
            document=evidence.passage.document_id,
            passage=evidence.passage.id,
            title=evidence.passage.title,
            score=evidence.score,
            posterior=evidence.posterior if math.isfinite(evidence.posterior) else 0.0,
            span=evidence.span,
            text=evidence.passage.text,
            edited=evidence.passage.document_id in edited,
            holds_old=holds(evidence.passage.text, old),
            holds_new=holds(evidence.passage.text, new),
        )
        for evidence in sorted(answer.evidence, key=lambda evidence: -evidence.score)
    )
    text, runner_up = answer.text, answer.alternatives[0][0] if answer.alternatives else ""
    return Said(text, answer.confidence, answer.abstained, runner_up, passages)


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether any of the answers, without its article, stands in the text."""
    return stands_in(text, {core(answer) for answer in answers} - {""})
