"""As of a time: which version a moment means, whatever the clock did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import dots
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import AbsentError, KnowledgeBaseError, UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder, Version
from realm.knowledge.table.times import num_within, read_as_of
from realm.types import Document, Passage

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / "kb", split=dots.split)


def test_a_time_finds_the_version_that_was_newest_then(kb: KnowledgeBase) -> None:
    created = kb.versions()[-1].time
    between = []
    for text in ("one.", "two.", "three."):
        kb.upsert([Document("d", "", text)])
        time.sleep(0.01)
        between.append(datetime.now(UTC))
        time.sleep(0.01)
    assert [document.text for at in between for document in kb.at(at).documents()] == ["one.", "two.", "three."]
    assert [kb.at(at.astimezone().replace(tzinfo=None)).version for at in between] == [
        kb.version_at(at) for at in between
    ], "a time without a zone is local"
    korea = timezone(timedelta(hours=9))
    assert kb.version_at(between[0].astimezone(korea)) == kb.version_at(between[0])
    assert KnowledgeBase.open(kb.path, as_of=between[1]).get("d") == Document("d", "", "two.")
    assert len(kb.at(created)) == 0
    with pytest.raises(UsageError, match="as of version"):
        kb.at(between[1]).add([Document("e", "", "x.")])


def test_every_time_that_is_shown_finds_its_version(kb: KnowledgeBase) -> None:
    encoder = PassageEncoder("e", lambda passages: np.ones((len(passages), 2)))
    kb.add([Document("d", "", "one.")], encoder=encoder)  # a commit for the new column, then that of the document
    kb.update(Document("d", "", "two.", metadata={"new": 1}))
    kb.update(Document("d", "", "three."), encoder=encoder)
    kb.delete("d")
    for revision in kb.history("d"):
        assert kb.version_at(revision.time) == revision.version
        assert kb.version_at(revision.time - timedelta(microseconds=1)) < revision.version
    for version in kb.versions():
        assert kb.version_at(version.time) >= version.version


def test_times_outside_are_one_line(kb: KnowledgeBase) -> None:
    kb.add([Document("d", "", "one.")])
    for moment, words in [
        (datetime(1999, 12, 31), "from the first version on"),
        (datetime.now() + timedelta(days=1), "a time that has been"),
        (datetime.max, "found as_of"),
        (datetime.min, "found as_of"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            kb.version_at(moment)
        assert "\n" not in str(caught.value)
    pinned = kb.at(kb.version - 1)
    assert pinned.version_at(datetime.now()) == pinned.version


def test_a_clock_that_was_set_back_shows_nothing_later() -> None:
    hours = (1, 2, 5, 3, 4, 6)  # after the third version the clock went from five to three
    listed = [Version(n, NOON + timedelta(hours=hour)) for n, hour in enumerate(hours, 1)]
    within = [num_within(listed, NOON + timedelta(hours=hour)) for hour in range(8)]
    assert within == [0, 1, 2, 2, 2, 5, 6, 6]


@given(st.lists(st.integers(0, 9)), st.integers(0, 9))
def test_a_later_time_never_gives_an_older_version(hours: list[int], hour: int) -> None:
    listed = [Version(n, NOON + timedelta(hours=h)) for n, h in enumerate(hours, 1)]
    within = num_within(listed, NOON + timedelta(hours=hour))
    assert all(version.time <= NOON + timedelta(hours=hour) for version in listed[:within])
    assert within == len(listed) or listed[within].time > NOON + timedelta(hours=hour)
    assert within <= num_within(listed, NOON + timedelta(hours=hour + 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        (" 12 ", 12),
        ("2024", 2024),
        ("2024-05-01", datetime(2024, 5, 1)),
        ("2024-05", datetime(2024, 5, 1)),
        ("2024-05-01T09:30", datetime(2024, 5, 1, 9, 30)),
        ("2024-05-01 12:00:00Z", NOON),
        ("2024-05-01T21:00+09:00", NOON),
    ],
)
def test_versions_and_times_are_told_apart(text: str, expected: int | datetime) -> None:
    assert read_as_of(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "-3", "7.5", "2024-13-01", "2024-05-01T25:00", "9" * 30, "1\n2"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a version as 7, or a time"):
        read_as_of(text)


# ---------------------------------------------------------------- taking a document back


class Counting:
    """An encoder that remembers what it was asked for: (length of the text, 1)."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, passages: Sequence[Passage]) -> np.ndarray:
        self.asked += [passage.text for passage in passages]
        return np.array([[len(passage.text), 1.0] for passage in passages])


FIRST = Document("d", "First", "one. two.", source="atlas", date=date(2024, 5, 1), metadata={"size": 1})
SECOND = Document("d", "Second", "three.", metadata={"other": "x"})


def test_restoring_is_an_edit_like_any_other(kb: KnowledgeBase) -> None:
    kb.add([FIRST])
    first = kb.version
    kb.update(SECOND)
    second, later = kb.version, datetime.now(UTC)
    counts = kb.restore("d", first)
    assert (counts.updated, counts.version, kb.get("d")) == (1, second + 1, FIRST)
    counts = kb.restore("d", later)
    assert (counts.updated, counts.version, kb.get("d")) == (1, second + 2, SECOND)
    assert [revision.change for revision in kb.history("d")] == ["added", "updated", "updated", "updated"]
    counts = kb.restore("d", second)
    assert (counts.unchanged, counts.version) == (1, kb.version) == (1, second + 2), "nothing differs"
    assert [kb.at(revision.version).get("d") for revision in kb.history("d")] == [FIRST, SECOND, FIRST, SECOND]


def test_a_deleted_document_comes_back(kb: KnowledgeBase) -> None:
    kb.add([FIRST])
    first = kb.version
    kb.delete("d")
    deleted = kb.version
    assert kb.restore("d", first).added == 1
    assert kb.get("d") == FIRST and [r.change for r in kb.history("d")] == ["added", "deleted", "added"]
    before = kb.version
    for name, version in [("d", deleted), ("d", first - 1), ("nobody", first)]:
        with pytest.raises(AbsentError, match=f"no document '{name}' in version {version}"):
            kb.restore(name, version)
    with pytest.raises(KnowledgeBaseError, match="no version 99"):
        kb.restore("d", 99)
    with pytest.raises(UsageError, match="as of version"):
        kb.at(first).restore("d", first)
    assert kb.version == before


def test_vectors_come_back_with_the_text(kb: KnowledgeBase) -> None:
    encode, other = Counting(), Counting()
    encoder = PassageEncoder("e", encode)
    kb.add([FIRST])
    first = kb.version
    kb.embed_missing(encoder)  # commits later than the text
    kb.embed_missing(PassageEncoder("f", other))
    kb.update(SECOND, encoder=encoder)
    encode.asked.clear()
    other.asked.clear()
    kb.restore("d", first, encoder=encoder)
    assert encode.asked == [] and kb.waiting("e").passages == 0 and kb.waiting("f").passages == 0
    assert {key: vector[0] for key, vector in kb.stored_vectors("e").items()} == {
        passage.text_hash: len(passage.text) for passage in kb.passages()
    }
    kb.add([Document("x", "", "bare.")])
    bare = kb.version
    kb.update(Document("x", "", "other."), encoder=encoder)
    kb.restore("x", bare, encoder=encoder)
    assert encode.asked == ["other", "bare"] and kb.waiting("e").passages == 0
