"""What became of a document: each change with its time, and what it did to the words and the fields."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from realm.errors import AbsentError
from realm.knowledge.base import KnowledgeBase, Revision
from realm.knowledge.differences import differences, enough_work
from realm.knowledge.table.schema import document_hash
from realm.types import Document
from realm.workflows.store import open_knowledge_base
from realm.workflows.values import document_json, revision_json


def document_history(kb_path: Path, document_id: str) -> list[dict[str, Any]]:
    """Every change of a document, oldest first; see `history_of`."""
    return history_of(open_knowledge_base(kb_path), document_id)


def history_of(
    kb: KnowledgeBase,
    document_id: str,
    limit: int | None = None,
    before: int | None = None,
    characters: int | None = None,
) -> list[dict[str, Any]]:
    """Changes of a document as JSON values, oldest first; the newest `limit`, made before version `before`.

    characters: fewer, but one at least, where their texts together are longer. Comparing the texts takes some seconds
    at most, however many they are: beyond that, what differs counts as replaced as a whole.

    Each with the text it left, and what it changed: `difference`, pieces of [kind, text] with kind same, removed or
    added; `fields`, objects of name, old and new for title, source, date, lang, url and metadata.*, empty where the
    document came or went as a whole; `same_as`, the last version of those listed before that had the very same
    document, as where it was restored. AbsentError when there never was such a document.
    """
    revisions = kb.history(document_id, limit=limit, before=before)
    if not revisions and (before is None or kb.revision(document_id) is None):
        raise AbsentError(
            f"no document {document_id!r} in {kb.address}, now or before; `realm docs list` shows the ids"
        )
    left = _left_by(kb, revisions, characters)
    if not left:
        return []
    oldest = left[0][0]
    before_it = kb.at(oldest.version - 1).get(document_id) if oldest.revision > 1 else None
    texts = [before_it.text if before_it else "", *(now.text if now else "" for _, now in left)]
    work = enough_work()  # the newest have the first of it: they are what is looked at
    compared = [differences(*pair, work) for pair in reversed(list(pairwise(texts)))][::-1]
    seen: dict[str, int] = {}
    found = []
    then = before_it
    for (revision, now), pieces in zip(left, compared, strict=True):
        digest = document_hash(now) if now else ""
        found.append(
            {
                **revision_json(revision, now.text if now else ""),
                "difference": [list(piece) for piece in pieces],
                "fields": changed_fields(then, now),
                "same_as": seen.get(digest),
            }
        )
        if now:
            seen[digest] = revision.version
        then = now
    return found


def _left_by(
    kb: KnowledgeBase, revisions: Sequence[Revision], characters: int | None
) -> list[tuple[Revision, Document | None]]:
    """The newest changes with what each left, oldest first; one at least, however long its text is."""
    found: list[tuple[Revision, Document | None]] = []
    size = 0
    for revision in reversed(revisions):
        now = kb.at(revision.version).get(revision.document_id)
        size += len(now.text) if now else 0
        if found and characters is not None and size > characters:
            break
        found.append((revision, now))
    return found[::-1]


def changed_fields(old: Document | None, new: Document | None) -> list[dict[str, Any]]:
    """What differs besides the text: name, old and new value, null where there is none."""
    if old is None or new is None:
        return []
    a, b = (_flat(document) for document in (old, new))
    return [
        {"name": name, "old": a.get(name), "new": b.get(name)}
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _flat(document: Document) -> dict[str, Any]:
    values = document_json(document)
    metadata = values.pop("metadata")
    del values["id"], values["text"]
    return {**values, **{f"metadata.{key}": value for key, value in metadata.items()}}
