"""An outside record, a mapping with any keys, to a `Document`; or to what is wrong with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date as Date
from datetime import datetime
from typing import Any

from realm.files import fingerprint
from realm.knowledge.table.schema import CORE, VECTOR
from realm.types import Document

KEYS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "_id", "doc_id"),
    "title": ("title",),
    "text": ("text", "contents", "body"),
    "source": ("source",),
    "date": ("date",),
    "lang": ("lang",),
    "url": ("url", "link"),
}
"""Where each part of a document is looked for, in this order."""

_OUTSIDE_UTF8 = re.compile("[\ud800-\udfff]")
_LONG = 1 << 63
_OWN = frozenset(name.lower() for name in CORE.names)


@dataclass(frozen=True)
class Record:
    """One record as a reader found it."""

    where: str
    """"file:line", or the row or entry where there are no lines."""
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one record. `str` gives "file:line: found X, expected Y"."""

    where: str
    kind: str
    """encoding, json, columns, type, missing, empty, duplicate, character, date, front matter, file"""
    found: str
    expected: str
    skips: bool = True
    """Whether the record is lost by it; a document with a date that can't be read is kept without one."""

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}, expected {self.expected}"


class Malformed(Exception):
    """Carries a `Problem` out of the depth of a record."""

    def __init__(self, kind: str, found: str, expected: str) -> None:
        super().__init__(kind, found, expected)
        self.kind, self.found, self.expected = kind, found, expected


def to_document(
    record: Record, keys: Mapping[str, str], defaults: Mapping[str, Any]
) -> tuple[Document | None, Problem | None]:
    """The document of a record, and what was wrong. No document means that the record can't be used.

    - `id`, `title`, `source`, `lang` and `url` are strings; a number is written as one. Without an id it is the
      fingerprint of title and text, so that a record keeps it wherever it stands.
    - `date` is read by `parse_date`; one that can't be read is kept as metadata under `date_text`.
    - Every other key becomes metadata, under the name that `column_name` gives it: strings, numbers and booleans as
      they are, a list of them joined with "; ", anything deeper as JSON, null and NaN left out. The keys of an object
      called `metadata` come first.
    - NUL and characters that UTF-8 can't hold make a record unusable: they mean a damaged or misread file.

    Args:
        keys: our name to the record's, before the names of `KEYS`.
        defaults: values for parts that the record does not have.
    """
    try:
        return _document(record, keys, defaults)
    except Malformed as error:
        return None, Problem(record.where, error.kind, error.found, error.expected)


def _document(record: Record, keys: Mapping[str, str], defaults: Mapping[str, Any]) -> tuple[Document, Problem | None]:
    rest = dict(record.fields)
    if isinstance(rest.get("metadata"), Mapping):
        nested = rest.pop("metadata")
        rest = {**rest, **{key: value for key, value in nested.items() if key not in rest}}
    parts = {name: _take(rest, name, keys, defaults) for name in KEYS}
    for name, value in defaults.items():
        if name not in KEYS:
            rest.setdefault(name, value)
    text = parts["text"]
    if text is None:
        wanted = keys.get("text") or "', '".join(KEYS["text"])
        raise Malformed("missing", f"no text among {_short(', '.join(map(str, record.fields)))}", f"a key '{wanted}'")
    if not isinstance(text, str):
        raise Malformed("type", f"{type(text).__name__} as text", "a string")
    if not text.strip():
        raise Malformed("empty", "an empty text", "text to read")
    title = _string(parts["title"], "title") or ""
    identity = _string(parts["id"], "id")
    problem = None
    date = parse_date(parts["date"])
    if date is None and parts["date"] not in (None, ""):
        problem = Problem(
            record.where,
            "date",
            f"date {_short(str(parts['date']))!r}",
            "YYYY-MM-DD, YYYY-MM, YYYY or a datetime",
            False,
        )
        rest["date_text"] = str(parts["date"])
    _refuse_unusable("text", text)
    return Document(
        id=identity or fingerprint(title, text),
        title=title,
        text=text,
        date=date,
        **{name: _string(parts[name], name) for name in ("source", "lang", "url")},
        metadata=_metadata(rest),
    ), problem


def _metadata(rest: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {}
    for key, value in rest.items():
        plain = _plain(str(key), value)
        if plain is None:
            continue
        name = column_name(str(key))
        while name in found:  # "a b" and "a-b"
            name += "_"
        found[name] = plain
    return found


def column_name(key: str) -> str:
    """A name that a predicate can use, for a key of an outside file: "First Name" is First_Name.

    What is no ASCII letter or digit becomes an underscore; where that loses letters of another script, six hexadecimal
    digits keep two keys apart. A name that the knowledge base has for itself gets an underscore behind it.
    """
    name = key
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        name = re.sub(r"[^A-Za-z0-9_]+", "_", key).strip("_")
        if not key.isascii():
            name = f"{name}_{fingerprint(key)[:6]}".lstrip("_")
    if not name[:1].isalpha() or name.lower().startswith(VECTOR):
        name = f"field_{name}"
    return f"{name}_" if name.lower() in _OWN else name


def parse_date(value: object) -> Date | None:
    """A date from an ISO 8601 date or datetime (the day as written, whatever the time zone), a month ("2024-05",
    its first day) or a year ("1994" or 1994, its first day); None for anything else."""
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, Date):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:04d}"
    if not isinstance(value, str):
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{4}", value):
        value += "-01-01"
    elif re.fullmatch(r"[0-9]{4}-[0-9]{2}", value):
        value += "-01"
    try:
        return datetime.fromisoformat(value).date()
    except ValueError:
        return None


def _take(rest: dict[str, Any], name: str, keys: Mapping[str, str], defaults: Mapping[str, Any]) -> Any:
    for key in (keys[name],) if name in keys else KEYS[name]:
        if key in rest:
            value = rest.pop(key)
            if value is not None and value != "":
                return value
            if name == "text" and value == "":
                return value  # empty is not missing
    return defaults.get(name)


def _string(value: Any, name: str) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, str):
        _refuse_unusable(name, value or "")
        return value or None
    raise Malformed("type", f"{type(value).__name__} as {name}", "a string")


def _plain(key: str, value: Any) -> str | int | float | bool | None:
    """What a knowledge base can filter by."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
        value = "; ".join(str(item) for item in value)
    elif isinstance(value, (datetime, Date)):
        value = value.isoformat()
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int) and not -_LONG <= value < _LONG:
        value = str(value)
    if isinstance(value, str):
        _refuse_unusable(key, value)
    plain: str | int | float | bool = value
    return plain


def _refuse_unusable(name: str, value: str) -> None:
    if "\0" in value:
        raise Malformed("character", f"a NUL character at position {value.index(chr(0))} of {name}", "text")
    if not value.isascii() and (half := _OUTSIDE_UTF8.search(value)):
        # 0xDC80 to 0xDCFF stand for bytes that could not be decoded, any other for half of a JSON escape pair.
        raw = 0xDC80 <= ord(half[0]) <= 0xDCFF
        found = "bytes that are not UTF-8" if raw else f"half a character (U+{ord(half[0]):04X})"
        raise Malformed("encoding", f"{found} at position {half.start()} of {name}", "UTF-8 text")


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
