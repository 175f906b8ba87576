"""Documents in and out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from realm.errors import AbsentError, DataError, UsageError
from realm.knowledge.base import Counts
from realm.knowledge.formats.options import Options
from realm.knowledge.formats.records import KEYS, Problem
from realm.knowledge.formats.sources import SourceReport, check_reading, read_documents
from realm.knowledge.syncing import Synced, sync
from realm.knowledge.table.anywhere import place_of
from realm.knowledge.table.columns import Misfit, OnMisfit
from realm.knowledge.table.filters import at_moment
from realm.knowledge.table.times import AsOf
from realm.types import Document
from realm.workflows.reporting import ProgressCall, Reporter, Silent
from realm.workflows.store import create_or_open, open_knowledge_base
from realm.workflows.values import document_json

SHOWN_PROBLEMS = 20


def ingest_sources(
    sources: list[str],
    kb_path: Path,
    *,
    format: str | None = None,
    options: Sequence[str] = (),
    on_error: str = "skip",
    passages: str = "sentences",
    max_tokens: int = 288,
    tokenizer: str = "all-MiniLM-L6-v2",
    keep_in_step: bool = False,
    allow_empty: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Read every source into the knowledge base; documents that are there and equal are left alone.

    options: "name=value" of `realm.knowledge.formats.options.Options`, as "split=train" or "fields.text=abstract".
    keep_in_step: delete what vanished from the sources, too, and parse only files that changed; see `syncing.sync`.
    allow_empty: with it, also where a source is missing or empty.
    Returns counts, the version, and the first problems as "file:line: found, expected".
    """
    reporter = reporter or Silent()
    chosen = _options(options)
    Options.of(chosen)  # a wrong name is said before a knowledge base is made
    check_reading(format, on_error)
    if allow_empty and not keep_in_step:
        raise UsageError("found allow_empty without sync: expected both, for without sync nothing is deleted")
    # Where there is a knowledge base, it tells whether documents came from a source that is gone.
    may_be_gone = keep_in_step and place_of(kb_path).is_laid()
    for source in sources:
        path = Path(source).expanduser()
        named = path.is_absolute() or source.startswith(".") or (keep_in_step and not source.startswith("hf:"))
        if named and not path.exists() and not may_be_gone:
            raise DataError(f"no file or folder {source}: expected documents to ingest")
    kb = create_or_open(kb_path, passages=passages, max_tokens=max_tokens, tokenizer=tokenizer)
    totals = {"added": 0, "updated": 0, "unchanged": 0}
    totals |= {"deleted": 0, "edited": 0, "files": 0, "files_read": 0} if keep_in_step else {}
    report = SourceReport(places={})
    how: dict[str, Any] = {"format": format, "on_error": on_error, "report": report, **chosen}
    for source in sources:
        with reporter.stage(f"ingest {Path(source).name or source}", "documents") as progress:
            counts: Counts | Synced
            if keep_in_step:
                counts = sync(kb, source, allow_empty=allow_empty, progress=progress, **how)
            else:
                found = read_documents(source, **how)
                counts = kb.upsert(
                    found,
                    progress=_batchwise(report, progress),
                    on_misfit=_misfits(report, on_error == "refuse", source),
                )
        for name in totals:
            totals[name] += getattr(counts, name)
    return {
        **totals,
        "skipped": report.num_skipped,
        "documents": len(kb),
        "passages": kb.num_passages(),
        "version": kb.version,
        "problems": [str(problem) for problem in report.problems[:SHOWN_PROBLEMS]],
    }


def _misfits(report: SourceReport, refuse: bool, source: str) -> OnMisfit:
    """Counts a document whose metadata doesn't fit as a malformed record of its file."""

    def tell(document: Document, misfit: Misfit) -> None:
        where = (report.places or {}).get(document.id, source)
        report.meet(Problem(where, "type", misfit.found, misfit.expected), refuse=refuse)
        report.documents -= 1

    return tell


def _batchwise(report: SourceReport, progress: ProgressCall) -> ProgressCall:
    """Forgets the places of documents that are committed."""

    def follow(done: int, total: int | None) -> None:
        if report.places is not None:
            report.places.clear()
        progress(done, total)

    return follow


