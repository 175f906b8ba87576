"""A folder and a knowledge base in step: what vanished goes, what came from elsewhere and what a hand did stays."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import DataError, PresentError, UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.formats.sources import SourceReport, read_documents
from realm.knowledge.syncing import FOLDER, Synced, sync
from realm.knowledge.table import writing
from realm.types import Document


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "docs", {"a.txt": "one. two.", "sub/b.txt": "three.", "c.txt": "four."})
    return tmp_path / "docs"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def lines(*records: dict[str, Any] | str) -> str:
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def texts(kb: KnowledgeBase) -> dict[str, str]:
    return {document.id: document.text for document in kb.documents()}


def counts(done: Synced) -> tuple[int, int, int, int]:
    return done.added, done.updated, done.deleted, done.unchanged


# ---------------------------------------------------------------- in step


def test_only_what_changed_is_read_and_written(kb: KnowledgeBase, folder: Path) -> None:
    done = sync(kb, folder)
    assert (counts(done), done.files, done.files_read) == ((3, 0, 0, 0), 3, 3)
    assert texts(kb) == {"a.txt": "one. two.", "c.txt": "four.", "sub/b.txt": "three."}
    version = kb.version
    done = sync(kb, folder)
    assert (counts(done), done.files_read, done.version) == ((0, 0, 0, 3), 0, version) and kb.version == version
    write(folder, {"a.txt": "one. five.", "d.txt": "six."})
    (folder / "c.txt").unlink()
    (folder / "sub/b.txt").touch()  # the same bytes
    done = sync(kb, folder)
    assert (counts(done), done.files_read, done.files) == ((1, 1, 1, 1), 2, 3)
    assert texts(kb) == {"a.txt": "one. five.", "d.txt": "six.", "sub/b.txt": "three."}
    assert [revision.change for revision in kb.history("c.txt")] == ["added", "deleted"]
    write(folder, {"c.txt": "four."})
    assert counts(sync(kb, folder)) == (1, 0, 0, 3), "a file that comes back is there again"
    assert kb.columns().keys() == KnowledgeBase.create(folder.parent / "other").columns().keys()
    assert kb.get("c.txt") == Document("c.txt", "c", "four.")


def test_one_commit_a_batch(kb: KnowledgeBase, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(kb, folder)
    monkeypatch.setattr(writing, "BATCH_DOCUMENTS", 2)
    write(folder, {f"{name}.txt": f"{name}." for name in "aceg"})
    before, shown = kb.version, list[int]()
    assert counts(sync(kb, folder, progress=lambda done, total: shown.append(done))) == (2, 2, 0, 1)
    assert kb.version == before + 2 and shown == [3, 5]


def test_other_options_read_all_again(kb: KnowledgeBase, folder: Path) -> None:
    sync(kb, folder)
    done = sync(kb, folder, defaults={"source": "handbook"})
    assert (counts(done), done.files_read) == ((0, 3, 0, 0), 3)
    assert {document.source for document in kb.documents()} == {"handbook"}
    assert sync(kb, folder, defaults={"source": "handbook"}).files_read == 0


def test_the_record_only_saves_work(kb: KnowledgeBase, folder: Path) -> None:
    sync(kb, folder)
    version = kb.version
    (record,) = (kb.path / FOLDER).iterdir()
    for damage in ("", "[]", '{"format": "realm sync record"}', "{", None):
        record.unlink() if damage is None else record.write_text(damage)
        done = sync(kb, folder)
        assert (counts(done), done.files_read, kb.version) == ((0, 0, 0, 3), 3, version)
    older = record.read_text()
    write(folder, {"a.txt": "new."})
    sync(kb, folder)
    write(folder, {"a.txt": "one. two."})
    record.write_text(older)  # it names the very bytes that are there, but not what the table holds
    assert counts(sync(kb, folder)) == (0, 1, 0, 2) and texts(kb)["a.txt"] == "one. two."


def test_vectors_come_with_the_text(kb: KnowledgeBase, folder: Path) -> None:
    encoder = PassageEncoder("e", lambda passages: np.ones((len(passages), 2)))
    sync(kb, folder, encoder=encoder)
    write(folder, {"a.txt": "one. other."})
    sync(kb, folder, encoder=encoder)
    assert kb.waiting("e").passages == 0 and len(kb.search_vectors(np.ones(2), k=9)) == 4


def test_a_single_file(kb: KnowledgeBase, tmp_path: Path) -> None:
    file = tmp_path / "news.jsonl"
    file.write_text(lines({"id": 1, "text": "one."}, {"id": 2, "text": "two."}))
    assert counts(sync(kb, file)) == (2, 0, 0, 0)
    file.write_text(lines({"id": 2, "text": "two."}, {"id": 3, "text": "three."}))
    assert counts(sync(kb, file)) == (1, 0, 1, 1) and texts(kb) == {"2": "two.", "3": "three."}
    file.unlink()
    with pytest.raises(DataError, match="2 documents came from"):
        sync(kb, file)


# ---------------------------------------------------------------- what is not the source's


def test_documents_from_elsewhere_are_never_touched(kb: KnowledgeBase, folder: Path) -> None:
    mine = Document("mine", "", "by hand.")
    kb.add([mine])
    sync(kb, folder)
    shutil.rmtree(folder / "sub")
    (folder / "a.txt").unlink()
    assert counts(sync(kb, folder)) == (0, 0, 2, 1) and kb.get("mine") == mine
    assert len(kb.history("mine")) == 1
    write(folder, {"mine": "no reader.", "x.jsonl": lines({"id": "mine", "text": "theirs."})})
    with pytest.raises(PresentError, match=r"'mine' of .*docs is there already and comes from elsewhere") as caught:
        sync(kb, folder)
    assert "\n" not in str(caught.value) and kb.get("mine") == mine


def test_what_was_ingested_before_is_taken_over(kb: KnowledgeBase, folder: Path) -> None:
    kb.upsert(read_documents(folder))
    write(folder, {"a.txt": "changed."})
    with pytest.raises(PresentError, match="ingested once more without --sync"):
        sync(kb, folder)
    kb.upsert(read_documents(folder))
    history = kb.history("c.txt")
    assert counts(sync(kb, folder)) == (0, 0, 0, 3)
    assert kb.history("c.txt") == history, "nothing of it has changed"
    (folder / "c.txt").unlink()
    assert counts(sync(kb, folder)) == (0, 0, 1, 2) and set(texts(kb)) == {"a.txt", "sub/b.txt"}


def test_two_sources_leave_each_other_alone(kb: KnowledgeBase, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, {"x.txt": "one.", "y.txt": "two."})
    sync(kb, folder)
    sync(kb, other)
    (other / "x.txt").unlink()
    assert counts(sync(kb, other)) == (0, 0, 1, 1) and len(kb) == 4
    assert counts(sync(kb, folder)) == (0, 0, 0, 3)
    write(other, {"a.txt": "one. two."})  # equal, and yet another's
    with pytest.raises(PresentError, match=r"'a.txt' of .*other is there already and comes from .*docs") as caught:
        sync(kb, other)
    assert "\n" not in str(caught.value) and len(kb) == 4


def test_what_a_hand_did_stays_until_the_source_says_something_else(kb: KnowledgeBase, folder: Path) -> None:
    sync(kb, folder)
    edited = replace(kb.get("a.txt") or Document("", "", ""), text="by hand.")
    kb.update(edited)
    kb.delete("c.txt")
    for _ in range(2):
        done = sync(kb, folder)
        assert (counts(done), done.edited, kb.get("a.txt"), kb.get("c.txt")) == ((0, 0, 0, 2), 2, edited, None)
        (record,) = (kb.path / FOLDER).iterdir()
        record.unlink()
    done = sync(kb, folder)
    assert (done.files_read, done.edited, kb.get("a.txt"), kb.get("c.txt")) == (3, 2, edited, None)
    write(folder, {"a.txt": "one. two. three.", "c.txt": "five."})
    done = sync(kb, folder)
    assert (done.added, done.updated, done.edited) == (1, 1, 0)
    assert texts(kb) == {"a.txt": "one. two. three.", "c.txt": "five.", "sub/b.txt": "three."}
    kb.restore("c.txt", kb.history("c.txt")[0].version)
    assert sync(kb, folder).edited == 1 and texts(kb)["c.txt"] == "four.", "it still comes from the folder"
    (folder / "c.txt").unlink()
    assert sync(kb, folder).deleted == 1


# ---------------------------------------------------------------- sources that are not what they were


@pytest.mark.parametrize("what", ["unmounted", "empty", "other files"])
def test_an_empty_source_deletes_nothing_unless_told(kb: KnowledgeBase, folder: Path, what: str) -> None:
    with pytest.raises(DataError):
        sync(kb, folder / "nowhere", allow_empty=True)
    sync(kb, folder)
    version = kb.version
    shutil.rmtree(folder)
    if what != "unmounted":
        folder.mkdir()
    if what == "other files":
        write(folder, {"picture.png": "", ".hidden.txt": "x."})
    with pytest.raises(DataError, match="3 documents came from: is its disk mounted") as caught:
        sync(kb, folder)
    assert "\n" not in str(caught.value) and kb.version == version
    assert counts(sync(kb, folder, allow_empty=True)) == (0, 0, 3, 0) and len(kb) == 0


def test_a_source_none_of_whose_files_is_left_deletes_nothing_unless_told(kb: KnowledgeBase, folder: Path) -> None:
    sync(kb, folder)
    shutil.rmtree(folder)
    write(folder, {"new.txt": "nine."})
    with pytest.raises(DataError, match="none of the files that 3 documents came from"):
        sync(kb, folder)
    assert counts(sync(kb, folder, allow_empty=True))[:3] == (1, 0, 3)


def test_a_malformed_file_keeps_what_it_gave(kb: KnowledgeBase, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    one, two, three = ({"id": str(n), "text": f"text {n}."} for n in (1, 2, 3))
    write(folder, {"a.jsonl": lines(one, two), "b.txt": "fine.", "c.txt": "fine, too."})
    sync(kb, folder)
    write(folder, {"a.jsonl": lines({**one, "text": "new."}, '{"id": "2", "te', three), "b.txt": ""})
    for _ in range(2):
        report = SourceReport()
        done = sync(kb, folder, report=report)
        assert texts(kb) == {"1": "new.", "2": "text 2.", "3": "text 3.", "b.txt": "fine.", "c.txt": "fine, too."}
        assert (done.deleted, done.files_read, report.num_skipped) == (0, 2, 2), "it is told each time"
        assert any("a.jsonl:2" in str(problem) for problem in report.problems)
    write(folder, {"a.jsonl": "", "b.txt": "mended."})
    report = SourceReport()
    assert sync(kb, folder, report=report).deleted == 0 and "1" in kb
    assert "no document any more" in str(report.problems[0])
    write(folder, {"a.jsonl": lines(three)})
    assert counts(sync(kb, folder)) == (0, 0, 2, 3)
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        write(folder, {"a.jsonl": "{"})
        sync(kb, folder, on_error="refuse")
    assert "3" in kb


def test_front_matter_that_breaks_loses_no_document(kb: KnowledgeBase, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    write(folder, {"a.md": "---\nid: x\n---\none."})
    sync(kb, folder)
    write(folder, {"a.md": "---\nid: x\nbroken\n---\none."})
    report = SourceReport()
    assert sync(kb, folder, report=report).deleted == 0 and "x" in kb
    assert [problem.kind for problem in report.problems] == ["front matter"]
    write(folder, {"a.md": "---\nid: x\n---\ntwo."})
    sync(kb, folder)
    assert texts(kb) == {"x": "two."}


def test_metadata_that_does_not_fit_is_a_malformed_record(kb: KnowledgeBase, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    records = [{"id": str(n), "text": f"text {n}.", "size": n} for n in range(4)]
    write(folder, {"a.jsonl": lines(*records)})
    sync(kb, folder)
    write(folder, {"a.jsonl": lines(*records[:2], {**records[2], "text": "new.", "size": "large"})})
    for _ in range(2):
        report = SourceReport()
        done = sync(kb, folder, report=report)
        assert (counts(done), done.files_read, report.num_skipped) == ((0, 0, 0, 4), 1, 1)
        assert "a.jsonl:3: found metadata 'size'" in str(report.problems[0])
    with pytest.raises(DataError, match="'size'"):
        sync(kb, folder, on_error="refuse")
    write(folder, {"a.jsonl": lines(*records[:2], {**records[2], "text": "new."})})
    assert counts(sync(kb, folder)) == (0, 1, 1, 2) and texts(kb)["2"] == "new."


def test_an_id_in_two_files_counts_once(kb: KnowledgeBase, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    same = {"id": "x", "text": "first."}
    write(folder, {"a.jsonl": lines(same), "b.jsonl": lines({**same, "text": "second."}, {"id": "y", "text": "y."})})
    for _ in range(2):
        report = SourceReport()
        sync(kb, folder, report=report)
        assert texts(kb) == {"x": "first.", "y": "y."} and [p.kind for p in report.problems] == ["duplicate"]
    write(folder, {"a.jsonl": lines({"id": "z", "text": "z."})})
    report = SourceReport()
    done = sync(kb, folder, report=report)
    assert texts(kb) == {"x": "second.", "y": "y.", "z": "z."} and not report.problems
    assert (done.added, done.updated, done.deleted) == (1, 1, 0)
    (folder / "b.jsonl").rename(folder / "renamed.jsonl")
    version = kb.version
    assert counts(sync(kb, folder)) == (0, 0, 0, 3)
    assert len(kb.history("x")) == 2 and kb.content_version <= version, "a file that is renamed is no edit"
    assert sync(kb, folder).files_read == 0
    write(folder, {"a.jsonl": lines({"id": "y", "text": "other."})})  # before the file that has it and did not change
    report = SourceReport()
    sync(kb, folder, report=report)
    assert texts(kb) == {"x": "second.", "y": "y."} and "as in renamed.jsonl" in str(report.problems[0])


def test_a_folder_that_looks_like_another_format_is_asked_about(kb: KnowledgeBase, folder: Path) -> None:
    sync(kb, folder)
    write(folder, {"corpus.jsonl": lines({"_id": "1", "text": "x."})})
    with pytest.raises(DataError, match="read as beir, expected folder as before"):
        sync(kb, folder)
    assert counts(sync(kb, folder, format="folder")) == (1, 0, 0, 3)
    assert counts(sync(kb, folder, format="beir")) == (0, 0, 3, 1)


def test_a_format_that_does_not_fit_deletes_nothing(kb: KnowledgeBase, folder: Path, tmp_path: Path) -> None:
    sync(kb, folder)
    with pytest.raises(UsageError, match="format='txt'"):
        sync(kb, folder, format="txt", allow_empty=True)
    with pytest.raises(UsageError, match="on_error='stop'"):
        sync(kb, folder, on_error="stop")  # type: ignore[arg-type]
    assert len(kb) == 3
    (tmp_path / "beir").mkdir()
    corpus = tmp_path / "beir/corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(lines({"_id": "1", "text": "x."}).encode()))
    sync(kb, tmp_path / "beir", format="beir")
    corpus.rename(tmp_path / "beir/elsewhere.gz")
    with pytest.raises(DataError, match="1 documents came from"):
        sync(kb, tmp_path / "beir", format="beir")
    assert "1" in kb


def test_what_is_no_folder_is_refused(kb: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder or a file"):
        sync(kb, "hf:squad")
    with pytest.raises(UsageError, match="colour"):
        sync(kb, tmp_path, colour="red")
    with pytest.raises(DataError, match="no file or folder"):
        sync(kb, tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no file that can be read"):
        sync(kb, tmp_path / "void")
    sync_past = kb.at(kb.version)
    write(tmp_path / "docs", {"a.txt": "one."})
    with pytest.raises(UsageError, match="as of version"):
        sync(sync_past, tmp_path / "docs")


# ---------------------------------------------------------------- any sequence, interrupted anywhere

FILES = st.dictionaries(
    st.sampled_from(["a.txt", "b.txt", "m.jsonl", "n.jsonl"]),
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from(["one.", "two.", "three. four."])), min_size=1, max_size=3
    ),
    min_size=1,
)


class Cut(Exception):
    pass


@settings(max_examples=10)
@given(st.lists(st.tuples(FILES, st.none() | st.integers(0, 3)), min_size=1, max_size=4))
def test_whatever_happens_to_a_folder_the_knowledge_base_follows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[str, list[tuple[str, str]]], int | None]]
) -> None:
    place = tmp_path_factory.mktemp("sync")
    kb = KnowledgeBase.create(place / "kb", split=dots.split)
    kb.add([Document("mine", "", "by hand.")])
    for files, cut in steps:
        shutil.rmtree(place / "docs", ignore_errors=True)
        for name, records in files.items():
            made = [{"id": i, "text": text} for i, text in records]
            write(place / "docs", {name: lines(*made) if name.endswith("jsonl") else records[0][1]})
        if cut is not None:  # it breaks off at a commit, and the next run goes on
            left, whole = cut, writing._commit

            def commit(*arguments: Any, whole: Any = whole) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Cut
                whole(*arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(writing, "_commit", commit)
                patch.setattr(writing, "BATCH_DOCUMENTS", 1)
                with contextlib.suppress(Cut):
                    sync(kb, place / "docs", allow_empty=True)
        sync(kb, place / "docs", allow_empty=True)
        expected = {document.id: document for document in read_documents(place / "docs")}
        found = {document.id: document for document in kb.documents()}
        assert found.pop("mine").text == "by hand."
        clean = sum(len(records) for name, records in files.items() if name.endswith("jsonl")) == len(
            {i for name, records in files.items() if name.endswith("jsonl") for i, _ in records}
        )
        # Of two records of one id the first counts, unless a file that did not change had it before.
        assert found == expected if clean else found.keys() == expected.keys()
        version = kb.version
        assert sync(kb, place / "docs", allow_empty=True).unchanged == len(expected) or not clean
        assert kb.version == version or not clean
