"""Files that are made to do harm: they are refused in one line, quickly, and what stands beside them is read."""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import dots
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realm.errors import DataError
from realm.files import write_manifest
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.formats import places, readers
from realm.knowledge.formats.choosing import detect
from realm.knowledge.formats.sources import SourceReport, read_documents
from realm.knowledge.syncing import sync
from realm.types import Document

SECRET = "what nobody may read"


def read(folder: Path) -> tuple[list[str], SourceReport]:
    report = SourceReport()
    return [document.id for document in read_documents(folder, report=report)], report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good file, and a secret beside it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "good.txt").write_text("Good text.")
    (tmp_path / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)


# ---------------------------------------------------------------- links, pipes, our own folders


@pytest.mark.parametrize("target", ["../secret.txt", "{outside}/secret.txt", "inner"])
def test_a_link_that_leaves_the_folder_is_told_and_not_followed(folder: Path, target: str, kb: KnowledgeBase) -> None:
    (folder / "inner").symlink_to("../secret.txt")  # a link to a link
    (folder / "a.txt").symlink_to(target.format(outside=folder.parent))
    ids, report = read(folder)
    assert ids == ["good.txt"]
    assert [p.kind for p in report.problems] == ["link", "link"]
    assert "a link that leaves the folder" in str(report.problems[0])
    synced = sync(kb, folder)
    assert (synced.added, len(kb)) == (1, 1)
    assert SECRET not in "".join(passage.text for passage in kb.passages())


def test_links_within_the_folder_and_to_the_folder_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "again.txt").symlink_to("good.txt")
    (tmp_path / "name").symlink_to(folder)
    ids, report = read(tmp_path / "name")
    assert ids == ["again.txt", "good.txt"] and not report.num_problems


def test_a_document_behind_a_link_stays_when_the_link_begins_to_leave(folder: Path, kb: KnowledgeBase) -> None:
    (folder / "a.txt").write_text("First.")
    sync(kb, folder)
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to("../secret.txt")
    report = SourceReport()
    assert sync(kb, folder, report=report).deleted == 0
    assert kb.get("a.txt") == Document("a.txt", "a", "First.") and report.kinds == {"link": 1}


def test_a_list_of_files_can_not_name_others(tmp_path: Path, folder: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.txt"}]}))
    with pytest.raises(DataError, match="a link that leaves the folder"):
        list(read_documents(saved))
    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "corpus.jsonl").symlink_to("../secret.txt")
    with pytest.raises(DataError, match="a link that leaves the folder"):
        list(read_documents(beir))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["pipe.txt", "pipe.json", "wiki_00", "corpus.jsonl"])
def test_a_pipe_does_not_stop_the_reading(folder: Path, kb: KnowledgeBase, name: str) -> None:
    os.mkfifo(folder / name)
    report = SourceReport()
    if name != "corpus.jsonl":
        assert sync(kb, folder, report=report).added == 1
        ids, report = read(folder)
        assert ids == ["good.txt"]
        assert "a pipe, a socket or a device" in str(report.problems[0])
    else:
        with pytest.raises(DataError, match="a pipe"):
            list(read_documents(folder))
    with pytest.raises(DataError, match=f"{name}: found a pipe"):
        detect(folder / name)


def test_what_realm_made_is_no_source(folder: Path) -> None:
    kb = KnowledgeBase.create(folder / "kb", split=dots.split, splitter=dots.SETTINGS)
    write_manifest(folder / "model", format="realm model", version=1)
    (folder / "page").mkdir()
    (folder / "page" / "manifest.json").write_text('{"id": "m", "text": "Of a web page."}')
    ids, report = read(folder)
    assert ids == ["good.txt", "m"] and (report.num_ignored_files, report.num_problems) == (2, 0)
    for _ in range(2):
        assert sync(kb, folder).files == 2
    assert {document.id for document in kb.documents()} == {"good.txt", "m"}
    for own in ("kb", "model"):
        with pytest.raises(DataError, match="found what realm itself made"):
            detect(folder / own)
        with pytest.raises(DataError, match="found what realm itself made"):
            sync(kb, folder / own, format="json")


# ---------------------------------------------------------------- files that are larger inside


SMALL = 1 << 18
"""Instead of `places.ALWAYS`, to be quick."""


