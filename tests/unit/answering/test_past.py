"""A past version is searched as it was, embedding no more than what never got a vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dots
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.answering.past import PastSearch
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.types import Document, Passage

SIZE = 6


class Counting:
    """An encoder whose vectors follow from the text alone, and that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, passages: Sequence[Passage]) -> np.ndarray:
        self.asked += [passage.text for passage in passages]
        seeds = [int(passage.text_hash, 16) % 2**32 for passage in passages]
        return np.stack([np.random.default_rng(seed).standard_normal(SIZE) for seed in seeds])


def document(name: str, *sentences: str) -> Document:
    return Document(name, name, "".join(f"{sentence}. " for sentence in sentences), source=name[:1])


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)


def queries(count: int) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(count))


def brute_force(kb: KnowledgeBase, version: int, query_D: torch.Tensor, k: int, where: str | None = None) -> list[str]:
    passages = list(kb.at(version).passages(where))
    scores = Counting()(passages) @ query_D.numpy() if passages else np.zeros(0)
    return [passages[place].text for place in np.argsort(-scores, kind="stable")[:k]]


def texts(matches: Sequence[Match]) -> list[str]:
    return [match.passage.text for match in matches]


def test_vectors_that_came_later_are_found(kb: KnowledgeBase) -> None:
    encode = Counting()
    encoder = PassageEncoder("e", encode)
    kb.add([document("a", "one", "two"), document("b", "three")])
    first = kb.version
    kb.embed_missing(encoder, commit_every=1)
    embedded = kb.version
    kb.update(document("a", "four"), encoder=encoder)
    assert kb.at(first).last_alike() == kb.at(embedded).last_alike() == embedded > first + 1
    assert kb.at(kb.version).last_alike() == kb.version and kb.at(1).last_alike() == first - 1
    encode.asked.clear()
    past, (query_D, *_) = PastSearch(), queries(1)
    for version in (first, embedded, first):
        (found,) = past.search(kb, version, query_D[None], 3, None, encoder)
        assert texts(found) == brute_force(kb, version, query_D, 3) and "four" not in texts(found)
    assert encode.asked == []


def test_only_what_never_got_a_vector_is_embedded(kb: KnowledgeBase) -> None:
    encode = Counting()
    encoder = PassageEncoder("e", encode)
    kb.add([document("a", "one", "two"), document("b", "three")], encoder=encoder)
    kb.upsert([document("a", "one", "bare"), document("c", "kept", "lost")])
    version = kb.version
    kb.upsert([document("a", "four"), document("c", "kept")], encoder=encoder)
    encode.asked.clear()
    past, query_BD = PastSearch(), queries(4)
    for where in (None, "source = 'c'", "source = 'b'", "source = 'z'", None):
        found = past.search(kb, version, query_BD, 3, where, encoder)
        assert [texts(mine) for mine in found] == [brute_force(kb, version, one, 3, where) for one in query_BD]
    assert sorted(encode.asked) == ["bare", "lost"], "once, whatever is asked of the version"
    (best, *_), matches = found[0], found[0]
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)
    assert best.document_version <= version


def test_versions_that_are_asked_in_turn_are_read_once(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, past, (query_D, *_), read = PassageEncoder("e", Counting()), PastSearch(), queries(1), list[int]()
    versions, embedded = [], KnowledgeBase.embedded
    for text in ("one", "two", "three"):
        kb.upsert([document("a", text, "stays"), document("b", "as it was")], encoder=encoder)
        versions.append(kb.version)
    monkeypatch.setattr(KnowledgeBase, "embedded", lambda self, name: read.append(self.version) or embedded(self, name))
    for _ in range(3):
        for version in reversed(versions):
            (found,) = past.search(kb, version, query_D[None], 9, None, encoder)
            assert sorted(texts(found)) == sorted(brute_force(kb, version, query_D, 9))
    assert len(read) == len(set(read)) <= 3 and {layers.version[2] for layers in past.held._held} == set(versions)

    def no(*_: object, **__: object) -> None:
        raise AssertionError("the store was searched")

    monkeypatch.setattr(KnowledgeBase, "search_vectors", no)
    monkeypatch.setattr(KnowledgeBase, "last_alike", no)
    for version in versions:
        past.search(kb, version, query_D[None], 9, None, encoder)
    past.held.limit = 4 * SIZE * 4  # of one version's three passages, and one more
    past.held.hold(kb.at(versions[0]), "e")
    kb.upsert([document("a", "four", "stays")], encoder=encoder)
    past.held.hold(kb.at(kb.version), "e")
    assert [layers.version[2] for layers in past.held._held] == [kb.version], "no more than the limit"


def test_a_model_that_never_saw_the_version(kb: KnowledgeBase) -> None:
    kb.add([document("a", "one", "two")])
    version = kb.version
    kb.delete("a")
    encode = Counting()
    encoder = PassageEncoder("new", encode)
    (found,) = PastSearch().search(kb, version, queries(1), 9, None, encoder)
    assert texts(found) == brute_force(kb, version, queries(1)[0], 9) and sorted(encode.asked) == ["one", "two"]
    assert PastSearch().search(kb, kb.version, queries(2), 9, None, encoder) == [[], []]
    assert kb.encoders() == {}, "the past is not written"


NAMES = st.sampled_from(["a1", "a2", "b1"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "embedded"]), NAMES, st.lists(st.sampled_from("xyzvw"), max_size=3)),
        st.tuples(st.sampled_from(["delete", "embed", "compact"]), NAMES, st.just([])),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=8)
@given(STEPS)
def test_any_version_is_searched_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, list[str]]]
) -> None:
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("past") / "kb", split=dots.split)
    encoder, past = PassageEncoder("e", Counting()), PastSearch()
    for what, name, sentences in steps:
        if what in ("put", "embedded"):
            kb.upsert([document(name, *sentences)], encoder=encoder if what == "embedded" else None)
        elif what == "delete":
            if name in kb:
                kb.delete(name)
        elif what == "embed":
            kb.embed_missing(encoder)
        else:
            kb.compact()
    for version in kb.versions():
        (found,) = past.search(kb, version.version, queries(1), 50, "source = 'a'", encoder)
        expected = brute_force(kb, version.version, queries(1)[0], 50, "source = 'a'")
        assert sorted(texts(found)) == sorted(expected)
        assert list(kb.at(version.version).documents()) == list(kb.at(kb.at(version.version).last_alike()).documents())
