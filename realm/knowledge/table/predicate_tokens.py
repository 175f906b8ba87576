"""The words and signs of a predicate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class WrongError(Exception):
    """Why it is no predicate; told in one line by `predicates.parse`."""


class Token(NamedTuple):
    kind: str
    """name, quoted, text, number, sign, end"""
    text: str
    at: int


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | `(?P<quoted>[^`]+)`
      | '(?P<text>(?:[^']|'')*)'
      | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![A-Za-z0-9_.])
      | (?P<sign><=|>=|!=|<>|[=<>(),+-])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.ASCII,
)


def tokens(where: str) -> Iterator[Token]:
    """The tokens of a predicate, an "end" last. WrongError where one can't be read."""
    at = 0
    while True:
        found = _TOKEN.match(where, at)
        if found is None or found.lastgroup is None:
            rest = where[at:].lstrip()
            what = "a quote that does not end" if rest[:1] in "'`" else f"{rest[:12]!r}"
            if rest[:1] == '"':
                what = "a double quote, expected \"it\" as 'it'"
            raise WrongError(f"{what} at character {len(where) - len(rest) + 1}")
        yield Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
        if found.lastgroup == "end":
            return
        at = found.end()


def names_now(where: str) -> bool:
    """Whether a predicate speaks of NOW()."""
    try:
        return any(token.kind == "name" and token.text.upper() == "NOW" for token in tokens(where))
    except WrongError:
        return False