def bombs() -> dict[str, Callable[[Path], object]]:
    """Writers of files of a few KB that hold four times what any small file may."""
    size = 4 * SMALL
    texts = pa.array(["\n" * (size // 16)] * 16)
    return {
        "a.txt.gz": lambda path: path.write_bytes(gzip.compress(b"a" * size)),
        "a.md.bz2": lambda path: path.write_bytes(bz2.compress(b"a" * size)),
        "a.html.gz": lambda path: path.write_bytes(gzip.compress(b"<p>" * (size // 3))),
        "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(b"\n" * size)),
        "b.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(b'{"text": "' + b"a" * size)),
        "a.json.gz": lambda path: path.write_bytes(gzip.compress(b" " * size)),
        "a.csv.gz": lambda path: path.write_bytes(gzip.compress(b"text\n" + b"\n" * size)),
        "a.parquet": lambda path: pq.write_table(
            pa.table({"text": texts}), path, compression="zstd", use_dictionary=False
        ),
        "nulls.parquet": lambda path: pq.write_table(pa.table({"text": pa.nulls(size, pa.string())}), path),
    }


@pytest.mark.parametrize("name", sorted(bombs()))
def test_what_is_far_larger_inside_is_refused(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bombs()[name](folder / name)
    assert (folder / name).stat().st_size * places.MOST_TIMES < 4 * SMALL < places.ALWAYS
    if name != "nulls.parquet":  # a million problems
        assert "file" not in read(folder)[1].kinds, "so small a file may hold what it wants"
    monkeypatch.setattr(places, "ALWAYS", SMALL)
    ids, report = read(folder)
    assert "good.txt" in ids
    assert report.kinds["file"] == 1 and name in str(report.problems[-1])
    assert "250 times its" in str(report.problems[-1]) or "packed" in str(report.problems[-1])


def test_a_word_of_a_dictionary_is_repeated_one_row_at_a_time(tmp_path: Path) -> None:
    """A parquet file of 128 KB with 2,000 rows of 128 KB."""
    rows, text = 2_000, os.urandom(1 << 16).hex()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path, store_schema=False)
    before = pa.default_memory_pool().max_memory()
    found = readers.parquet(path, readers.Options())
    assert len(next(found).fields["text"]) == len(text)  # type: ignore[union-attr]
    assert pa.default_memory_pool().max_memory() - before < 100 * len(text)


def test_what_is_large_but_in_proportion_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ALWAYS", SMALL)
    noise = os.urandom(1 << 13).hex()
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        for number in range(150):
            stream.write(json.dumps({"id": str(number), "text": f"{noise}{number}"}) + "\n")
    assert (tmp_path / "a.jsonl.gz").stat().st_size * 250 > 150 * len(noise) > SMALL
    assert len(read(tmp_path / "a.jsonl.gz")[0]) == 150


def test_archives_are_not_opened(folder: Path) -> None:
    for name in ("a.zip", "a.tar.gz", "a.7z", "a.docx"):
        (folder / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(DataError, match="an unknown kind of file"):
            detect(folder / name)
    ids, report = read(folder)
    assert ids == ["good.txt"] and report.num_ignored_files == 4


# ---------------------------------------------------------------- markup that expands, names files or takes long


def test_front_matter_can_not_multiply_itself(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (folder / "a.md").write_text("---\n" + "\n".join(lines) + "\n---\n# Title\nText.\n")
    (folder / "b.md").write_text("---\nkey: " + "x" * (1 << 17) + "\n---\nText.\n")
    ids, report = read(folder)
    assert ids == ["a.md", "b.md", "good.txt"]
    assert [p.kind for p in report.problems] == ["front matter"] * 2
    assert "refers to itself" in str(report.problems[0]) and "over 64 KiB" in str(report.problems[1])


def test_no_object_is_made_of_front_matter(folder: Path) -> None:
    mark = folder.parent / "made"
    (folder / "a.md").write_text(f"---\nkey: !!python/object/apply:os.mkdir ['{mark}']\n---\nText.\n")
    _, report = read(folder)
    assert not mark.exists() and [p.kind for p in report.problems] == ["front matter"]


ENTITY = '<!DOCTYPE html [<!ENTITY x SYSTEM "file://{secret}"><!ENTITY % y SYSTEM "file://{secret}"> %y;]>'


@pytest.mark.parametrize("name", ["a.html", "a.md", "wiki_00", "a.json"])
def test_external_entities_stay_letters(folder: Path, name: str) -> None:
    secret = folder.parent / "secret.txt"
    page = ENTITY.format(secret=secret) + "<html><body><p>Before &x; after</p><xi:include href='secret.txt'/></body>"
    text = {"a.html": page, "a.md": page + "\n\nText."}.get(name) or json.dumps({"id": "w", "title": "t", "text": page})
    (folder / name).write_text(text)
    documents = list(read_documents(folder, report=SourceReport()))
    assert not any(SECRET in document.text for document in documents)


def test_nothing_here_reads_xml(folder: Path, repository: Path) -> None:
    """No wiki dump or other XML is read: an XML parser would bring its entities with it."""
    for file in (repository / "realm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] in ("xml", "lxml", "pickle", "shelve", "marshal", "dill") for n in names), (
                file
            )
    (folder / "dump.xml").write_text("<mediawiki/>")
    with pytest.raises(DataError, match="an unknown kind of file"):
        detect(folder / "dump.xml")


@pytest.mark.parametrize(
    "text", ["# a" + " " * 60_000 + "b\n", "# " + "#" * 60_000 + "a\n", "#" + " \t" * 30_000 + "\n", "---\n" * 20_000]
)
def test_titles_are_found_in_time_in_proportion(folder: Path, text: str) -> None:
    (folder / "a.md").write_text(text + "\nText.\n")
    began = time.process_time()
    ids, _ = read(folder)
    assert ids == ["a.md", "good.txt"]
    assert time.process_time() - began < 5
