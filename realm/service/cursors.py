"""Where a list goes on: the version of its first page, the place in it, and what NOW() meant there."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from realm.errors import UsageError
from realm.knowledge.base import Page
from realm.knowledge.table.times import AsOf

PATTERN = r"([0-9]{1,18})\.([0-9]{1,18})(?:\.([0-9]{1,17})\.([0-9]{1,4}))?"
"""VERSION.POSITION, and where the predicate has NOW() its microseconds since 1970 and its zone in minutes from 1 on."""
_CURSOR = re.compile(PATTERN)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UTC = 1440
"""The minutes of Greenwich: a cursor has no signs, which addresses would have to escape."""


class Cursor(NamedTuple):
    """Where a page begins."""

    version: AsOf | None
    after: int | None
    now: datetime | None
    """None where the first page looks at the clock."""


def read_cursor(text: str | None, as_of: AsOf | None) -> Cursor:
    """UsageError for one that no page gave, or of another version. text: None of the first page. as_of: the list's."""
    if text is None:
        return Cursor(as_of, None, None)
    found = _CURSOR.fullmatch(text)
    if found is None or (isinstance(as_of, int) and as_of != int(found[1])):
        raise _wrong()
    now = None
    if found[3] is not None:
        try:
            zone = timezone(timedelta(minutes=int(found[4]) - _UTC))
            now = (_EPOCH + timedelta(microseconds=int(found[3]))).astimezone(zone)
        except (ValueError, OverflowError):
            raise _wrong() from None
    return Cursor(int(found[1]), int(found[2]), now)


def next_cursor(page: Page, now: datetime | None) -> str | None:
    """Of the page after this one; None where it is the last."""
    if page.next is None:
        return None
    told = f"{page.version}.{page.next}"
    if now is None:
        return told
    zone = round((now.utcoffset() or timedelta(0)) / timedelta(minutes=1)) + _UTC
    return f"{told}.{(now - _EPOCH) // timedelta(microseconds=1)}.{zone}"


def _wrong() -> UsageError:
    return UsageError("found a cursor that no page gave, or of another version: expected one as it was given")
