"""Vectors held in memory find what the knowledge base itself finds, whatever is edited between two questions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import dots
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.answering.held import HeldVectors
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
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
    assert held.search(after, query, 99, ENCODER) is None
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


@settings(max_examples=8, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(["update", "delete", "ask", "ask"]), st.integers(0, 5), st.integers(0, 3)),
        max_size=8,
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
