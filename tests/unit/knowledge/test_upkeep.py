"""Rows that are replaced by their keys, small files folded, old versions let go."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import dots
import numpy as np
import pytest
from story import realm as command

from realm.errors import KnowledgeBaseError, UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.table import housekeeping, keys
from realm.knowledge.table import schema as sc
from realm.knowledge.table.places import Folder
from realm.types import Document, Passage
from realm.workflows.upkeep import read_period


def encode(passages: Sequence[Passage]) -> np.ndarray:
    return np.array([[float(len(passage.text)), 1.0] for passage in passages])


ENCODER = PassageEncoder("e", encode)


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    base = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    base.add([Document(f"d{n}", "", "one. two. three.") for n in range(4)], encoder=ENCODER)
    return base


def rows(kb: KnowledgeBase) -> list[tuple[str, int, str | None]]:
    found = kb._store.at().search().select([sc.KEY, "number", "text"]).to_arrow().to_pylist()
    return sorted((row[sc.KEY], row["number"], row["text"]) for row in found)


def test_a_row_is_taken_over_by_the_next_with_its_key(kb: KnowledgeBase) -> None:
    kb.update(Document("d0", "", "only one."), encoder=ENCODER)
    assert kb.get("d0") == Document("d0", "", "only one.")
    assert [row for row in rows(kb) if row[0].endswith("#d0")] == [
        ("-1#d0", sc.HEADER, None), ("0#d0", 0, "only one"), ("1#d0", keys.GONE, None), ("2#d0", keys.GONE, None)
    ]  # fmt: skip
    assert kb.num_passages() == 10 and len(list(kb.passages())) == 10 and len(kb) == 4
    kb.delete("d0")
    assert kb.get("d0") is None and kb.num_passages() == 9
    kb.add([Document("d0", "", "a. b. c. d. e.")], encoder=ENCODER)
    assert [p.text for p in kb.passages("document_id = 'd0'")] == ["a", "b", "c", "d", "e"]
    assert len(rows(kb)) == len({row[0] for row in rows(kb)}) == 4 + 14
    kb.delete(["d0", "d1"])
    kb.compact()
    assert len(rows(kb)) == 4 + 6, "what holds nothing is gone, tombstones stay"
    assert [change.change for change in kb.history("d0")] == ["added", "updated", "deleted", "added", "deleted"]


@pytest.mark.parametrize("id_", ["#", "1#d0", "-1#d0", "d0'; drop", "ü\n#"])
def test_no_id_is_taken_for_another(kb: KnowledgeBase, id_: str) -> None:
    for text in ("x. y. z.", "x."):
        kb.upsert([Document(id_, "", text)], encoder=ENCODER)
    kb.delete(id_)
    assert [len(list(kb.passages(f"document_id = 'd{n}'"))) for n in range(4)] == [3] * 4


def test_a_knowledge_base_without_keys_gets_them_at_its_first_edit(kb: KnowledgeBase) -> None:
    with kb._store.writing(1.0) as table:  # as the library before wrote it
        table.drop_columns([sc.KEY])
        table.drop_index("version_idx")
    config = json.loads((kb.path / "kb.json").read_text())
    (kb.path / "kb.json").write_text(json.dumps(config | {"format_version": 1}))
    old = KnowledgeBase.open(kb.path, split=dots.split)
    before = list(old.documents())
    assert len(before) == 4 and old.search_vectors(np.ones(2), 1, encoder="e")
    assert json.loads((kb.path / "kb.json").read_text())["format_version"] == 1, "reading changes nothing"
    old.update(Document("d1", "", "changed."), encoder=ENCODER)
    assert json.loads((kb.path / "kb.json").read_text())["format_version"] == 2
    assert [revision.version for revision in old.history("d1")][-1] == old.version
    assert all(row[0] for row in rows(old))
    assert list(old.documents()) == [before[0], Document("d1", "", "changed."), *before[2:]]
    assert {index.columns[0] for index in old._store.table.list_indices()} >= set(keys.INDEXED)
    (kb.path / "kb.json").write_text(json.dumps(config | {"format_version": 3}))
    with pytest.raises(KnowledgeBaseError, match="versions 1 to 2"):
        KnowledgeBase.open(kb.path)


def test_embedding_leaves_rows_and_their_indexes_where_they_are(kb: KnowledgeBase) -> None:
    kb.compact()
    before = kb.addresses([f"d{n}" for n in range(4)])
    kb.embed_missing(PassageEncoder("other", lambda passages: np.ones((len(passages), 3))))
    assert set(kb.addresses([f"d{n}" for n in range(4)])) == set(before)
    for name in ("text_idx", "document_id_idx", "version_idx", "_key_idx"):
        stats = kb._store.table.index_stats(name)
        assert stats is not None and stats.num_unindexed_rows == (16 if name == "_key_idx" else 0), name
    assert kb.encoders() == {"e": 2, "other": 3}


def test_folding_changes_nothing_that_can_be_read(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "MANY_FRAGMENTS", 5)
    kb.upkeep.leave_to_tidy()
    kb.compact()
    for number in range(12):
        kb.update(Document(f"d{number % 3}", "", f"edited {number}. again."), encoder=ENCODER)
    before = [list(kb.at(version.version).documents()) for version in kb.versions()]
    vectors = kb.stored_vectors("e")
    assert kb._store.table.stats()["fragment_stats"]["num_fragments"] > 5, "left to tidy"
    assert kb.upkeep.tidy() and not kb.upkeep.tidy()
    assert kb._store.table.stats()["fragment_stats"]["num_fragments"] <= 2
    assert [list(kb.at(version.version).documents()) for version in kb.versions()][:-1] == before
    assert list(kb.documents()) == before[-1]
    now = kb.stored_vectors("e")
    assert now.keys() == vectors.keys() and all((now[key] == vectors[key]).all() for key in now)
    assert {m.passage.text for m in kb.search_text("edited", 9)} == {f"edited {n}" for n in (9, 10, 11)}


def test_a_fragment_is_folded_with_those_that_are_as_large(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "SMALL", 1)
    kb.upkeep.leave_to_tidy()
    kb.compact()
    with kb._store.writing(1.0) as table:
        assert not housekeeping.fold(table), "one alone"
    for number in range(3):
        kb.add([Document(f"n{number}", "", "")])
    sizes = kb._store.table.stats()["fragment_stats"]["lengths"]
    with kb._store.writing(1.0) as table:
        assert housekeeping.fold(table)
    after = kb._store.table.stats()["fragment_stats"]
    assert sizes["max"] == after["lengths"]["max"] == 16 and after["num_fragments"] == 2


def test_old_versions_go_only_when_told(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        kb.update(Document("d0", "", f"edition {number}."), encoder=ENCODER)
    first = kb.version
    kb.compact()
    assert [version.version for version in kb.versions()] == list(range(1, kb.version + 1))
    for wrong in ({}, {"keep_versions": 0}, {"older_than": timedelta(days=-1)}):
        with pytest.raises(UsageError, match="expected"):
            kb.upkeep.reclaim(**wrong)  # type: ignore[arg-type]
    assert kb.upkeep.reclaim(keep_versions=1).versions == 0, "these are of the last minutes"
    monkeypatch.setattr(housekeeping, "GRACE", timedelta(0))
    assert kb.upkeep.reclaim(older_than=timedelta(days=1), keep_versions=1).versions == 0, "both must let it go"
    assert kb.upkeep.reclaim(keep_versions=3).versions == 0, "a minute is left for what takes its time"
    monkeypatch.setattr(housekeeping, "_MEANWHILE", timedelta(0))
    gone = kb.upkeep.reclaim(keep_versions=1)
    assert gone.versions > 5 and gone.bytes > 0
    assert kb.version in [version.version for version in kb.versions()] and len(kb.versions()) <= 2
    assert kb.get("d0") == Document("d0", "", "edition 4.") and len(list(kb.passages())) == 10
    assert len(kb.search_vectors(np.ones(2), 99)) == 10
    with pytest.raises(KnowledgeBaseError, match=f"no version {first - 1}"):
        kb.at(first - 1)
    assert kb.history("d0")[-1].revision == 6
    kb.update(Document("d0", "", "and on."), encoder=ENCODER)
    assert kb.get("d0") == Document("d0", "", "and on.")


@pytest.mark.parametrize("left", [3, 0])
def test_compacting_where_no_row_after_the_index_has_a_vector(kb: KnowledgeBase, left: int) -> None:
    kb.index_vectors()
    kb.delete([f"d{n}" for n in range(left, 4)])
    kb.add([Document("new", "", "has none.")])
    kb.compact()
    kb.add([Document("newer", "", "has one.")], encoder=ENCODER)
    kb.compact()
    vector = np.ones(2, np.float32)
    found = [kb.search_vectors(vector, 20, approximate=approximate) for approximate in (True, False)]
    assert [len(mine) for mine in found] == [3 * left + 1] * 2


def test_rows_that_an_embedding_takes_out_of_the_index_are_found_and_come_back(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "UNINDEXED", 0)
    kb.index_vectors()
    (index,) = [one for one in kb._store.table.list_indices() if one.columns[0].startswith(sc.VECTOR)]

    def lacking() -> int:
        stats = kb._store.table.index_stats(index.name)
        assert stats is not None
        return int(stats.num_unindexed_rows)

    assert lacking() == 0
    kb.upkeep.leave_to_tidy()
    kb.compact()
    kb.update(Document("d0", "", "one. new. and newer."))  # without vectors
    kb.embed_missing(ENCODER)
    assert lacking() > 0
    vector = np.ones(2, np.float32)
    found = [kb.search_vectors(vector, 99, approximate=approximate) for approximate in (True, False)]
    assert [m.passage.id for m in found[0]] == [m.passage.id for m in found[1]] and len(found[0]) == 12
    assert kb.upkeep.tidy() and lacking() == 0
    found = [kb.search_vectors(vector, 99, approximate=approximate) for approximate in (True, False)]
    assert {m.passage.id for m in found[0]} == {m.passage.id for m in found[1]} and len(found[0]) == 12


def test_a_past_version_is_refused_before_anything_is_cleared_away(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    monkeypatch.setattr(Folder, "tidy", lambda self, thorough=False: done.append(thorough))
    with pytest.raises(UsageError, match="open it without as_of to write"):
        kb.at(kb.version).compact()
    assert not done
    kb.compact()
    assert done == [True]


def test_the_command_compacts_and_says_what_went(kb: KnowledgeBase) -> None:
    told = command("docs", "compact", "--kb", kb.path)
    assert told.code == 0 and told.out == f"version {kb.version}\n"
    told = command("docs", "compact", "--kb", kb.path, "--keep-versions", "1", "--older-than", "4w", "--json")
    assert json.loads(told.out) == {"version": kb.version, "versions_removed": 0, "bytes_freed": 0}
    for wrong in ("4", "d", "-1d", "1y", ""):
        with pytest.raises(UsageError, match="90d"):
            read_period(wrong)
    assert read_period("90d") == timedelta(days=90) and read_period(" 2w") == timedelta(weeks=2)


def test_what_is_committed_has_not_failed_because_housekeeping_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(table: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(housekeeping, "is_worth_tidying", lambda table: True)
    monkeypatch.setattr(housekeeping, "tidy", full)
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    assert kb.add([Document("a", "Seine", "A river.")]).added == 1
    assert kb.delete("a").deleted == 1
    assert "the disk is full" in caplog.text
    with pytest.raises(KnowledgeBaseError, match="the disk is full"):
        kb.upkeep.tidy()
