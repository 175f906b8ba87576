"""What is chosen is what brute force over all passages chooses, whatever the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.answering.choosing import choose
from realm.answering.constraints import Constraints, constraints_of
from realm.answering.held import HeldVectors, How, search_version
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.recency import Recency
from realm.types import Document, Passage

SIZE = 5
TODAY = date(2026, 11, 23)


def encode(passages: Sequence[Passage]) -> np.ndarray:
    seeds = [int(passage.text_hash, 16) % 2**32 for passage in passages]
    return np.stack([np.random.default_rng(seed).standard_normal(SIZE) for seed in seeds])


ENCODER = PassageEncoder("e", encode)


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    """Documents of 1 to 7 passages; one source has most of them, some have none; some have no date."""
    base = KnowledgeBase.create(tmp_path_factory.mktemp("choosing") / "kb", split=dots.split, splitter=dots.SETTINGS)
    documents = [
        Document(
            f"d{n}",
            f"title {n}",
            "".join(f"sentence {n} {m}. " for m in range(1 + n % 7)),
            source=None if n % 11 == 0 else f"s{n % 10 if n % 3 == 0 else 0}",
            date=None if n % 5 == 0 else TODAY - timedelta(days=(37 * n) % 900 - 30),
        )
        for n in range(60)
    ]
    base.add(documents, encoder=ENCODER)
    return base.at(base.version)


def asked(kb: KnowledgeBase, query_BD: torch.Tensor, k: int, where: str | None, constraints: Constraints) -> list[Any]:
    recency = constraints.recency(constraints.now)
    held = HeldVectors()
    return choose(
        lambda numbers, k, among: search_version(kb, held, query_BD[list(numbers)], k, among, "e", How(recency)),
        query_BD,
        k,
        constraints.filter(where, constraints.now),
        constraints,
        lambda matches: kb.vectors_of(matches, "e"),
    )


def brute_force(
    kb: KnowledgeBase, query_D: np.ndarray, k: int, where: str | None, asked: Constraints
) -> list[tuple[str, float]]:
    """Sort all passages, pass over what may not be, and (MMR) pick one after the other."""
    documents = {document.id: document for document in kb.documents(where)}
    passages = [passage for passage in kb.passages() if passage.document_id in documents]
    if asked.allow is not None:
        passages = [passage for passage in passages if passage.document_id in asked.allow]
    passages = [passage for passage in passages if passage.document_id not in asked.deny]
    score: dict[str, float] = {}
    vector: dict[str, np.ndarray] = {}
    for passage, value_D in zip(passages, encode(passages) if passages else [], strict=True):
        vector[passage.id] = value_D.astype(np.float32)
        score[passage.id] = float(vector[passage.id] @ query_D)
        day = documents[passage.document_id].date
        if asked.half_life_days is not None and day is not None:
            score[passage.id] += float(np.log(0.5 ** (max(0, (TODAY - day).days) / asked.half_life_days)))
    pool = len(passages) if asked.mmr is None else max(50, 5 * k)
    kept: list[Passage] = []
    documents_of, sources_of = Counter[str](), Counter[str | None]()
    for passage in sorted(passages, key=lambda passage: -score[passage.id]):
        source = documents[passage.document_id].source
        if asked.max_per_document is not None and documents_of[passage.document_id] >= asked.max_per_document:
            continue
        if asked.max_per_source is not None and source is not None and sources_of[source] >= asked.max_per_source:
            continue
        documents_of[passage.document_id] += 1
        sources_of[source] += 1
        kept.append(passage)
    kept = kept[:pool]
    if asked.mmr is not None and kept:
        longest = max(float(np.linalg.norm(vector[passage.id])) for passage in kept)
        chosen: list[Passage] = []
        while kept and len(chosen) < k:
            gains = []
            for passage in kept:
                alike = max((vector[passage.id] @ vector[other.id] / longest**2 for other in chosen), default=0.0)
                relevance = score[passage.id] / (longest * float(np.linalg.norm(query_D)))
                gains.append(asked.mmr * relevance - (1 - asked.mmr) * alike)
            chosen.append(kept.pop(int(np.argmax(gains))))
        kept = chosen
    return [(passage.id, score[passage.id]) for passage in kept[:k]]


LIMITS = st.none() | st.integers(1, 3)
IDS = st.lists(st.integers(0, 70).map(lambda n: f"d{n}"), max_size=40)
CONSTRAINTS = st.builds(
    constraints_of,
    allow=st.none() | st.none() | IDS,
    deny=st.just([]) | IDS,
    max_per_document=LIMITS,
    max_per_source=LIMITS,
    mmr=st.none() | st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    half_life_days=st.none() | st.sampled_from([1.0, 90.0, 1e6]),
)
WHERE = st.sampled_from([None, None, "source = 's0'", "date is null", "date < date '2026-01-01'", "title = 'nobody'"])


@settings(max_examples=40, deadline=None)
@given(constraints=CONSTRAINTS, where=WHERE, k=st.integers(1, 25), seed=st.integers(0, 5))
def test_as_brute_force(
    kb: KnowledgeBase, constraints: Constraints | None, where: str | None, k: int, seed: int
) -> None:
    moment = kb.moment().replace(year=TODAY.year, month=TODAY.month, day=TODAY.day)
    constraints = replaced(constraints or Constraints(), now=moment)
    query_BD = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(seed))
    for query_D, found in zip(query_BD.numpy(), asked(kb, query_BD, k, where, constraints), strict=True):
        expected = brute_force(kb, query_D, k, where, constraints)
        assert [match.passage.id for match in found] == [name for name, _ in expected]
        assert np.allclose([match.logit for match in found], [value for _, value in expected], atol=1e-4)


def replaced(constraints: Constraints, **given: Any) -> Constraints:
    from dataclasses import replace

    return replace(constraints, **given)


def test_as_many_as_there_are_however_deep_they_lie(tmp_path: Path) -> None:
    """A thousand passages of one document stand before the others."""
    near, far = np.full(SIZE, 2.0), np.full(SIZE, 1.0)
    encoder = PassageEncoder(
        "e",
        lambda passages: np.stack([near if p.document_id == "long" else far * (1 - p.start / 1e3) for p in passages]),
    )
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    long = Document("long", "long", "".join(f"{n}. " for n in range(1000)), source="one")
    kb.add([long, *(Document(f"d{n}", "", f"a {n}. b {n}.", source="one" if n < 3 else "two") for n in range(6))],
           encoder=encoder)  # fmt: skip
    query = torch.ones(1, SIZE)

    def documents(k: int, **constraints: Any) -> list[str]:
        (found,) = asked(kb, query, k, None, Constraints(**constraints))
        return [match.passage.document_id for match in found]

    assert documents(5) == ["long"] * 5
    assert documents(7, max_per_document=1)[0] == "long"
    assert sorted(documents(7, max_per_document=1)) == sorted(["long", *(f"d{n}" for n in range(6))])
    assert len(documents(9, max_per_document=1)) == 7, "there are no more documents"
    assert [name == "long" for name in documents(4, max_per_source=2)] == [True, True, False, False]
    assert Counter(documents(20, max_per_document=2)) == Counter({name: 2 for name in documents(7, max_per_document=1)})


def test_maximal_marginal_relevance_leaves_out_what_repeats(tmp_path: Path) -> None:
    vectors = {"a": [1.0, 0.0], "a again": [0.99, 0.05], "b": [0.6, 0.75]}
    encoder = PassageEncoder("e", lambda passages: np.array([vectors[p.text] for p in passages]))
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([Document(text, "", text) for text in vectors], encoder=encoder)
    query = torch.tensor([[1.0, 0.1]])

    def found(mmr: float | None) -> list[str]:
        return [match.passage.text for match in asked(kb, query, 2, None, Constraints(mmr=mmr))[0]]

    assert found(None) == found(1.0) == ["a", "a again"]
    assert found(0.5) == ["a", "b"]


def test_the_prior_halves_with_the_half_life_and_leaves_the_undated_alone() -> None:
    recency = Recency(TODAY, 30.0)
    days = [TODAY, TODAY - timedelta(days=30), TODAY - timedelta(days=90), TODAY + timedelta(days=9), None]
    factors = np.exp([recency.log_prior(day) for day in days])
    assert np.allclose(factors, [1, 1 / 2, 1 / 8, 1, 1])
    import pyarrow as pa

    assert np.allclose(np.exp(recency.log_priors(pa.array(days, pa.date32()))), factors)


def test_what_a_match_tells_of_its_prior(kb: KnowledgeBase) -> None:
    query, now = torch.ones(1, SIZE), kb.moment().replace(year=TODAY.year, month=TODAY.month, day=TODAY.day)
    plain = {match.passage.id: match for match in asked(kb, query, 999, None, Constraints())[0]}
    aged: list[Match] = asked(kb, query, 999, None, Constraints(half_life_days=100, now=now))[0]
    assert all(match.recency is None and match.logit == match.score for match in plain.values())
    for match in aged:
        assert match.score == pytest.approx(plain[match.passage.id].score, abs=1e-5)
        age = 0 if match.date is None else max(0, (TODAY - match.date).days)
        assert match.recency == pytest.approx(-np.log(2) * age / 100)
    assert [match.logit for match in aged] == sorted((match.logit for match in aged), reverse=True)


@pytest.mark.parametrize(
    "given",
    [
        {"max_per_document": 0},
        {"max_per_source": -1},
        {"mmr": 1.5},
        {"mmr": float("nan")},
        {"half_life_days": 0.5},
        {"half_life_days": float("inf")},
        {"half_life_days": float("nan")},
        {"allow": "d1"},
        {"deny": ["\ud800"]},
        {"deny": [str(n) for n in range(10_001)]},
    ],
)
def test_what_can_not_be_asked(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="found"):
        Constraints(**given)


def test_nothing_given_is_no_constraint_and_an_empty_list_allows_nothing(kb: KnowledgeBase) -> None:
    assert constraints_of(allow=None, deny=(), mmr=None, approximate=False) is None
    nothing = constraints_of(allow=[])
    assert nothing is not None and asked(kb, torch.ones(1, SIZE), 5, None, nothing) == [[]]
    assert constraints_of(mmr=0.0) == Constraints(mmr=0.0)
