"""Any sequence of edits, embeddings and readings, against a list of dictionaries that remembers every version.

A few seconds by default. ``--hypothesis-profile long`` runs 10,000 steps, others every time:

    pytest -n 0 --timeout 0 --hypothesis-profile long tests/unit/knowledge/test_state_machine.py
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
from fuzz import few
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from living import (
    BATCHES,
    BIG,
    ENCODERS,
    IDS,
    MAYBE,
    NAMES,
    SENTENCES,
    WHERES,
    WORDS,
    Asked,
    State,
    columns_for,
    documents,
    hashes,
)

from realm.errors import AbsentError, ChangedError, DataError, PresentError, UsageError
from realm.knowledge.base import KnowledgeBase, Match
from realm.knowledge.table import housekeeping
from realm.knowledge.table.schema import document_hash
from realm.types import Document

# ---------------------------------------------------------------- the machine


class Living(RuleBasedStateMachine):
    """A knowledge base, edited and read at random."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.kb = KnowledgeBase.create(Path(self.folder.name) / "kb", split=dots.split, splitter=dots.SETTINGS)
        self.reader = KnowledgeBase.open(self.kb.path)
        """Open all the time, and never written through."""
        self.states = [State(self.kb.version, datetime.now(UTC))]
        self.changes: dict[str, list[tuple[int, str]]] = {}
        self.oldest = self.kb.version
        """The oldest version that is still kept."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(housekeeping, "MANY_FRAGMENTS", 3)
        self.patch.setattr(housekeeping, "GRACE", timedelta(0))

    def teardown(self) -> None:
        self.patch.undo()
        self.folder.cleanup()

    @property
    def now(self) -> State:
        return self.states[-1]

    def states_at(self, version: int) -> State:
        return next(state for state in reversed(self.states) if state.version <= version)

    # ------------------------------------------------------------ edits

    def edited(self, before: int, changes: Mapping[str, str], after: State) -> None:
        """Note what an edit did. Its version is what the store says, and only one: all of an edit is one commit."""
        if not changes:
            assert self.kb.version == before
            return
        versions = {self.kb.revision(name).version for name in changes}  # type: ignore[union-attr]
        assert len(versions) == 1, "one edit is one commit"
        (version,) = versions
        assert before < version <= self.kb.version
        self.states.append(replace(after, version=version, time=datetime.now(UTC)))
        for name, change in changes.items():
            self.changes.setdefault(name, []).append((version, change))

    def write(
        self,
        call: Callable[[], Any],
        batch: Sequence[Document],
        encoder: str | None,
        known: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """An edit that is allowed, unless its metadata does not fit."""
        then = self.now
        changed = [
            d for d in batch if d.id not in then.documents or document_hash(d) != document_hash(then.documents[d.id])
        ]
        changes = {d.id: "updated" if d.id in then.documents else "added" for d in changed}
        columns = columns_for(then.columns, changed)
        before = self.kb.version
        if columns is None:
            with pytest.raises(DataError, match="metadata"):
                call()
            assert self.kb.version == before
            return
        counts = call()
        kinds = Counter(changes.values())
        assert (counts.added, counts.updated, counts.unchanged, counts.deleted) == (
            kinds["added"],
            kinds["updated"],
            len(batch) - len(changed),
            0,
        )
        assert counts.version == self.kb.version
        held = {**then.documents, **{d.id: d for d in changed}}
        embedded = then.embedded_after(changed, encoder, known or {}) if changed else then.embedded
        self.edited(before, changes, State(0, None, held, embedded, columns))

    def refused(self, error: type[Exception], call: Callable[[], Any]) -> None:
        before = self.kb.version
        with pytest.raises(error):
            call()
        assert self.kb.version == before

    @initialize(batch=BATCHES, encoder=MAYBE)
    def begin(self, batch: list[Document], encoder: str | None) -> None:
        self.upsert(batch, encoder)

    @rule(batch=BATCHES, encoder=MAYBE)
    def add(self, batch: list[Document], encoder: str | None) -> None:
        def call() -> Any:
            return self.kb.add(batch, encoder=ENCODERS.get(encoder or ""))

        if any(document.id in self.now.documents for document in batch):
            self.refused(PresentError, call)
        else:
            self.write(call, batch, encoder)

    @rule(batch=BATCHES, encoder=MAYBE)
    def upsert(self, batch: list[Document], encoder: str | None) -> None:
        self.write(lambda: self.kb.upsert(batch, encoder=ENCODERS.get(encoder or "")), batch, encoder)

    @rule(document=documents(), encoder=MAYBE)
    def update(self, document: Document, encoder: str | None) -> None:
        def call() -> Any:
            return self.kb.update(document, encoder=ENCODERS.get(encoder or ""))

        if document.id in self.now.documents:
            self.write(call, [document], encoder)
        else:
            self.refused(AbsentError, call)

    @precondition(lambda self: self.now.documents)
    @rule(data=st.data(), encoder=MAYBE, more=SENTENCES, late=st.integers(0, 3))
    def edit_one_sentence(self, data: st.DataObject, encoder: str | None, more: str, late: int) -> None:
        """Most of the text stays, and its vectors with it. Who began before somebody else's edit is refused."""
        old = data.draw(st.sampled_from(list(self.now.documents.values())))
        new = replace(old, text=f"{old.text}. {more}")
        expected = self.changes[old.id][-1][0] - (not late)

        def call() -> Any:
            return self.kb.update(new, encoder=ENCODERS.get(encoder or ""), expected=expected)

        if late:
            self.write(call, [new], encoder)
        else:
            self.refused(ChangedError, call)
            self.refused(ChangedError, lambda: self.kb.delete(old.id, expected=expected))

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=3))
    def delete(self, ids: list[str]) -> None:
        if any(name not in self.now.documents for name in ids):
            self.refused(AbsentError, lambda: self.kb.delete(ids))
            return
        before = self.kb.version
        assert self.kb.delete(ids).deleted == len(set(ids))
        held = {name: document for name, document in self.now.documents.items() if name not in ids}
        left = {e: {k: v for k, v in of.items() if k not in ids} for e, of in self.now.embedded.items()}
        self.edited(before, dict.fromkeys(ids, "deleted"), replace(self.now, documents=held, embedded=left))

    @rule(data=st.data(), name=st.sampled_from(IDS), encoder=MAYBE, by_time=st.booleans())
    def restore(self, data: st.DataObject, name: str, encoder: str | None, by_time: bool) -> None:
        at = data.draw(st.sampled_from(range(len(self.states))))
        then = self.states[at]
        moment = then.time if by_time else then.version
        assert moment is not None

        def call() -> Any:
            return self.kb.restore(name, moment, encoder=ENCODERS.get(encoder or ""))

        if name not in then.documents:
            self.refused(AbsentError, call)
            return
        document = then.read(then.documents[name])
        present = self.now.documents.get(name)
        if present is not None and self.now.read(present) == document:
            before = self.kb.version
            assert call().unchanged == 1 and self.kb.version == before
            return
        later = [version for version, _ in self.changes[name] if version > then.version]
        last = self.states_at(min(later) - 1)
        known = {encoder: of.get(name, frozenset()) for encoder, of in last.embedded.items()}
        self.write(call, [document], encoder, known)

    # ------------------------------------------------------------ vectors, files, other processes

    @rule(name=NAMES, at_once=st.integers(1, 5))
    def embed_missing(self, name: str, at_once: int) -> None:
        had = self.now.embedded.get(name, {})
        missing = sum(passage.text_hash not in had.get(passage.document_id, ()) for passage in self.now.passages())
        assert self.kb.embed_missing(ENCODERS[name], batch=at_once, commit_every=2 * at_once) == missing
        if missing:
            full = {document.id: hashes(document) for document in self.now.documents.values()}
            embedded = {**self.now.embedded, name: full}
            self.states.append(replace(self.now, version=self.kb.version, time=datetime.now(UTC), embedded=embedded))

    @rule(name=NAMES)
    def forget_encoder(self, name: str) -> None:
        if name not in self.now.embedded:
            self.refused(UsageError, lambda: self.kb.forget_encoder(name))
            return
        self.kb.forget_encoder(name)
        embedded = {encoder: of for encoder, of in self.now.embedded.items() if encoder != name}
        self.states.append(replace(self.now, version=self.kb.version, time=datetime.now(UTC), embedded=embedded))

    @rule()
    def compact(self) -> None:
        assert self.kb.compact() == self.kb.version

    @rule()
    def tidy(self) -> None:
        self.kb.upkeep.tidy()

    @precondition(lambda self: len(self.states) > 20)
    @rule()
    def reclaim(self) -> None:
        """Only the newest version is left, and what it holds is as before."""
        self.kb.upkeep.reclaim(older_than=timedelta(0))
        self.oldest = min(version.version for version in self.kb.versions())
        assert self.oldest == self.kb.version
        self.states = [replace(self.now, version=self.oldest, time=datetime.now(UTC))]

    @rule()
    def reopen(self) -> None:
        self.kb = KnowledgeBase.open(self.kb.path, split=dots.split)

    # ------------------------------------------------------------ reading

    @rule(asked=WHERES, limit=st.integers(1, 4))
    def pages(self, asked: Asked, limit: int) -> None:
        where, holds = asked
        if self.unknown(where):
            self.refused(UsageError, lambda: self.kb.page(where))
            return
        kb, seen, after = self.kb.at(self.kb.version), [], None
        expected = [self.now.read(d) for d in self.now.documents.values() if holds(d)]
        while True:
            page = kb.page(where, limit, after)
            assert page.total == len(expected) and len(page.documents) <= limit
            seen += page.documents
            after = page.next
            if after is None:
                break
        assert seen == expected == list(self.kb.documents(where))
        assert list(self.kb.passages(where)) == [p for found in dots.split(expected) for p in found]

    @rule(name=NAMES, asked=WHERES, k=st.one_of(st.integers(1, 4), st.just(BIG)), draw=st.integers(0, 2**16))
    def search_vectors(self, name: str, asked: Asked, k: int, draw: int) -> None:
        where, holds = asked
        query = [float(draw % 5 - 2), float(draw // 5 % 5 - 2), float(draw // 25 % 5)][: len(self.vector(name))]
        if name not in self.now.embedded or self.unknown(where):
            self.refused(UsageError, lambda: self.kb.search_vectors(np.array(query), k, where, name))
            return
        had = self.now.embedded[name]
        scores = {
            (p.document_id, p.number): float(np.dot(query, ENCODERS[name].encode([p])[0]))
            for p in self.now.passages()
            if holds(self.now.documents[p.document_id]) and p.text_hash in had.get(p.document_id, ())
        }
        best = sorted(scores.values(), reverse=True)[:k]
        found = self.kb.search_vectors(np.array(query), k, where, name)
        (many,) = self.reader.search_many(np.array([query]), k, where, name)
        for matches in (found, many):
            assert [match.score for match in matches] == best
            assert len({self.key(match) for match in matches}) == len(matches)
            for match in matches:
                assert match.score == scores[self.key(match)]
                self.check(match)

    @rule(word=st.sampled_from(WORDS), asked=WHERES, k=st.one_of(st.integers(1, 4), st.just(BIG)))
    def search_text(self, word: str, asked: Asked, k: int) -> None:
        where, holds = asked
        if self.unknown(where):
            self.refused(UsageError, lambda: self.kb.search_text(word, k, where))
            return
        expected = {
            (p.document_id, p.number)
            for p in self.now.passages()
            if holds(self.now.documents[p.document_id]) and (word in p.text or word == p.title.lower())
        }
        found = self.kb.search_text(word, k, where)
        assert {self.key(match) for match in found} <= expected
        assert len({self.key(match) for match in found}) == len(found) == min(k, len(expected))
        for match in found:
            self.check(match)

    @rule(data=st.data(), by_time=st.booleans())
    def look_back(self, data: st.DataObject, by_time: bool) -> None:
        then = data.draw(st.sampled_from(self.states))
        moment = then.time if by_time else then.version
        assert moment is not None
        kb = self.reader.at(moment)
        assert kb.version >= then.version and self.states_at(kb.version) is then
        self.holds_what(kb, then)

    @rule(name=st.sampled_from(IDS))
    def history(self, name: str) -> None:
        happened = self.changes.get(name, [])
        gone = max(0, sum(version <= self.oldest for version, _ in happened) - 1)
        happened = happened[gone:]
        assert (name in self.kb) == (name in self.now.documents)
        found = self.reader.history(name)
        assert [(one.version, one.change) for one in found] == happened
        assert [one.revision for one in found] == list(range(gone + 1, gone + len(happened) + 1))
        for one in (one for one in found if one.version >= self.oldest):
            then = self.states_at(one.version)
            known = then.documents.get(name)
            assert self.reader.at(one.version).get(name) == (None if known is None else then.read(known))
        assert self.reader.history(name, limit=2) == found[-2:]

    @rule(data=st.data(), name=NAMES)
    def what_changed(self, data: st.DataObject, name: str) -> None:
        """What follows edits in memory hears of every document that changed, and of all that an encoder has of it."""
        since = data.draw(st.sampled_from(self.states))
        if name not in self.now.embedded:
            self.refused(UsageError, lambda: self.kb.changes(since.version, name))
            return
        found = self.reader.changes(since.version, name)
        ids = {document for document, happened in self.changes.items() if happened[-1][0] > since.version}
        assert found is not None and sorted(found.documents) == sorted(ids)
        had = self.now.embedded[name]
        theirs = [p for p in self.now.passages() if p.document_id in ids]
        with_vector = [p for p in theirs if p.text_hash in had.get(p.document_id, ())]
        assert sorted(map(self.key, found.matches)) == sorted((p.document_id, p.number) for p in with_vector)
        assert found.waiting == len(theirs) - len(with_vector)
        for match, vector_D in zip(found.matches, found.vector_MD, strict=True):
            self.check(match)
            assert vector_D.tolist() == ENCODERS[name].encode([match.passage])[0].tolist()

    # ------------------------------------------------------------ always

    @invariant()
    def nothing_is_stale(self) -> None:
        """Who only reads sees all of the newest version, and nothing of another."""
        assert self.kb.version == self.reader.version
        self.holds_what(self.reader, self.now)
        for name in ENCODERS:
            if name in self.now.embedded:
                had = self.now.embedded[name]
                missing = [p for p in self.now.passages() if p.text_hash not in had.get(p.document_id, ())]
                assert self.kb.waiting(name).passages == len(missing)

    def holds_what(self, kb: KnowledgeBase, state: State) -> None:
        assert list(kb.documents()) == [state.read(document) for document in state.documents.values()]
        assert len(kb) == len(state.documents)
        assert set(kb.encoders()) == set(state.embedded)

    def unknown(self, where: str | None) -> bool:
        """Whether a predicate names a column that no document brought yet."""
        there = {name.lower() for name in self.now.columns}
        return any(name in (where or "") and name not in there for name in ("size", "open"))

    def check(self, match: Match) -> None:
        """Nothing that a search shows is of another version."""
        document = self.now.documents[match.passage.document_id]
        assert match.passage == dots.split([document])[0][match.passage.number]
        assert (match.source, match.date, match.url) == (document.source, document.date, document.url)
        assert match.document_version == self.changes[document.id][-1][0]

    @staticmethod
    def key(match: Match) -> tuple[str, int]:
        return match.passage.document_id, match.passage.number

    @staticmethod
    def vector(name: str) -> Sequence[int]:
        return range(2 + sorted(ENCODERS).index(name))


Living.TestCase.settings = few(max_examples=4, stateful_step_count=15)
TestLiving = Living.TestCase
