"""What `where` may say: a small language that is parsed to a tree, checked against the columns and written as SQL anew.

::

    predicate = all (OR all)*                 all = one (AND one)*             one = NOT one | "(" predicate ")" | test
    test      = column ("=" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
              | column [NOT] IN "(" value ("," value)* ")"
              | column [NOT] BETWEEN value AND value
              | column [NOT] (LIKE | ILIKE) text         % is any characters, _ is one, a backslash takes their meaning
              | column IS [NOT] NULL
              | column | TRUE | FALSE                    a column of true and false
    value     = 'text' ('' is a quote) | 12 | -1.5e3 | TRUE | FALSE | DATE 'YYYY-MM-DD' | TIMESTAMP 'ISO 8601' | time
    time      = NOW() (("+" | "-") INTERVAL '1 year 6 months')*     years, months, weeks, days, hours, minutes
    column    = name | `name`                            capitals don't matter, nor in the words above

Nothing of what was written reaches the store: no functions, no comments, no columns but those that are told. As in SQL,
a comparison with an absent value is unknown, NOT of it too, and what is unknown is left out.
NOW() is the moment that `parse` is given; of a column of days it is the day of that moment in its own zone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import date as Date
from typing import Literal, NoReturn

from realm.errors import UsageError
from realm.knowledge.table.predicate_tokens import Token, WrongError, tokens
from realm.knowledge.table.predicate_values import DAYS, KINDS, TEXT, TRUTH, Kind, Value, day, moment, shifted, whole

MAX_DEPTH = 12
"""Of parentheses and NOTs within each other."""
MAX_TESTS = 200
MAX_VALUES = 10_000
"""In all lists together."""

Operator = Literal["=", "!=", "<", "<=", ">", ">="]


class PredicateError(UsageError):
    """What can't be asked of these columns."""


@dataclass(frozen=True, slots=True)
class Comparison:
    column: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """Both ends included."""

    column: str
    low: Value
    high: Value


@dataclass(frozen=True, slots=True)
class Like:
    column: str
    pattern: str
    any_case: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    column: str


@dataclass(frozen=True, slots=True)
class Holds:
    """A column of true and false by itself."""

    column: str


@dataclass(frozen=True, slots=True)
class Constant:
    value: bool


@dataclass(frozen=True, slots=True)
class Not:
    inner: Predicate


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Predicate, ...]


Predicate = Comparison | In | Between | Like | Absent | Holds | Constant | Not | AllOf | AnyOf


def parse(where: str, columns: Mapping[str, str], now: datetime | None = None) -> Predicate:
    """The tree of a predicate. columns: name to Arrow type, as `KnowledgeBase.columns` gives them.

    now: what NOW() means; the present where this machine is, when None. PredicateError, in one line that tells the
    columns, for anything else than the language above.
    """
    try:
        return _Parser(where, columns, now).parse()
    except WrongError as wrong:
        shown = where if len(where) <= 200 else where[:199] + "…"
        raise PredicateError(
            f"where={shown!r} is not a predicate here ({wrong}): the columns are {', '.join(columns)}"
        ) from None


# ---------------------------------------------------------------- writing SQL


def to_sql(predicate: Predicate) -> str:
    """The predicate as the store's SQL: names between backticks, every value written anew."""
    match predicate:
        case Comparison(column, operator, value):
            return f"`{column}` {operator} {_literal(value)}"
        case In(column, values):
            return f"`{column}` IN ({', '.join(map(_literal, values))})"
        case Between(column, low, high):
            return f"`{column}` BETWEEN {_literal(low)} AND {_literal(high)}"
        case Like(column, pattern, any_case):
            return f"`{column}` {'ILIKE' if any_case else 'LIKE'} {_literal(pattern)}"
        case Absent(column):
            return f"`{column}` IS NULL"
        case Holds(column):
            return f"`{column}`"
        case Constant(value):
            return "true" if value else "false"
        case Not(inner):
            return f"NOT ({to_sql(inner)})"
        case AllOf(parts):
            return " AND ".join(_within(part) for part in parts)
        case AnyOf(parts):
            return " OR ".join(_within(part) for part in parts)


def _within(part: Predicate) -> str:
    return f"({to_sql(part)})" if isinstance(part, AllOf | AnyOf) else to_sql(part)


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"timestamp '{value.astimezone(UTC).isoformat(timespec='microseconds').removesuffix('+00:00')}Z'"
    if isinstance(value, Date):
        return f"date '{value.isoformat()}'"
    return repr(value)


# ---------------------------------------------------------------- reading the language


