"""A knowledge base kept in step with a folder or a file: what is new there is added, what changed is updated, what
vanished is deleted, and a file that did not change is not parsed again.

What is true stands in the table: each document's header names the source and the file it came from, in the commit of
its text (`origins`), and nothing else decides what is deleted. Beside it, in ``sync/`` of the knowledge base, a record
holds a digest of each file that was read without a fault. It only saves work: an entry counts where the file has that
digest and the table holds exactly the documents it gave, so a record that is lost, old or of another copy costs time
alone, and a run that was killed is gone on with by the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from realm.errors import ArtefactError, DataError, UsageError
from realm.files import fingerprint, read_json, sha256_of, write_json
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.formats.choosing import Part, detect, parts
from realm.knowledge.formats.options import Options
from realm.knowledge.formats.records import Problem
from realm.knowledge.formats.sources import OnError, SourceReport, check_reading, read_part
from realm.knowledge.table.origins import Held
from realm.knowledge.table.sourced import SourceDocuments
from realm.knowledge.table.vectors import PassageEncoder
from realm.knowledge.table.writing import batches
from realm.types import Document, Progress

FOLDER = "sync"
FORMAT = "realm sync record"
FORMAT_VERSION = 1
_DELETED_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class Synced:
    """What keeping in step did, in documents, and the version after it."""

    added: int
    updated: int
    deleted: int
    unchanged: int
    edited: int
    """Changed or deleted by hand in the knowledge base, and left so."""
    files: int
    files_read: int
    """Files that were parsed; the others had not changed."""
    version: int


def sync(
    kb: KnowledgeBase,
    source: str | Path,
    *,
    format: str | None = None,
    on_error: OnError = "skip",
    allow_empty: bool = False,
    report: SourceReport | None = None,
    encoder: PassageEncoder | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Synced:
    """Bring a knowledge base in step with a folder or a file.

    - Only documents that came from this source are changed or deleted. One that is there from elsewhere is an error,
      unless nobody keeps it in step and it is equal: then it is taken over.
    - A document that was edited or deleted by hand stays so until the source gives something else.
    - A file with a malformed record, or one that gives no document any more, keeps the documents it gave before; it is
      read and reported each time. Two files that give one id: the first counts, the other is reported.
    - Commits are batches as in `KnowledgeBase.upsert`; deletions come last.

    source: its absolute path is its name. format, on_error, report, options: see `read_documents`.
    allow_empty: delete all documents of a source that is missing, or holds none of the files they came from; otherwise
    DataError, for it may be a disk that is not mounted.

    Raises:
        DataError: a source that can't be listed, or is read as another format than before.
        PresentError: an id that comes from elsewhere; what was committed before stays.
        UsageError: a source that is no path, an unknown format or option.
    """
    chosen = Options.of(options)
    check_reading(format, on_error)
    if str(source).startswith("hf:"):
        raise UsageError(f"found {source} to keep in step: expected a folder or a file")
    place = _text(os.path.abspath(Path(source).expanduser()))
    run = _Run(kb.kept_in_step(place), report if report is not None else SourceReport(), on_error)
    marks = _marks(run.documents.held())
    record = _Record.open(kb.path, place)
    read_as, listed = _listed(Path(place), format, chosen, run.report)
    alive = sum(mark.alive for mark in marks.values())
    if not listed and not (alive and allow_empty):
        raise _nothing(place, read_as, alive)
    if format is None and record.read_as not in (read_as, None) and listed:
        raise DataError(
            f"{place}: found it to be read as {read_as}, expected {record.read_as} as before: say which by --format"
        )

    if alive and listed and not allow_empty and not any(marks.get(_text(part.key), _Mark()).alive for part in listed):
        raise DataError(
            f"{place}: found none of the files that {alive:,} documents came from: were all renamed, or is another "
            "disk mounted here? Give --allow-empty to go on; what no file gives any more is deleted then"
        )

    setting, waiting = _setting(chosen), []
    for part in listed:
        digest = _digest(part, setting)
        if digest is not None and record.files.get(_text(part.key)) == (digest, _mark(marks, part)):
            run.unread.add(_text(part.key))
        else:
            waiting.append((part, digest))
    added, updated, same = 0, 0, sum(marks[key].alive for key in run.unread if key in marks)
    for batch in batches(run.read(waiting, chosen, marks), set()):
        kept = run.without_misfits(run.without_clashes(batch))
        done = run.documents.write(kept, {document.id: run.places[document.id][0] for document in kept}, encoder)
        run.places.clear()
        added, updated, same = added + done.added, updated + done.updated, same + done.unchanged
        if progress is not None:
            progress(added + updated + same, None)
    deleted = run.delete_what_is_gone({_text(part.key) for part in listed})
    if added or updated:
        run.documents.tidy()

    held = _marks(run.documents.held())
    files = {key: entry for key, entry in record.files.items() if key in run.unread}
    for part, digest in waiting:
        if digest is not None and _text(part.key) not in run.faulty:
            files[_text(part.key)] = digest, _mark(held, part)
    _Record(read_as, files).save(kb.path, place)
    edited = sum(mark.edited for mark in held.values())
    unchanged = sum(mark.alive for mark in held.values()) - added - updated
    return Synced(added, updated, deleted, unchanged, edited, len(listed), len(waiting), kb.version)


@dataclass(slots=True)
class _Run:
    """One reading of the files that changed."""

    documents: SourceDocuments
    report: SourceReport
    on_error: OnError
    unread: set[str] = field(default_factory=set)
    """Files that did not change."""
    faulty: set[str] = field(default_factory=set)
    """Files to be read again at the next time, for something was wrong."""
    torn: set[str] = field(default_factory=set)
    """Those of them that may lack documents."""
    parsed: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    """Numbers of the ids that were given."""
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    """File, and place as a report tells it, of the documents that wait to be written."""

    def read(
        self, waiting: Sequence[tuple[Part, str | None]], options: Options, marks: dict[str, _Mark]
    ) -> Iterator[Document]:
        """The documents of the files that changed, each id once."""
        for part, _ in waiting:
            key, given = _text(part.key), 0
            for found, where in read_part(part, options, self.report):
                if isinstance(found, Problem):
                    self.add(found, key)
                    continue
                given += 1
                if _number(found.id) in self.seen:
                    self.add(_again(found, where), key, torn=False)
                    continue
                self.seen.add(_number(found.id))
                self.places[found.id] = key, where
                self.report.documents += 1
                yield found
            self.parsed.add(key)
            if not given and key in marks and key not in self.faulty:
                self.add(Problem(str(part.path), "empty", "no document any more", "what it held, or no file"), key)

    def add(self, problem: Problem, key: str, torn: bool | None = None) -> None:
        """Tell a problem of a file. torn: whether a document of it may be lost, as the problem says when None."""
        self.report.meet(problem, refuse=self.on_error == "refuse")
        self.faulty.add(key)
        if torn is None:  # an id may stand in front matter: without it the document seems to be another
            torn = problem.skips or problem.kind == "front matter"
        if torn:
            self.torn.add(key)

    def without_clashes(self, batch: Sequence[Document]) -> list[Document]:
        """A batch without the documents that a file which did not change gave before."""
        before = self.documents.files([document.id for document in batch])
        kept = []
        for document in batch:
            (file, where), owner = self.places[document.id], before.get(document.id)
            if owner in self.unread and owner != file:
                self.add(_again(document, f"{where}, as in {owner}"), file, torn=False)
            else:
                kept.append(document)
        return kept

    def without_misfits(self, batch: Sequence[Document]) -> list[Document]:
        """A batch without the documents whose metadata has another type than its column."""
        kept, misfits = self.documents.fitting(batch)
        for document, misfit in misfits:
            file, where = self.places[document.id]
            self.add(Problem(where, "type", misfit.found, misfit.expected), file)
            self.report.documents -= 1
        return kept

    def delete_what_is_gone(self, listed: set[str]) -> int:
        """Delete what came from files that vanished, and what a file without a fault gives no more."""
        whole = self.parsed - self.torn
        gone = [
            held.document_id
            for held in self.documents.held()
            if not held.deleted
            and (held.file not in listed or (held.file in whole and _number(held.document_id) not in self.seen))
        ]
        chunks = (gone[at : at + _DELETED_AT_ONCE] for at in range(0, len(gone), _DELETED_AT_ONCE))
        return sum(self.documents.delete(chunk).deleted for chunk in chunks)


def _again(document: Document, where: str) -> Problem:
    return Problem(where, "duplicate", f"id {document.id!r} again", "each id once in a source")


# ---------------------------------------------------------------- what there is to read


def _listed(path: Path, format: str | None, options: Options, report: SourceReport) -> tuple[str | None, list[Part]]:
    """What a source is read as, and its files; none where it is missing or holds nothing to read."""

    def ignored(_: Path) -> None:
        report.num_ignored_files += 1

    if not path.exists():
        return format, []
    try:
        try:
            read_as = format or detect(path)
        except DataError:
            if path.is_dir():  # nothing in it that can be read
                return format, []
            raise
        return read_as, list(parts(path, read_as, options, ignored))
    except OSError as error:
        raise DataError(
            f"{path}: found a folder that can't be listed ({error.strerror or error}), expected to read all of it; "
            "nothing was changed"
        ) from error


def _nothing(place: str, read_as: str | None, alive: int) -> DataError:
    """Why a source without a file to read is refused: `alive` documents came from it, and would go."""
    if alive:
        return DataError(
            f"{place}: found nothing to read, where {alive:,} documents came from: is its disk mounted? Give "
            "--allow-empty to delete them"
        )
    detect(place)  # says what is missing
    return DataError(f"{place}: found no file to read as {read_as}, expected at least one")


def _setting(options: Options) -> str:
    from realm import __version__

    return fingerprint(__version__, json.dumps(asdict(options), sort_keys=True, default=str))


def _digest(part: Part, setting: str) -> str | None:
    """Of a file's bytes and of how they are read; None where they can't be."""
    if part.refused is not None:
        return None
    try:
        return fingerprint(sha256_of(part.path), part.format, setting)
    except OSError:
        return None


def _text(path: str) -> str:
    """A name of the file system as text that can be stored."""
    return path.encode("utf-8", "backslashreplace").decode()


def _number(document_id: str) -> int:
    return int(fingerprint(document_id), 16)


# ---------------------------------------------------------------- what was read before


@dataclass(slots=True)
class _Mark:
    """The documents of one file as the table has them."""

    alive: int = 0
    edited: int = 0
    total: int = 0
    """Sum of the numbers of what was given, which has no order."""

    def __str__(self) -> str:
        return f"{self.total % (1 << 64):016x}"


def _marks(held: Iterator[Held]) -> dict[str, _Mark]:
    marks: dict[str, _Mark] = {}
    for one in held:
        mark = marks.setdefault(one.file, _Mark())
        mark.alive += not one.deleted
        mark.edited += one.edited
        mark.total += int(fingerprint(one.document_id, one.given), 16)
    return marks


def _mark(marks: dict[str, _Mark], part: Part) -> str:
    return str(marks.get(_text(part.key), _Mark()))


@dataclass(frozen=True, slots=True)
class _Record:
    """Files of one source: key -> (digest, mark of the documents it gave)."""

    read_as: str | None
    files: dict[str, tuple[str, str]]

    @staticmethod
    def _path(folder: Path, place: str) -> Path:
        return folder / FOLDER / f"{fingerprint(place)}.json"

    @classmethod
    def open(cls, folder: Path, place: str) -> _Record:
        """What was recorded; nothing where it is missing, damaged or of another format, for it only saves work."""
        try:
            value = read_json(cls._path(folder, place))
            if (value["format"], value["format_version"], value["source"]) == (FORMAT, FORMAT_VERSION, place):
                return cls(value["read_as"], {key: (digest, mark) for key, (digest, mark) in value["files"].items()})
        except (ArtefactError, KeyError, TypeError, ValueError, AttributeError):
            pass
        return cls(None, {})

    def save(self, folder: Path, place: str) -> None:
        facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "source": place, "read_as": self.read_as}
        write_json(self._path(folder, place), {**facts, "files": self.files})
