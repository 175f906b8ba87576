"""Services over a few documents and tiny, real models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
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
from realm.workflows.store import create_or_open, open_knowledge_base


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


@pytest.fixture(scope="session")
def template(bert: Path, realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents with their vectors, to be copied."""
    folder = tmp_path_factory.mktemp("template") / "kb"
    kb = create_or_open(folder, passages="sentences", max_tokens=40, tokenizer=str(bert))
    kb.add(DOCUMENTS, encoder=realm.passage_encoder)
    return folder


@pytest.fixture
def kb(template: Path, tmp_path: Path) -> KnowledgeBase:
    """The documents, to be edited."""
    return open_knowledge_base(shutil.copytree(template, tmp_path / "kb"))


def open_service(
    model: Any,
    kb: KnowledgeBase,
    *settings: str,
    host: str = "127.0.0.1",
    tokens: Tokens | None = None,
    trainings: Callable[[], list[dict[str, Any]]] = list,
    opener: Callable[[], Any] | None = None,
) -> Client:
    """A service that has not begun to open its model. opener: opens it, `model` else."""
    service = Service(opener or (lambda: model), kb, override(ServiceConfig(), settings), Metrics(), trainings)
    return Client(guarded(service, host=host, tokens=tokens), service)


@pytest.fixture
def serve(realm: Realm, kb: KnowledgeBase) -> Iterator[Serve]:
    """Opens services; every one is closed at the end."""
    opened: list[Service] = []

    def open_one(*settings: str, model: Any = realm, begin: bool = True, **more: Any) -> Client:
        client = open_service(model, kb, *settings, **more)
        opened.append(client.service)
        if begin:
            client.service.open().result()
        return client

    yield open_one
    for service in opened:
        service.close()


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with documents of its own."""
    return serve()


@pytest.fixture(scope="module")
def shared(realm: Realm, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One for all tests of a file that change nothing."""
    kb = open_knowledge_base(shutil.copytree(template, tmp_path_factory.mktemp("shared") / "kb"))
    client = open_service(realm, kb)
    client.service.open().result()
    yield client
    client.service.close()
