"""What the command line can say about a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from realm.errors import DataError, UsageError
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


def test_metadata_of_another_type_is_a_malformed_record_and_not_the_end(tmp_path: Path, tokenizer: str) -> None:
    """The first record's type is not the column's: most have numbers."""
    source, kb = tmp_path / "papers.jsonl", tmp_path / "kb"
    years: list[Any] = ["unknown", *range(1900, 1905), "1905 or so", True]
    rows = [{"id": str(n), "text": f"Radium {n}.", "year": year} for n, year in enumerate(years)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ingest_sources([str(source)], kb, tokenizer=tokenizer, max_tokens=40)
    assert (told["added"], told["skipped"], told["documents"]) == (5, 3, 5)
    assert told["problems"][0] == (
        f"{source}:1: found metadata 'year' that is 'unknown' (string), "
        "expected one type in every document, and the column holds int64"
    )
    assert [problem.split(": ")[0] for problem in told["problems"]] == [f"{source}:{line}" for line in (1, 7, 8)]
    # The next source finds the column there; the same one again changes nothing.
    source.write_text(source.read_text() + json.dumps({"id": "9", "text": "Radium.", "year": 0.5}) + "\n")
    again = ingest_sources([str(source)], kb, tokenizer=tokenizer, max_tokens=40)
    assert (again["added"], again["unchanged"], again["skipped"]) == (0, 5, 4)
    with pytest.raises(DataError, match=r"papers.jsonl:1: found metadata 'year'.*on_error=skip"):
        ingest_sources([str(source)], tmp_path / "strict", tokenizer=tokenizer, max_tokens=40, on_error="refuse")
    assert len(KnowledgeBase.open(tmp_path / "strict")) == 0


def test_a_file_kept_in_step_loses_nothing_by_a_record_of_another_type(tmp_path: Path, tokenizer: str) -> None:
    source, kb = tmp_path / "papers.jsonl", tmp_path / "kb"

    def write(*years: Any) -> dict[str, Any]:
        rows = [{"id": str(n), "text": f"Radium {n}.", "year": year} for n, year in enumerate(years)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ingest_sources([str(source)], kb, tokenizer=tokenizer, max_tokens=40, keep_in_step=True)

    assert write(1900, 1901, 1902)["added"] == 3
    told = write(1900, "unknown", 1903)
    assert (told["updated"], told["deleted"], told["skipped"], told["documents"]) == (1, 0, 1, 3)
    assert "papers.jsonl: found document '1' with metadata 'year' that is 'unknown'" in told["problems"][0]
    years = {document.id: document.metadata["year"] for document in KnowledgeBase.open(kb).documents()}
    assert years == {"0": 1900, "1": 1901, "2": 1903}, "what it was before stays"
