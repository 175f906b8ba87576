"""A tiny model and a few documents, as `toy_service` has them."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import tiny
from toy_realm import networks
from toy_service import CONFIG, DOCUMENTS

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase
from realm.types import Document
from realm.workflows.store import create_or_open

DATED = Document(
    "seoul",
    "Seoul",
    "The river Han runs through Seoul. It is long.",
    "geo",
    date(2024, 5, 1),
    url="https://example.org/seoul",
)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def model(bert: Path) -> Realm:
    return Realm(*networks(bert), CONFIG)


@pytest.fixture
def kb(bert: Path, tmp_path: Path) -> KnowledgeBase:
    kb = create_or_open(tmp_path / "kb", passages="sentences", max_tokens=12, tokenizer=str(bert))
    kb.add([*DOCUMENTS, DATED])
    return kb
