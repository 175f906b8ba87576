"""What the command line can say about a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import Result
from typer.testing import CliRunner

from realm.cli import app
from realm.errors import DataError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.workflows.ingest import delete_documents, ingest_sources, list_documents, restore_document


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
    assert "papers.jsonl:2: found metadata 'year' that is 'unknown'" in told["problems"][0]
    years = {document.id: document.metadata["year"] for document in KnowledgeBase.open(kb).documents()}
    assert years == {"0": 1900, "1": 1901, "2": 1903}, "what it was before stays"


# ---------------------------------------------------------------- in step, and back


def test_folders_are_kept_in_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}1.txt").write_text("Radium is rare.")
        (tmp_path / name / f"{name}2.txt").write_text("Polonium is rarer.")
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]

    def step(**options: Any) -> dict[str, Any]:
        return ingest_sources(sources, tmp_path / "kb", passages="words", keep_in_step=True, **options)

    with pytest.raises(DataError, match="no file or folder"):
        ingest_sources(["nowhere"], tmp_path / "kb", passages="words", keep_in_step=True)
    assert not (tmp_path / "kb").exists()
    assert (step()["added"], step()["files_read"]) == (4, 0)
    (tmp_path / "a" / "a1.txt").unlink()
    found = step()
    assert {name: found[name] for name in ("added", "updated", "deleted", "unchanged", "edited", "files")} == {
        "added": 0, "updated": 0, "deleted": 1, "unchanged": 3, "edited": 0, "files": 3,
    }  # fmt: skip
    assert (found["documents"], found["skipped"], found["problems"]) == (3, 0, [])
    (tmp_path / "b").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="is its disk mounted"):
        step()
    assert step(allow_empty=True)["deleted"] == 2
    with pytest.raises(UsageError, match="allow_empty without sync"):
        ingest_sources(sources[:1], tmp_path / "kb", passages="words", allow_empty=True)


def test_times_on_the_command_line(tmp_path: Path) -> None:
    source, kb = tmp_path / "a.txt", tmp_path / "kb"
    source.write_text("Radium is rare.")
    ingest_sources([str(source)], kb, passages="words")
    then = KnowledgeBase.open(kb).revision("a.txt")
    assert then is not None
    delete_documents(kb, ["a.txt"])

    def docs(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["docs", *arguments, "--kb", str(kb), "--json"])

    for as_of in (then.time.isoformat(), str(then.version)):
        assert [one["id"] for one in json.loads(docs("list", "--as-of", as_of).output)["documents"]] == ["a.txt"]
    assert json.loads(docs("list").output)["documents"] == []
    for as_of, found in (("yesterday", "a version as 7, or a time"), ("1999-01-01", "from the first version on")):
        refused = docs("list", "--as-of", as_of).exception
        assert isinstance(refused, UsageError) and found in str(refused)
    restored = json.loads(docs("restore", "a.txt", "--as-of", then.time.isoformat()).output)
    assert (restored["restored"], restored["as_of"], restored["version"]) == (1, then.version, then.version + 2)
    assert restore_document(kb, "a.txt", then.version)["unchanged"] == 1
    assert list_documents(kb, where=None, as_of=None, limit=5)["total"] == 1
    assert [change["change"] for change in json.loads(docs("history", "a.txt").output)] == ["added", "deleted", "added"]
