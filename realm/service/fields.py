"""The kinds of values that a request can hold: what is refused before anybody looks at its meaning."""

from __future__ import annotations

import math
from datetime import date as Date
from typing import Annotated, Any

from realm.knowledge.table.predicates import MAX_VALUES
from realm.service.framework import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

ID_CHARACTERS = 1024
"""Of the longest document id."""
WHERE_CHARACTERS = 100_000
METADATA_KEYS = 64


def _day(value: Any) -> Any:
    """Only text that is a day: a number would be taken for seconds since 1970."""
    if value is not None and not (isinstance(value, str) and len(value) == len("YYYY-MM-DD")):
        raise ValueError("expected a day as YYYY-MM-DD")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _unicode(value: str) -> str:
    """JSON can escape half a character, which nothing behind can hold."""
    if not value.isascii() and not value.isprintable():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("found half a character (a lone surrogate): expected whole ones") from None
    return value


def _whole(value: Any) -> Any:
    """5.0, which JSON does not tell from 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[StrictStr, AfterValidator(_unicode)]
Id = Annotated[Text, Field(min_length=1, max_length=ID_CHARACTERS)]
Day = Annotated[Date, BeforeValidator(_day)]
Scalar = Text | StrictBool | StrictInt | Annotated[StrictFloat, AfterValidator(_finite)]
Where = Annotated[Text, Field(max_length=WHERE_CHARACTERS)]
Ids = Annotated[list[Id], Field(max_length=MAX_VALUES)]
Count = Annotated[StrictInt, Field(ge=1), BeforeValidator(_whole)]
When = Count | Annotated[Text, Field(max_length=64)]