def _options(assignments: Sequence[str]) -> dict[str, Any]:
    """Options of reading from the command line's words; their names and kinds are checked by `Options`."""
    found: dict[str, Any] = {}
    truth = {"true": True, "false": False}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        group, _, key = name.partition(".")
        known = {"fields": key in KEYS, "defaults": bool(key), "raw": value in truth, "drop_lists": value in truth}
        if not equals or not known.get(group, True):
            raise UsageError(
                f"found the option {assignment!r}: expected name=value, such as split=train, raw=true, "
                f"defaults.lang=ko or fields.text=abstract (fields: {', '.join(KEYS)})"
            )
        if group in ("fields", "defaults"):
            found.setdefault(group, {})[key] = value
        elif name in ("raw", "drop_lists"):
            found[name] = truth[value]
        elif name == "columns":
            found[name] = tuple(column.strip() for column in value.split(","))
        else:
            found[name] = None if name == "quote" and value == "none" else value
    return found


def add_documents(kb_path: Path, source: Path, *, id: str | None = None, title: str = "") -> dict[str, Any]:
    """Add the documents of a file; with `id`, the file (or '-', standard input) is one text."""
    kb = open_knowledge_base(kb_path)
    if id is not None or str(source) == "-":
        if id is None:
            raise UsageError("found '-' without --id: expected an id for the text on standard input")
        text = sys.stdin.read() if str(source) == "-" else _read_text(source)
        counts = kb.add([Document(id=id, title=title, text=text)])
    else:
        counts = kb.add(read_documents(source, on_error="refuse"))
    return {"added": counts.added, "version": counts.version}


def update_document(
    kb_path: Path,
    document_id: str,
    *,
    text: str | None = None,
    file: Path | None = None,
    replace_pieces: list[str] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Change text or title of one document; the rest of its fields stay.

    replace_pieces: "OLD=>NEW" each; OLD must stand in the text. DataError when the document isn't there.
    """
    kb = open_knowledge_base(kb_path)
    document = kb.get(document_id)
    if document is None:
        raise AbsentError(
            f"no document {document_id!r} in {kb.address}: expected one to update; `realm docs list` shows the ids"
        )
    if sum(bool(given) for given in (text is not None, file, replace_pieces)) + (title is not None) == 0:
        raise UsageError("found nothing to change: expected --text, --file, --replace or --title")
    if sum(bool(given) for given in (text is not None, file, replace_pieces)) > 1:
        raise UsageError("found more than one of --text, --file and --replace: expected one new text")
    new = text if text is not None else _read_text(file) if file else document.text
    for piece in replace_pieces or []:
        old, arrow, fresh = piece.partition("=>")
        if not arrow or not old:
            raise UsageError(f"found --replace {piece!r}: expected OLD=>NEW")
        if old not in new:
            raise DataError(f"{old!r} does not stand in document {document_id!r}: nothing was changed")
        new = new.replace(old, fresh)
    counts = kb.update(replace(document, text=new, title=document.title if title is None else title))
    return {"updated": counts.updated, "unchanged": counts.unchanged, "version": counts.version}


def delete_documents(kb_path: Path, ids: list[str]) -> dict[str, Any]:
    counts = open_knowledge_base(kb_path).delete(ids)
    return {"deleted": counts.deleted, "version": counts.version}


def restore_document(kb_path: Path, document_id: str, as_of: AsOf) -> dict[str, Any]:
    """Make a document again what it was as of a version or a time; see `KnowledgeBase.restore`."""
    kb = open_knowledge_base(kb_path)
    version = kb.version_at(as_of) if isinstance(as_of, datetime) else as_of
    counts = kb.restore(document_id, version)
    return {
        "restored": counts.added + counts.updated,
        "unchanged": counts.unchanged,
        "as_of": version,
        "version": counts.version,
    }


def index_vectors(kb_path: Path, encoder: str | None) -> dict[str, Any]:
    """Make the index of approximate search; see `KnowledgeBase.index_vectors`."""
    return open_knowledge_base(kb_path).index_vectors(encoder)


def list_documents(kb_path: Path, *, where: str | None, as_of: AsOf | None, limit: int) -> dict[str, Any]:
    """At most `limit` documents that satisfy a predicate, in order of insertion."""
    kb = open_knowledge_base(kb_path, as_of=as_of)
    page = kb.page(at_moment(where, partial(kb.moment, as_of)), limit)
    return {"documents": [document_json(one) for one in page.documents], "total": page.total, "version": page.version}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no file {path}: expected the text of a document") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: found bytes that are not UTF-8 at {error.start}: expected UTF-8; convert the file first"
        ) from None
