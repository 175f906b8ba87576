"""Edits that hold only while nobody else has changed the document (RFC 9110, section 13.1.1).

A document's ETag is the version of the knowledge base that its last change made, which is what `If-Match` gives back.
It names the document and not the bytes of an answer, which tells the present version of everything beside it.
"""

from __future__ import annotations

import re

from realm.errors import ChangedError

_TAG = re.compile(r'\s*"([0-9]{1,18})"\s*')


def etag(version: int) -> dict[str, str]:
    """The header that a document of this last change is given with."""
    return {"ETag": f'"{version}"'}


def expected_version(if_match: str | None) -> int | None:
    """The version that `If-Match` names; None where it names none, or any by ``*``.

    ChangedError for anything else: no document has such a tag, so none of them may be touched.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    found = _TAG.fullmatch(if_match)
    if found is None:
        raise ChangedError(f'found If-Match: {if_match[:80]}: expected one ETag as GET of the document gave it, as "7"')
    return int(found[1])
