"""Constraints within the search: relative dates, lists of documents, and an approximate index under both."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import dots
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.table import predicates as pr
from realm.knowledge.table.filters import Filter, at_moment, narrowing
from realm.types import Document, Passage

COLUMNS = {"date": "date32[day]", "updated_at": "timestamp[us, tz=UTC]", "title": "string", "size": "double"}
NOW = datetime(2026, 3, 31, 23, 30, tzinfo=timezone(timedelta(hours=9)))


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("now()", date(2026, 3, 31)),
        ("NOW( ) - INTERVAL '2 years'", date(2024, 3, 31)),
        ("now() - interval '1 month'", date(2026, 2, 28)),
        ("now() + interval '11 months'", date(2027, 2, 28)),
        ("now() - interval '1 year 1 month'", date(2025, 2, 28)),
        ("now() - interval '90 days'", date(2025, 12, 31)),
        ("now() - interval '3 weeks' + interval '1 day'", date(2026, 3, 11)),
        ("now() + interval '30 minutes'", date(2026, 4, 1)),
        ("now()-interval'36 Hours'", date(2026, 3, 30)),
    ],
)
def test_a_day_counted_from_now(text: str, day: date) -> None:
    assert pr.parse(f"date >= {text}", COLUMNS, NOW) == pr.Comparison("date", ">=", day)


def test_a_time_counted_from_now() -> None:
    found = pr.parse("updated_at between now() - interval '2 hours' and now()", COLUMNS, NOW)
    assert found == pr.Between("updated_at", NOW - timedelta(hours=2), NOW)
    assert "2026-03-31T12:30:00.000000Z" in pr.to_sql(found)
    leap = pr.parse("date in (now() - interval '2 years')", COLUMNS, datetime(2028, 2, 29, tzinfo=UTC))
    assert leap == pr.In("date", (date(2026, 2, 28),))


@pytest.mark.parametrize(
    "where",
    [
        "date >= now",
        "date >= now(1)",
        "date >= now() - '2 years'",
        "date >= now() - interval 2",
        "date >= now() - interval '2'",
        "date >= now() - interval 'two years'",
        "date >= now() - interval '2 fortnights'",
        "date >= now() - interval '-2 years'",
        "date >= now() - interval '2 years",
        "date >= now() - interval '9999 years'",
        "date >= now() - interval '999999 months 999999 weeks'",
        "date >= now() + interval '9000 years'",
        "date >= now() * 2",
        "date >= interval '2 years'",
        "now() >= date",
        "title = now()",
        "size > now()",
        "date >= - now()",
    ],
)
def test_what_is_no_time(where: str) -> None:
    with pytest.raises(pr.PredicateError) as told:
        pr.parse(where, COLUMNS, NOW)
    assert "\n" not in str(told.value)


def test_whether_a_predicate_hangs_on_the_time() -> None:
    asked: list[int] = []

    def moment() -> datetime:
        asked.append(1)
        return NOW

    assert at_moment("title = 'now()' or date > date '2024-01-01'", moment) == (
        "title = 'now()' or date > date '2024-01-01'"
    )
    assert not asked and at_moment(None, moment) is None and at_moment("'", moment) == "'"
    assert at_moment("date > Now()", moment) == Filter("date > Now()", now=NOW) and asked


# ---------------------------------------------------------------- lists


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("filters") / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(
        Document(f"d'{n}", "", f"a {n}. b {n}.", source=None if n % 4 == 0 else f"s{n % 4}", date=date(2020 + n, 2, 1))
        for n in range(8)
    )
    return kb


IDS = st.lists(st.sampled_from([*(f"d'{n}" for n in range(8)), "nobody", "') or true --"]), max_size=9).map(tuple)


@settings(max_examples=40, deadline=None)
@given(
    allow=st.none() | IDS, deny=IDS, sources=st.lists(st.sampled_from(["s1", "s2", "'"])).map(tuple), old=st.booleans()
)
def test_lists_leave_in_what_they_say(
    kb: KnowledgeBase, allow: tuple[str, ...] | None, deny: tuple[str, ...], sources: tuple[str, ...], old: bool
) -> None:
    where = "date < now() - interval '2 years'" if old else None
    now = datetime(2026, 2, 1, tzinfo=UTC)
    asked = Filter(where, allow, deny, deny_sources=sources, now=now)
    expected = [
        document.id
        for document in kb.documents()
        if (allow is None or document.id in allow)
        and document.id not in deny
        and document.source not in sources
        and (not old or (document.date is not None and document.date < date(2024, 2, 1)))
    ]
    assert [document.id for document in kb.documents(asked)] == expected
    assert kb.num_passages(asked) == 2 * len(expected)
    assert (narrowing(asked) is None) == (allow is None and not deny and not sources and not old)


def test_what_now_is(kb: KnowledgeBase) -> None:
    before = datetime.now().astimezone()
    assert before <= kb.moment() <= datetime.now().astimezone()
    assert kb.moment(datetime(2024, 5, 1)) == datetime(2024, 5, 1).astimezone()
    newest = kb.versions()[-1]
    assert kb.moment(newest.version) == newest.time
    with pytest.raises(Exception, match="no version 999999"):
        kb.moment(999_999)
    assert kb.num_passages("updated_at > now() - interval '1 day'") == 16
    assert kb.num_passages("updated_at > now()") == 0


# ---------------------------------------------------------------- the approximate index

ROWS, SIZE = 20_000, 16


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """Without any structure, which is the worst for an inverted file."""
    return np.random.default_rng(seed).standard_normal((count, SIZE), dtype=np.float32)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("near") / "kb", split=dots.split, splitter=dots.SETTINGS)
    pick_N, vector_ND = np.random.default_rng(1).permutation(ROWS) / ROWS, vectors(ROWS)
    encoder = PassageEncoder("e", lambda passages: vector_ND[[int(passage.document_id) for passage in passages]])
    kb.add((Document(str(n), "", f"t {n}", metadata={"pick": float(pick_N[n])}) for n in range(ROWS)), encoder=encoder)
    with pytest.raises(UsageError, match="docs index"):
        kb.search_vectors(vector_ND[0], 1, encoder="e", approximate=True)
    facts = kb.index_vectors("e")
    assert facts["rows"] == ROWS and facts["recall"] >= 0.98 and facts["probed"] < facts["lists"]
    return kb


def found(kb: KnowledgeBase, query: np.ndarray, where: str | None, approximate: bool, k: int = 10) -> list[int]:
    return [int(match.passage.document_id) for match in kb.search_vectors(query, k, where, "e", approximate)]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01, 0.0001])
def test_exact_is_brute_force_and_the_index_near_it(many: KnowledgeBase, share: float) -> None:
    where, left = (None if share == 1 else f"pick < {share}"), round(share * ROWS)
    allowed = np.array([int(document.id) for document in many.documents(where)])
    assert len(allowed) == left
    recalls = []
    for query in vectors(20, seed=2):
        best = allowed[np.argsort(-(vectors(ROWS)[allowed] @ query))[:10]].tolist()
        assert found(many, query, where, approximate=False) == best
        near = found(many, query, where, approximate=True)
        assert len(near) == len(best) and set(near) <= set(allowed.tolist())
        recalls.append(len(set(near) & set(best)) / len(best))
    assert np.mean(recalls) >= 0.95


def test_the_index_follows_edits(tmp_path: Path) -> None:
    vector_ND = vectors(2000)

    def encode(passages: Sequence[Passage]) -> np.ndarray:
        return np.stack([vector_ND[int(passage.text.split()[-1])] for passage in passages])

    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    encoder = PassageEncoder("e", encode)
    kb.add((Document(str(n), "", f"t {n}") for n in range(1000)), encoder=encoder)
    kb.index_vectors()
    query = vectors(1, seed=3)[0]
    best = int(np.argmax(vector_ND[:1000] @ query))
    assert found(kb, query, None, True, k=1) == [best]
    kb.delete(str(best))
    assert best not in found(kb, query, None, True, k=50)
    newest = int(np.argmax(vector_ND[1000:] @ query)) + 1000
    kb.add([Document("9999", "", f"t {newest}")], encoder=encoder)
    other = "9999" if vector_ND[newest] @ query > np.sort(vector_ND[:1000] @ query)[-2] else None
    assert other is None or found(kb, query, None, True, k=1) == [9999]
    assert 9999 in found(kb, query, "document_id = '9999'", True)
    kb.compact()
    assert 9999 in found(kb, query, "document_id = '9999'", True) and best not in found(kb, query, None, True, k=50)
    assert len(found(kb, query, None, True, k=1500)) == 1000, "as many as there are, not as many as were probed"
