"""What is acknowledged is on the disk: the files that a commit leaves were flushed, and the folders that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dots
import pytest

from realm.files import flush
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table import flushing, places
from realm.knowledge.table.flushing import Names, files_of
from realm.types import Document


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Path]]:
    """The places that were flushed to the disk, as the operating system was told them."""
    places: set[Path] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        places.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    yield places


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks descriptors up in /proc")
def test_every_file_of_a_commit_is_flushed_before_it_is_acknowledged(tmp_path: Path, flushed: set[Path]) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    first = [Document("a", "Guernica", "Pablo Picasso painted it."), Document("b", "Seine", "A river.")]
    for work in (
        lambda: kb.add(first),
        lambda: kb.update(Document("a", "Guernica", "It hangs in Madrid.")),
        lambda: kb.delete("b"),
        lambda: kb.compact(),
    ):
        before = files_of(kb.path)
        flushed.clear()
        work()
        after = files_of(kb.path).items()
        lance = ((place, names) for place, names in after if place != kb.path)  # not the lock
        new = {place / name for place, names in lance for name in names - before.get(place, frozenset())}
        assert new, "every work commits"
        assert new <= flushed
        assert {path.parent for path in new} <= flushed


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks descriptors up in /proc")
def test_what_was_committed_before_a_write_failed_is_flushed(tmp_path: Path, flushed: set[Path]) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    before = files_of(kb.path)
    flushed.clear()
    with pytest.raises(KeyError), kb._store.writing(1.0) as table:
        table.add_columns({"later": "cast(null as string)"})
        raise KeyError
    new = files_of(kb.path / "passages.lance" / "_versions")
    assert {place / name for place, names in new.items() for name in names - before[place]} & flushed


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks descriptors up in /proc")
def test_what_a_killed_writer_could_not_flush_the_next_one_does(
    tmp_path: Path, flushed: set[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([Document("a", "Guernica", "Pablo Picasso painted it.")])
    before = files_of(kb.path)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(places, "flush_new", killed)
        kb.add([Document("b", "Seine", "A river.")])
    new = {place / name for place, names in files_of(kb.path).items() for name in names - before.get(place, set())}
    assert new and not new & flushed and "b" in kb, "committed, and not on the disk"
    flushed.clear()
    KnowledgeBase.open(kb.path, split=dots.split).add([Document("c", "Han", "Another.")])
    assert new <= flushed
    flushed.clear()
    kb.add([Document("d", "Danube", "One more.")])
    assert not new & flushed, "once"


def test_files_are_listed_once_a_commit_while_nobody_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    other, listed = KnowledgeBase.open(kb.path, split=dots.split), list[Path]()

    def counted(folder: Path) -> Names:
        listed.append(folder)
        return files_of(folder)

    monkeypatch.setattr(places, "files_of", counted)
    monkeypatch.setattr(flushing, "files_of", counted)
    counts = []
    for number, writer in enumerate((kb, kb, kb, other, other, kb, kb)):
        listed.clear()
        writer.add([Document(f"d{number}", "", "A river.")])
        counts.append(len(listed))
    assert counts == [2, 1, 1, 2, 1, 2, 1]


def test_a_folder_can_be_flushed(tmp_path: Path) -> None:
    flush(tmp_path)
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "absent")
