"""Outside formats to documents, streaming: what is malformed is reported with its file and line."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from realm.errors import DataError, UsageError
from realm.knowledge.formats.choosing import FORMATS, Part, detect, left_out, records, records_of
from realm.knowledge.formats.opening import Records
from realm.knowledge.formats.options import Options
from realm.knowledge.formats.records import Problem, to_document
from realm.types import Document

OnError = Literal["skip", "refuse"]


@dataclass
class SourceReport:
    """What reading found. It fills while documents are read; one report may serve several sources."""

    keep: int = 100
    """How many problems are kept with their place; all are counted."""
    documents: int = 0
    problems: list[Problem] = field(default_factory=list)
    """The first of them; `str` of each is "file:line: found X, expected Y"."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Problems by kind."""
    num_skipped: int = 0
    """Records that did not become a document."""
    num_left_out: int = 0
    """Pages that were dropped on purpose (lists and disambiguation pages)."""
    num_ignored_files: int = 0
    """Files of a folder that no reader is for."""
    places: dict[str, str] | None = None
    """Where each document was found, by its id; kept for who gives a dict, and empties it."""

    @property
    def num_problems(self) -> int:
        return self.kinds.total()

    def add(self, problem: Problem) -> None:
        self.kinds[problem.kind] += 1
        self.num_skipped += problem.skips
        if len(self.problems) < self.keep:
            self.problems.append(problem)

    def meet(self, problem: Problem, *, refuse: bool) -> None:
        """`add` it, or end the reading with a DataError."""
        if refuse:
            raise DataError(f"{problem}; correct it, or skip such records (on_error=skip)")
        self.add(problem)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        parts = [f"{self.documents} documents"]
        parts += [f"{self.num_skipped} records skipped"] if self.num_skipped else []
        parts += [f"problems: {kinds}"] if kinds else []
        parts += [f"{self.num_left_out} lists and disambiguation pages left out"] if self.num_left_out else []
        parts += [f"{self.num_ignored_files} files of other kinds ignored"] if self.num_ignored_files else []
        return "; ".join(parts)


def read_documents(
    source: str | Path,
    *,
    format: str | None = None,
    on_error: OnError = "skip",
    report: SourceReport | None = None,
    **options: Any,
) -> Iterator[Document]:
    """Stream the documents of a file, a folder or a dataset; memory does not grow with the source, except for
    about 100 bytes a document by which a second document of the same id is noticed, and for a .json file,
    which is read whole.

    Args:
        source: a path, or "hf:NAME" for a dataset of the Hugging Face hub.
        format: one of `FORMATS`; None finds it out by the rules of `detect`.
        on_error: a record that can't be used is counted and skipped, or ends the reading ("refuse").
        report: filled while reading.
        options: see `Options`.

    Raises:
        DataError: at once when `source` is missing or of no known format; while reading, with file and line,
            when a record can't be used and `on_error` is "refuse"; at the end when there was no document at all.
        UsageError: at once, for an unknown format or option.
    """
    check_reading(format, on_error)
    found = detect(source) if format is None else format
    if format is not None and not str(source).startswith("hf:") and not Path(source).expanduser().exists():
        detect(source)  # says that it is missing
    return _read(source, found, on_error, report if report is not None else SourceReport(), Options.of(options))


def check_reading(format: str | None, on_error: str) -> None:
    """UsageError for a format, or a way to meet problems, that there is not."""
    if on_error not in ("skip", "refuse"):
        raise UsageError(f"found on_error={on_error!r}: expected skip or refuse")
    if format is not None and format not in FORMATS:
        raise UsageError(f"found format={format!r}: expected one of {', '.join(FORMATS)}")


def _read(
    source: str | Path, format: str, on_error: OnError, report: SourceReport, options: Options
) -> Iterator[Document]:
    seen: set[int] = set()
    before, refuse = len(report.problems), on_error == "refuse"

    def ignored(path: Path) -> None:
        report.num_ignored_files += 1

    for document, where in _documents(records(source, format, options, ignored), format, options, report):
        if isinstance(document, Problem):
            report.meet(document, refuse=refuse)
            continue
        digest = int.from_bytes(hashlib.blake2b(document.id.encode(), digest_size=8).digest(), "little")
        if digest in seen:
            report.meet(Problem(where, "duplicate", f"id {document.id!r} again", "each id once"), refuse=refuse)
            continue
        seen.add(digest)
        report.documents += 1
        if report.places is not None:
            report.places[document.id] = where
        yield document
    if not seen:
        first = f"; first problem: {report.problems[before]}" if len(report.problems) > before else ""
        raise DataError(f"{source}: found no document, expected text to read as {format}{first}")


def read_part(part: Part, options: Options, report: SourceReport) -> Iterator[tuple[Document | Problem, str]]:
    """The documents of one file, and what is wrong with its records, each with its place; for who decides himself what
    a problem or an id that comes again does. Of the report only what is left out on purpose is filled."""
    return _documents(records_of(part, options), part.format, options, report)


def _documents(
    found: Records, format: str, options: Options, report: SourceReport
) -> Iterator[tuple[Document | Problem, str]]:
    for record in found:
        if isinstance(record, Problem):
            yield record, record.where
            continue
        if left_out(record, format, options):
            report.num_left_out += 1
            continue
        document, problem = to_document(record, options.fields, options.defaults)
        if problem is not None:
            yield problem, record.where
        if document is not None:
            yield document, record.where
