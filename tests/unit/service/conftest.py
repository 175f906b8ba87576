"""Services over a few documents and tiny, real models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from toy_realm import networks
from toy_service import CONFIG, DOCUMENTS, Client, Serve

from realm.answering.ask import Realm
from realm.answering.questions import QuestionAnswering
from realm.knowledge.base import KnowledgeBase
from realm.models.span import SpanReader
from realm.service.core import Service
from realm.service.metrics import Metrics
from realm.service.server import guarded
from realm.service.settings import ServiceConfig
from realm.service.tokens import Tokens
from realm.settings import override
from realm.settings_finetune import FinetuneConfig
from realm.workflows.store import create_or_open


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def realm(bert: Path) -> Realm:
    """Fills blanks."""
    return Realm(*networks(bert), CONFIG)


@pytest.fixture(scope="session")
def answerer(bert: Path) -> QuestionAnswering:
    """Answers questions."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reader = SpanReader.from_pretrained(bert, span_size=16, max_width=4, backbone_dropout=0.0)
    config = override(FinetuneConfig(), ["questions.max_passage_tokens=40", "reader.max_tokens=96"])
    return QuestionAnswering(networks(bert)[0], reader, config)


@pytest.fixture
def kb(bert: Path, tmp_path: Path) -> KnowledgeBase:
    kb = create_or_open(tmp_path / "kb", passages="sentences", max_tokens=40, tokenizer=str(bert))
    kb.add(DOCUMENTS)
    return kb


@pytest.fixture
def serve(realm: Realm, kb: KnowledgeBase) -> Iterator[Serve]:
    """Opens services; every one is closed at the end."""
    opened: list[Service] = []

    def open_one(
        *settings: str,
        model: Any = realm,
        kb: KnowledgeBase = kb,
        host: str = "127.0.0.1",
        tokens: Tokens | None = None,
        begin: bool = True,
    ) -> Client:
        service = Service(lambda: model, kb, override(ServiceConfig(), settings), Metrics())
        opened.append(service)
        layers = guarded(service, host=host, tokens=tokens)
        if begin:
            service.open().result()
        return Client(layers, service)

    yield open_one
    for service in opened:
        service.close()


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve()
