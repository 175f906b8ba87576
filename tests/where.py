"""What a predicate's tree means, row by row: the oracle of the store's answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from realm.knowledge.table import predicates as pr


def holds(tree: pr.Predicate, row: Mapping[str, Any]) -> bool | None:
    """True, false, or unknown (None): SQL's logic, written down once more."""
    match tree:
        case pr.Constant(value):
            return value
        case pr.Not(inner):
            found = holds(inner, row)
            return None if found is None else not found
        case pr.AllOf(parts):
            each = [holds(part, row) for part in parts]
            return False if False in each else None if None in each else True
        case pr.AnyOf(parts):
            each = [holds(part, row) for part in parts]
            return True if True in each else None if None in each else False
        case pr.Absent(column):
            return row[column] is None
        case _:
            value = row[tree.column]
            return None if value is None else satisfied(tree, value)


def satisfied(tree: Any, value: Any) -> bool:
    match tree:
        case pr.Holds():
            return bool(value)
        case pr.In(_, values):
            return value in values
        case pr.Between(_, low, high):
            return bool(low <= value <= high)
        case pr.Like(_, pattern, any_case):
            parts = re.findall(r"\\.|.", pattern, re.DOTALL)
            wild = {"%": ".*", "_": "."}
            regex = "".join(wild.get(p) or re.escape(p[-1]) for p in parts)
            return re.fullmatch(regex, value, re.DOTALL | (re.IGNORECASE if any_case else 0)) is not None
        case pr.Comparison(_, operator, other):
            return bool(
                {
                    "=": value == other,
                    "!=": value != other,
                    "<": value < other,
                    "<=": value <= other,
                    ">": value > other,
                    ">=": value >= other,
                }[operator]
            )
    raise AssertionError(tree)
