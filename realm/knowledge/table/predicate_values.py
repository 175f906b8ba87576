"""The kinds of columns that a predicate can name, and the values that each is compared with."""

from __future__ import annotations

import math
import re
from calendar import monthrange
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from datetime import date as Date
from typing import NamedTuple

Value = str | int | float | bool | Date | datetime


class Kind(NamedTuple):
    """What a column holds."""

    words: str
    """Of an error: what a value should have been."""
    fit: Callable[[Value], Value | None]
    """The value as this kind holds it; None where it is of another."""


def _whole_within(bits: int) -> Callable[[Value], Value | None]:
    most = 2 ** (bits - 1) - 1

    def fit(value: Value) -> Value | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if type(value) is int and -most <= value <= most else None

    return fit


def _as_number(value: Value) -> Value | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _as_day(value: Value) -> Value | None:
    if isinstance(value, str):
        return day(value)
    return value if isinstance(value, Date) and not isinstance(value, datetime) else None


def _as_moment(value: Value) -> Value | None:
    if isinstance(value, Date) and not isinstance(value, datetime):
        value = value.isoformat()
    return moment(value) if isinstance(value, str) else value if isinstance(value, datetime) else None


def whole(text: str) -> int | None:
    """Digits with a sign as a number; None where they are too many."""
    return int(text) if len(text) <= 40 else None  # longer ones fit nowhere


def day(text: str) -> Date | None:
    """YYYY-MM-DD as a day; None where it is none."""
    try:
        return Date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


def moment(text: str) -> datetime | None:
    """ISO 8601 as a time, without a zone local, as in `as_of`; None where it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_UNITS: Mapping[str, int | timedelta] = {
    "year": 12,  # months
    "month": 1,
    "week": timedelta(weeks=1),
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
}
_PART = r"([0-9]{1,6})\s+(year|month|week|day|hour|minute)s?"


def shifted(time: datetime, interval: str, sign: int) -> datetime | None:
    """A time an interval later (sign 1) or earlier (-1); None where it is no interval, or the calendar ends before.

    Months go by the calendar: a day that the month reached does not have is its last one, as in PostgreSQL.
    """
    if not re.fullmatch(rf"\s*{_PART}(\s+{_PART})*\s*", interval, re.IGNORECASE | re.ASCII):
        return None
    months, rest = 0, timedelta()
    for count, unit in re.findall(_PART, interval, re.IGNORECASE | re.ASCII):
        length = _UNITS[unit.lower()]
        if isinstance(length, int):
            months += sign * int(count) * length
        else:
            rest += sign * int(count) * length
    year, month = divmod(12 * time.year + time.month - 1 + months, 12)
    try:
        last = monthrange(year, month + 1)[1]
        return time.replace(year=year, month=month + 1, day=min(time.day, last)) + rest
    except (ValueError, OverflowError):
        return None


TEXT = Kind("'text'", lambda value: value if isinstance(value, str) else None)
TRUTH = Kind("true or false", lambda value: value if isinstance(value, bool) else None)
DAYS = "date32[day]"
KINDS: Mapping[str, Kind] = {
    "string": TEXT,
    "bool": TRUTH,
    "int32": Kind("a whole number of 32 bits", _whole_within(32)),
    "int64": Kind("a whole number of 64 bits", _whole_within(64)),
    "double": Kind("a number", _as_number),
    DAYS: Kind("a day as '2024-05-01'", _as_day),
    "timestamp[us, tz=UTC]": Kind("a time as '2024-05-01T09:30+02:00'", _as_moment),
}
"""By Arrow type."""
