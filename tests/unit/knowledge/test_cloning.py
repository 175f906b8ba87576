"""A copy of a knowledge base to try things on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import dots
import numpy as np
import pytest

from realm.errors import KnowledgeBaseError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.cloning import clone
from realm.types import Document

ENCODER = PassageEncoder("e", lambda passages: np.array([[len(passage.text), 1.0] for passage in passages]))


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mode)
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("links", [True, False])
def test_nothing_done_to_a_copy_reaches_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:  # a file system that has none

        def refuse(*paths: Path) -> None:
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", refuse)
    original = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    original.add([Document(str(i), "", f"Town {i} is old. It lies here.") for i in range(20)], encoder=ENCODER)
    original.update(Document("3", "", "Town 3 is new."))
    (original.path / "tokenizer").mkdir()
    (original.path / "tokenizer" / "words.json").write_text("{}")
    (original.path / "snapshots").mkdir()
    before, documents, version = digests(original.path), list(original.documents()), original.version
    clone(original.path, tmp_path / "copy", ["tokenizer"])

    copy = KnowledgeBase.open(tmp_path / "copy", split=dots.split)
    assert (list(copy.documents()), copy.version) == (documents, version)
    assert len(copy.history("3")) == 2
    assert copy.stored_vectors("e").keys() == original.stored_vectors("e").keys()
    assert sorted(path.name for path in copy.path.iterdir() if path.is_dir()) == ["passages.lance", "tokenizer"]
    copy.upsert([Document("4", "", "Gone."), Document("new", "", "New here.")], encoder=ENCODER)
    copy.delete("5")
    copy.embed_missing(ENCODER)
    copy.compact()
    assert digests(original.path) == before
    assert list(original.documents()) == documents
    original.delete("6")
    assert "6" in copy and "5" not in copy


def test_what_can_not_be_copied_is_said(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeBaseError, match="no knowledge base at"):
        clone(tmp_path / "nothing", tmp_path / "copy")
    KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    (tmp_path / "copy").mkdir()
    with pytest.raises(KnowledgeBaseError, match="is there already"):
        clone(tmp_path / "kb", tmp_path / "copy")
    (tmp_path / "copy").rmdir()
    (tmp_path / "copy.part").mkdir()
    (tmp_path / "copy.part" / "left").touch()
    clone(tmp_path / "kb", tmp_path / "copy")
    assert len(KnowledgeBase.open(tmp_path / "copy")) == 0
    assert not (tmp_path / "copy" / "left").exists()