class _Parser:
    def __init__(self, where: str, columns: Mapping[str, str], now: datetime | None) -> None:
        if not where.isascii() and re.search("[\ud800-\udfff]", where):
            raise WrongError("half a character, expected whole ones")
        self._tokens = list(tokens(where))
        self._at = 0
        self._depth = self._tests = self._values = 0
        self._columns, self._now = columns, now or datetime.now()
        self._folded = {name.lower(): name for name in columns}

    def parse(self) -> Predicate:
        found = self._any()
        if self._next.kind != "end":
            self._expected("AND, OR or the end")
        return found

    # ------------------------------------------------------------ structure

    def _any(self) -> Predicate:
        parts = [self._all()]
        while self._word("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Predicate:
        parts = [self._one()]
        while self._word("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self) -> Predicate:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise WrongError(f"more than {MAX_DEPTH} parentheses and NOTs within each other")
        if self._word("NOT"):
            found: Predicate = Not(self._one())
        elif self._sign("("):
            found = self._any()
            self._must(")")
        else:
            found = self._test()
        self._depth -= 1
        return found

    def _test(self) -> Predicate:
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise WrongError(f"more than {MAX_TESTS} tests; column IN (...) is one")
        for word in ("TRUE", "FALSE"):
            if self._word(word):
                return Constant(word == "TRUE")
        column = self._column()
        if self._word("IS"):
            negated = self._word("NOT")
            if not self._word("NULL"):
                self._expected("NULL")
            return _maybe_not(Absent(column), negated)
        negated = self._word("NOT")
        if self._word("IN"):
            return _maybe_not(In(column, self._list(column)), negated)
        if self._word("BETWEEN"):
            low = self._ordered(column)
            if not self._word("AND"):
                self._expected("AND")
            return _maybe_not(Between(column, low, self._ordered(column)), negated)
        for word in ("LIKE", "ILIKE"):
            if self._word(word):
                return _maybe_not(Like(column, self._pattern(column), word == "ILIKE"), negated)
        if negated:
            self._expected("IN, BETWEEN or LIKE")
        for sign in ("=", "!=", "<>", "<=", ">=", "<", ">"):
            if self._sign(sign):
                operator: Operator = "!=" if sign == "<>" else sign  # type: ignore[assignment]
                equal = operator in ("=", "!=")
                return Comparison(column, operator, self._value(column) if equal else self._ordered(column))
        if self._kind(column) is not TRUTH:
            self._expected(f"what {column} is compared with")
        return Holds(column)

    def _list(self, column: str) -> tuple[Value, ...]:
        self._must("(")
        values = [self._ordered(column)]
        while self._sign(","):
            values.append(self._ordered(column))
            if len(values) + self._values > MAX_VALUES:
                raise WrongError(f"more than {MAX_VALUES:,} values")
        self._must(")")
        self._values += len(values)
        return tuple(values)

    # ------------------------------------------------------------ columns and values

    def _column(self) -> str:
        token = self._next
        name = self._folded.get(token.text.lower()) if token.kind in ("name", "quoted") else None
        if name is None:
            self._expected("a column")
        self._at += 1
        return name

    def _kind(self, column: str) -> Kind:
        kind = KINDS.get(self._columns[column])
        if kind is None:
            raise WrongError(f"{column} can't be compared")
        return kind

    def _ordered(self, column: str) -> Value:
        if self._kind(column) is TRUTH:
            raise WrongError(f"{column} is true or false: expected = or !=")
        return self._value(column)

    def _pattern(self, column: str) -> str:
        if self._kind(column) is not TEXT:
            raise WrongError(f"{column} is no text: expected no LIKE")
        pattern = self._value(column)
        assert isinstance(pattern, str)
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise WrongError("a pattern that ends in a backslash, which takes the meaning of nothing")
        return pattern

    def _value(self, column: str) -> Value:
        kind, token = self._kind(column), self._next
        self._at += 1
        found: Value | None = None
        if token.kind == "text":
            found = token.text.replace("''", "'")
        elif token.kind == "number":
            found = float(token.text) if re.search("[.eE]", token.text) else whole(token.text)
        elif token.kind == "name" and token.text.upper() in ("TRUE", "FALSE"):
            found = token.text.upper() == "TRUE"
        elif token.kind == "name" and token.text.upper() in ("DATE", "TIMESTAMP") and self._next.kind == "text":
            read = day if token.text.upper() == "DATE" else moment
            found = read(self._next.text)
            self._at += 1
        elif token.kind == "name" and token.text.upper() == "NOW" and self._sign("("):
            found = self._moment(days=self._columns[column] == DAYS)
        if found is None:
            self._at -= 1
            hint = "; what is absent is found by IS NULL" if token.text.upper() == "NULL" else ""
            self._expected(f"{kind.words} for {column}{hint}")
        fitted = kind.fit(found)
        if fitted is None:
            raise WrongError(f"{str(found)[:40]!r} at character {token.at + 1}, expected {kind.words} for {column}")
        return fitted

    def _moment(self, *, days: bool) -> Value:
        """NOW( has been taken: the moment, or the day of it, that the rest means."""
        self._must(")")
        found = self._now.astimezone() if self._now.tzinfo is None else self._now
        while (later := self._sign("+")) or self._sign("-"):
            if not self._word("INTERVAL") or self._next.kind != "text":
                self._expected("INTERVAL '2 years'")
            moved = shifted(found, self._next.text, 1 if later else -1)
            if moved is None:
                self._expected("an interval as '2 years' or '1 year 6 months', to a time that a calendar has")
            found = moved
            self._at += 1
        return found.date() if days else found

    # ------------------------------------------------------------ tokens

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _word(self, word: str) -> bool:
        """Take a keyword, if it is next."""
        return self._take("name", word)

    def _sign(self, sign: str) -> bool:
        return self._take("sign", sign)

    def _take(self, kind: str, text: str) -> bool:
        there = self._next.kind == kind and self._next.text.upper() == text
        self._at += there
        return there

    def _must(self, sign: str) -> None:
        if not self._sign(sign):
            self._expected(f"{sign!r}")

    def _expected(self, what: str) -> NoReturn:
        token = self._next
        found = "the end" if token.kind == "end" else repr(token.text[:40])
        raise WrongError(f"found {found} at character {token.at + 1}, expected {what}")


def _maybe_not(predicate: Predicate, negated: bool) -> Predicate:
    return Not(predicate) if negated else predicate
