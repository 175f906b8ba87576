"""The toy world's networks and sentences, for the tests of REALM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from toy_realm import ToyCorpus, masked_batch, networks

from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.types import MaskedBatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


@pytest.fixture
def corpus(tokenizer: Any) -> ToyCorpus:
    return ToyCorpus(tokenizer)


@pytest.fixture
def parts(folder: Path) -> tuple[DenseEncoder, ClozeReader]:
    return networks(folder)


@pytest.fixture
def batch(tokenizer: Any) -> MaskedBatch:
    return masked_batch(tokenizer)
