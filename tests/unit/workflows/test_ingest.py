"""What the command line can say about a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.workflows.ingest import ingest_sources


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def ingest(tmp_path: Path, source: Path, tokenizer: str, *options: str) -> list[Any]:
    ingest_sources([str(source)], tmp_path / "kb", options=options, tokenizer=tokenizer, max_tokens=40)
    return list(KnowledgeBase.open(tmp_path / "kb").documents())


def test_fields_and_defaults(tmp_path: Path, tokenizer: str) -> None:
    source = tmp_path / "papers.jsonl"
    source.write_text(json.dumps({"pmid": 5, "abstract": "Radium was discovered.", "First Author": "Curie"}))
    options = ("fields.id=pmid", "fields.text=abstract", "defaults.lang=en")
    (document,) = ingest(tmp_path, source, tokenizer, *options)
    assert (document.id, document.text, document.lang) == ("5", "Radium was discovered.", "en")
    assert document.metadata == {"First_Author": "Curie"}


def test_a_table_without_header_and_quotes(tmp_path: Path, tokenizer: str) -> None:
    source = tmp_path / "table.csv"
    source.write_text('a,"Radium\nb,Polonium\n')
    found = ingest(tmp_path, source, tokenizer, "columns=id, text", "quote=none")
    assert [(document.id, document.text) for document in found] == [("a", '"Radium'), ("b", "Polonium")]


def test_markup_can_be_kept(tmp_path: Path, tokenizer: str) -> None:
    source = tmp_path / "a.md"
    source.write_text("Radium is *rare*.")
    (document,) = ingest(tmp_path, source, tokenizer, "raw=true")
    assert document.text == "Radium is *rare*."


@pytest.mark.parametrize(
    "option", ["split", "=train", "colour=red", "fields=text", "fields.body=x", "raw=perhaps", "encoding=klingon"]
)
def test_wrong_options_are_refused_before_anything_is_made(tmp_path: Path, tokenizer: str, option: str) -> None:
    source = tmp_path / "a.txt"
    source.write_text("Radium is rare.")
    with pytest.raises(UsageError):
        ingest(tmp_path, source, tokenizer, option)
    assert not (tmp_path / "kb").exists()
