"""Which version a time means is remembered, and never told otherwise than it would be from the store."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dots
import pytest

from realm.errors import RealmError, UsageError
from realm.knowledge.base import KnowledgeBase, Version
from realm.knowledge.table.listing import Listing
from realm.knowledge.table.store import Store
from realm.types import Document


class Counting(Listing):
    """A listing that counts how often the store is listed."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def all(self, store: Store) -> list[Version]:
        self.times += 1
        return super().all(store)


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / "kb", split=dots.split)


def edits(kb: KnowledgeBase, count: int) -> None:
    for number in range(count):
        kb.upsert([Document("d", "", f"{kb.version} {number}.")])
        time.sleep(0.002)


def told(kb: KnowledgeBase, moment: datetime) -> object:
    try:
        return kb.version_at(moment)
    except UsageError as error:
        return str(error)[:40]


def test_what_is_remembered_is_what_the_store_says(kb: KnowledgeBase) -> None:
    edits(kb, 4)
    for _ in range(3):
        listed = kb.versions()
        moments = [v.time + timedelta(microseconds=more) for v in listed for more in (-1, 0, 1)]
        moments += [change.time for change in kb.history("d")]
        moments.append(listed[0].time - timedelta(days=1))
        for moment in moments:
            assert told(kb, moment) == told(KnowledgeBase.open(kb.path), moment), moment
        edits(kb, 3)


def test_the_past_is_listed_once(kb: KnowledgeBase) -> None:
    edits(kb, 5)
    counting = kb._store.listing = Counting()
    middle = kb.versions()[2].time
    assert counting.times == 1
    for _ in range(3):
        assert kb.version_at(middle) == kb.at(middle).version
        edits(kb, 1)
    assert counting.times == 1, "what came later does not matter to it"
    now = datetime.now(UTC)
    assert kb.version_at(now) == kb.version and counting.times == 2, "to this it does"
    assert kb.version_at(now) == kb.version and counting.times == 2, "nothing came since"


def test_versions_that_were_cleaned_up_are_not_remembered(kb: KnowledgeBase) -> None:
    edits(kb, 3)
    early = kb.versions()[1].time
    assert kb.version_at(early) >= 2
    edits(kb, 1)
    with pytest.warns(UserWarning, match="except the latest"):
        kb._store.table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    assert kb.versions()[0].version > 2
    edits(kb, 1)
    with pytest.raises(UsageError, match="from the first version on"):
        kb.version_at(early)
    assert kb.version_at(datetime.now(UTC)) == kb.version


def test_another_knowledge_base_in_its_place_is_asked_itself(kb: KnowledgeBase, tmp_path: Path) -> None:
    edits(kb, 3)
    early = kb.versions()[1].time
    kb.version_at(early)
    other = KnowledgeBase.create(tmp_path / "other", split=dots.split)
    edits(other, 3)
    shutil.rmtree(kb.path)
    other.path.rename(kb.path)
    with pytest.raises(RealmError):
        kb.version_at(early)
