"""Vectors held in memory find what the knowledge base itself finds, whatever is edited between two questions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import dots
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.answering import layers
from realm.answering.held import HeldVectors
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table import housekeeping
from realm.types import Document, Passage

ENCODER = "e"
SIZE = 6


def encode(passages: Sequence[Passage]) -> np.ndarray:
    """A vector that follows from the text alone."""
    seeds = [int(passage.text_hash, 16) % 2**32 for passage in passages]
    return np.stack([np.random.default_rng(seed).standard_normal(SIZE) for seed in seeds])


def document(name: str, *sentences: str) -> Document:
    return Document(name, name, "".join(f"{sentence}. " for sentence in sentences))


def newest(kb: KnowledgeBase) -> KnowledgeBase:
    kb.embed_missing(PassageEncoder(ENCODER, encode))
    return kb.at(kb.version)


def told(matches: Sequence[Match]) -> list[tuple[str, float, int]]:
    return [(match.passage.id, round(match.score, 4), match.document_version) for match in matches]


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    base = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    base.add(document(f"d{n}", *(f"sentence {n} {m}" for m in range(1 + n % 4))) for n in range(12))
    return base


def queries(count: int) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(count))


def test_the_second_question_of_a_version_is_searched_in_memory(kb: KnowledgeBase) -> None:
    held, now = HeldVectors(), newest(kb)
    query = queries(1)
    assert held.search(now, query, 4, ENCODER) is None, "one question is not worth reading all vectors for"
    found = held.search(now, query, 4, ENCODER)
    assert found is not None and told(found[0]) == told(now.search_vectors(query[0].numpy(), 4))
    kb.update(document("d3", "something else"))
    after = newest(kb)
    found = held.search(after, query, 99, ENCODER)
    assert found is not None and told(found[0]) == told(after.search_vectors(query[0].numpy(), 99))
    assert "something else" in {match.passage.text for match in found[0]}
    past = [held.search(now, query, 99, ENCODER) for _ in range(2)][1]
    assert past is not None and "sentence 3 0" in {match.passage.text for match in past[0]}


def test_several_questions_are_worth_it_at_once(kb: KnowledgeBase) -> None:
    held, now, query = HeldVectors(), newest(kb), queries(7)
    found = held.search(now, query, 3, ENCODER)
    assert found is not None
    assert [told(mine) for mine in found] == [told(mine) for mine in now.search_many(query.numpy(), 3)]


def test_no_more_is_held_than_the_limit(kb: KnowledgeBase) -> None:
    now = newest(kb)
    bytes_ = now.num_passages() * SIZE * 4
    assert HeldVectors(bytes_).search(now, queries(2), 3, ENCODER) is not None
    for limit in (bytes_ - 1, 0):
        held = HeldVectors(limit)
        assert [held.search(now, queries(2), 3, ENCODER) for _ in range(3)] == [None] * 3


def test_where_everything_was_deleted_nothing_is_found(kb: KnowledgeBase) -> None:
    newest(kb)
    kb.delete([found.id for found in kb.documents()])
    assert HeldVectors().search(kb.at(kb.version), queries(2), 3, ENCODER) == [[], []]


@settings(max_examples=12, deadline=None)
@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from(["update", "delete", "compact", "fold", "ask", "ask"]), st.integers(0, 5), st.integers(0, 3)
        ),
        max_size=10,
    )
)
def test_any_sequence_of_edits_and_questions(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, int]]
) -> None:
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("kb") / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(document(f"d{n}", f"sentence {n}", "and another") for n in range(3))
    held = HeldVectors()
    for kind, n, m in [*edits, ("ask", 0, 1), ("ask", 1, 1)]:
        if kind == "update":
            kb.upsert([document(f"d{n}", *(f"edited {n} {i}" for i in range(m)))])
        elif kind == "delete":
            if f"d{n}" in kb:
                kb.delete(f"d{n}")
        elif kind == "compact":
            kb.compact()
        elif kind == "fold":
            with kb._store.writing(1.0) as table:
                housekeeping.fold(table)
        else:
            now, query = newest(kb), queries(1 + m % 2)
            found = held.search(now, query, 4, ENCODER)
            if found is not None:
                assert [told(mine) for mine in found] == [told(mine) for mine in now.search_many(query.numpy(), 4)]
    assert found is not None, "the last version was asked twice"


def test_another_knowledge_base_in_the_same_place_is_another(kb: KnowledgeBase) -> None:
    held, query = HeldVectors(), queries(2)
    first = newest(kb)
    held.search(first, query, 3, ENCODER)
    shutil.rmtree(kb.path)
    other = KnowledgeBase.create(kb.path, split=dots.split, splitter=dots.SETTINGS)
    other.add(document(f"e{n}", *(f"other {n} {m}" for m in range(1 + n % 4))) for n in range(12))
    now = newest(other)
    assert now.version == first.version
    found = held.search(now, query, 3, ENCODER)
    assert found is not None and {match.passage.id[0] for match in found[0]} == {"e"}


def test_an_edit_is_followed_and_nothing_is_read_again(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    held, query, encoder = HeldVectors(), queries(2), PassageEncoder(ENCODER, encode)
    held.hold(newest(kb), ENCODER)

    def none(*_: object) -> None:
        raise AssertionError("the vectors were read again")

    monkeypatch.setattr(KnowledgeBase, "embedded", none)
    kb.update(
        document("d3", "something else", "and more", "and still more", "and the last", "no, this"), encoder=encoder
    )
    kb.update(document("d3", "something else"), encoder=encoder)
    kb.add([document("new", "a new one")], encoder=encoder)
    kb.delete(["d0", "d5"])
    kb.add([document("d5", "here again")], encoder=encoder)
    kb.compact()
    now = kb.at(kb.version)
    assert held.reach(now, ENCODER)
    found = held.search(now, query, 99, ENCODER)
    assert found is not None
    assert [set(told(mine)) for mine in found] == [set(told(now.search_vectors(q.numpy(), 99))) for q in query]
    texts = {match.passage.text for match in found[0]}
    assert {"something else", "a new one", "here again"} <= texts and not texts & {"and more", "sentence 0 0"}
    assert "sentence 5 0" not in texts


def test_what_has_no_vector_yet_is_not_followed(kb: KnowledgeBase) -> None:
    held, query = HeldVectors(), queries(2)
    held.hold(newest(kb), ENCODER)
    kb.add([document("new", "a new one")])
    assert not held.reach(kb.at(kb.version), ENCODER)
    now = newest(kb)
    assert held.reach(now, ENCODER), "the vector came later, the document is found by its edit"
    found = held.search(now, query, 99, ENCODER)
    assert found is not None and "a new one" in {match.passage.text for match in found[0]}
    kb.add([document("newer", "a newer one")])
    incomplete = HeldVectors()
    incomplete.hold(kb.at(kb.version), ENCODER)
    now = newest(kb)
    assert not incomplete.reach(now, ENCODER), "what it lacks is told by no edit"
    found = incomplete.search(now, query, 99, ENCODER)
    assert found is not None and "a newer one" in {match.passage.text for match in found[0]}


def test_after_many_edits_the_vectors_are_read_anew_behind_the_questions(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "WORN", 3)
    held, query, encoder = HeldVectors(), queries(2), PassageEncoder(ENCODER, encode)
    first = held.hold(newest(kb), ENCODER)
    assert first is not None
    for number in range(6):
        kb.update(document(f"d{number}", f"edited {number}", f"and {number}"), encoder=encoder)
        now = kb.at(kb.version)
        found = held.search(now, query, 99, ENCODER)
        assert found is not None
        assert [set(told(mine)) for mine in found] == [set(told(now.search_vectors(q.numpy(), 99))) for q in query]
        if held._reading is not None:
            held._reading.join()
    (now_held,) = held._held
    assert now_held.base is not first.base and len(now_held.matches) <= 6


def test_what_outgrew_the_limit_is_let_go_and_not_read_at_each_edit(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "WORN", 3)
    query, encoder, now, embedded = queries(2), PassageEncoder(ENCODER, encode), newest(kb), KnowledgeBase.embedded
    held, read = HeldVectors(now.num_passages() * SIZE * 4), list[int]()
    assert held.hold(now, ENCODER) is not None
    monkeypatch.setattr(KnowledgeBase, "embedded", lambda self, name: read.append(self.version) or embedded(self, name))
    for number in range(6):
        kb.add([document(f"n{number}", f"a new one {number}", "and another")], encoder=encoder)
        now = kb.at(kb.version)
        for _ in range(3):
            found = held.search(now, query, 99, ENCODER)
            assert found is None or [set(told(mine)) for mine in found] == [
                set(told(now.search_vectors(q.numpy(), 99))) for q in query
            ]
        if held._reading is not None:
            held._reading.join()
    assert found is None and held._held == () and read == []
    kb.delete([f"n{number}" for number in range(6)])
    now = kb.at(kb.version)
    assert held.search(now, query, 99, ENCODER) is not None and read == [now.version], "it fits again"


def test_vectors_whose_version_was_let_go_are_read_again(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "GRACE", timedelta(0))
    monkeypatch.setattr(housekeeping, "_MEANWHILE", timedelta(0))
    held, query, encoder = HeldVectors(), queries(2), PassageEncoder(ENCODER, encode)
    held.hold(newest(kb), ENCODER)
    kb.update(document("d3", "something else"), encoder=encoder)
    kb.compact()
    kb.upkeep.reclaim(keep_versions=1)
    now = kb.at(kb.version)
    assert [version.version for version in kb.versions()] == [now.version]
    found = [held.search(now, query, 99, ENCODER) for _ in range(2)][1]
    assert found is not None
    assert [set(told(mine)) for mine in found] == [set(told(now.search_vectors(q.numpy(), 99))) for q in query]


def test_what_another_thread_puts_in_its_place_meanwhile_is_not_given(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = newest(kb)
    kb.delete("d3")
    second = kb.at(kb.version)
    held, other = HeldVectors(), HeldVectors().hold(second, ENCODER)

    def interrupted(self: HeldVectors, _: object) -> None:
        """The other thread comes after the vectors were read."""
        self._held = (other,)

    monkeypatch.setattr(HeldVectors, "_too_large", property(lambda self: None, interrupted), raising=False)
    found = held.search(first, queries(2), 99, ENCODER)
    assert held._held == (other,) and found is not None
    assert "d3" in {match.passage.document_id for match in found[0]}
