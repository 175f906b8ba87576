"""Can two answers both be right? One within the other, the same number, or the same date: then nobody disagrees.

Numbers and months are read in digits and in English words; of other languages the words are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {
    **{word: float(value) for value, word in enumerate(_ONES.split())},
    **{word: 10.0 * value for value, word in enumerate(_TENS.split(), 2)},
}
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_SIGNS = {"percent": "%", "dollar": "$", "euro": "€", "pound": "£", "yen": "¥"}
_HEDGED = "about around approximately almost nearly roughly over under some circa more less than up to"
_HEDGES = frozenset(_HEDGED.split())
_MONTHS = "january february march april may june july august september october november december"
_MONTH = {form: number for number, name in enumerate(_MONTHS.split(), 1) for form in (name, name[:3])} | {"sept": 9}
_BETWEEN = frozenset(("the", "of", "on", "in"))
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_NO_COUNT = re.compile(r"[^\W\d_]\d|\d[^\W\d_]|\d\s?[-–/:]\s?\d")
"""B52, 1990s, 3rd, 5-3: the digits are a part of something else."""
_WORD = re.compile(r"[^\W\d_]+|[%$€£¥]")
_DIGIT = re.compile(r"\d")
_COUNTED = re.compile("|".join([r"\d", *_WORDS]))
"""Without this there is no number; most answers have none, and a question compares dozens of them."""
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")


class Quantity(NamedTuple):
    """A number and what is counted."""

    value: float
    unit: frozenset[str]


class Day(NamedTuple):
    """A date, as far as it is told."""

    year: int | None
    month: int | None
    day: int | None


def agree(first: str, second: str, normalize: Callable[[str], str]) -> bool:
    """Whether two answers can both be right: as dates, as numbers, else one within the other, word by word.

    A date that leaves out the day agrees with one that names it, a number without a unit with one that has it; but
    "5" and "5 million" are two numbers. normalize: of a text, words kept apart by spaces.
    """
    day, other_day = as_day(first), as_day(second)
    if day and other_day:
        return all(a is None or b is None or a == b for a, b in zip(day, other_day, strict=True))
    number, other = as_quantity(first), as_quantity(second)
    if number and other:
        same = abs(number.value - other.value) <= 1e-9 * max(abs(number.value), abs(other.value))
        return same and (number.unit <= other.unit or other.unit <= number.unit)
    short, long = sorted((normalize(first).split(), normalize(second).split()), key=len)
    return bool(short) and any(long[at : at + len(short)] == short for at in range(len(long) - len(short) + 1))


def as_quantity(text: str) -> Quantity | None:
    """A text with one number in it ("nearly $1.5 million", "twenty-five percent"), or None."""
    lowered = text.lower()
    if not _COUNTED.search(lowered):
        return None
    digits = _NUMBER.findall(lowered)
    words = _WORD.findall(_NUMBER.sub(" ", lowered))
    if len(digits) > 1 or _NO_COUNT.search(lowered) or not (digits or _WORDS.keys() & set(words)):
        return None
    total, current, unit = 0.0, float(digits[0].replace(",", "")) if digits else 0.0, set()
    for word in words:
        if word in _WORDS and not digits:
            current += _WORDS[word]
        elif word == "hundred":
            current = (current or 1.0) * 100
        elif word in _SCALES:
            total, current = total + (current or 1.0) * _SCALES[word], 0.0
        elif word not in _HEDGES and word != "and":
            singular = word.removesuffix("s")
            unit.add(_SIGNS.get(singular, singular))
    return Quantity(total + current, frozenset(unit))


def as_day(text: str) -> Day | None:
    """A text that is a date and nothing else (2008, May 2008, 12 May 2008, May 12th, 2008-05-12), or None."""
    if not _DIGIT.search(text):
        return None
    if found := _ISO.fullmatch(text.strip()):
        return Day(*map(int, found.groups()))
    words = [word for word in re.findall(r"\w+", text.lower()) if word not in _BETWEEN]
    months = [_MONTH[word] for word in words if word in _MONTH]
    numbers = [int(found[1]) for word in words if (found := re.fullmatch(r"(\d{1,4})(?:st|nd|rd|th)?", word))]
    years, days = [n for n in numbers if 1000 <= n <= 2999], [n for n in numbers if 1 <= n <= 31]
    if len(months) + len(years) + len(days) != len(words) or max(map(len, (months, years, days))) > 1:
        return None
    if not years and not (months and days):  # "May" may be anything, and so may "12"
        return None
    if (not months and days) or re.search(r"\d[,.]\d", text):
        return None
    return Day(years[0] if years else None, months[0] if months else None, days[0] if days else None)
