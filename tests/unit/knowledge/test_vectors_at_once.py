"""Vectors of a wide encoder are committed in parts that Lance can join."""

from __future__ import annotations

import os
from pathlib import Path

import dots
import numpy as np
import pytest

from realm import KnowledgeBase
from realm.knowledge.base import PassageEncoder
from realm.knowledge.table import store, vectors
from realm.types import Document


def test_a_commit_has_so_many_bytes_of_vectors_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    commit = vectors._commit

    def seen(*arguments: object) -> int:
        sizes.append(sum(part.nbytes for _, part in arguments[3]))  # type: ignore[index, union-attr]
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(vectors, "_commit", seen)
    monkeypatch.setattr(vectors, "_COMMIT_BYTES", 4 * 8 * 64)
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([Document(id=str(n), title="", text=f"Text {n}.") for n in range(200)])
    encoder = PassageEncoder("wide", lambda passages: np.ones((len(passages), 8), np.float32))
    assert kb.embed_missing(encoder, batch=16) == kb.num_passages() == 200
    assert sizes == [64 * 8 * 4] * 3 + [8 * 8 * 4]


def test_lance_may_hold_more_than_it_takes_by_itself() -> None:
    assert int(os.environ["LANCE_MEM_POOL_SIZE"]) >= 2 * vectors._COMMIT_BYTES
    assert store.POOL_BYTES >= 4 * vectors._COMMIT_BYTES
