"""Which documents of a batch go into one table: the others are told, and nothing odd chooses a column's type."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import DataError
from realm.knowledge.table.columns import fitting, new_columns
from realm.knowledge.table.schema import CORE
from realm.types import Document


def documents(*metadata: dict[str, Any]) -> list[Document]:
    return [Document(str(n), "", "x.", metadata=fields) for n, fields in enumerate(metadata)]


def left_out(schema: pa.Schema, *metadata: dict[str, Any]) -> dict[str, str]:
    """Ids of the documents that don't fit, and what was expected of them."""
    kept, misfits = fitting(documents(*metadata), schema)
    assert len(kept) + len(misfits) == len(metadata)
    new_columns(kept, schema)  # these do
    return {document.id: f"found {misfit.found}, expected {misfit.expected}" for document, misfit in misfits}


def test_the_type_that_most_have_is_the_column_s() -> None:
    years = [{"year": 1900 + n} for n in range(5)]
    told = left_out(CORE, {"year": "unknown"}, *years, {"year": True}, {"year": "about 1900"})
    assert list(told) == ["0", "6", "7"]
    assert told["0"] == (
        "found metadata 'year' that is 'unknown' (string), "
        "expected one type in every document, and the column holds int64"
    )
    assert list(left_out(CORE, {"year": "1900"}, {"year": "1901"}, {"year": 1902})) == ["2"]


def test_a_column_that_is_there_keeps_its_type_and_numbers_go_together() -> None:
    there = CORE.append(pa.field("n", pa.int64()))
    assert list(left_out(there, {"n": "1"}, {"n": "2"}, {"n": 3}, {"n": 0.5})) == ["0", "1", "3"]
    assert left_out(CORE, {"n": 1}, {"n": 0.5}, {"m": "x"}, {}) == {}
    assert list(left_out(CORE, {"n": 1}, {"n": 0.5}, {"n": "x"}, {"n": "y"}, {"n": 2})) == ["2", "3"]
    assert list(left_out(CORE.append(pa.field("n", pa.float64())), {"n": 1}, {"n": True})) == ["1"]


def test_names_that_can_be_no_column() -> None:
    told = left_out(
        CORE, {"Year": 1}, {"year": 2}, {"year": 3}, {"two words": 1}, {"vector_x": 1}, {"TEXT": 1}, {"l": []}
    )
    assert list(told) == ["0", "3", "4", "5", "6"]
    for id_, words in (("0", "names the same column as 'year'"), ("3", "can't name a column"), ("6", "is a list")):
        assert words in told[id_]


VALUES = st.one_of(st.integers(-9, 9), st.floats(-1, 1), st.booleans(), st.text(max_size=3), st.just([]))


@given(st.lists(st.dictionaries(st.sampled_from(["a", "A", "b", "text", "c d"]), VALUES, max_size=3), max_size=8))
def test_what_is_kept_fits_and_what_fits_together_is_kept(metadata: list[dict[str, Any]]) -> None:
    told = left_out(CORE, *metadata)
    try:
        new_columns(documents(*metadata), CORE)
    except DataError:
        assert told
    else:
        assert not told
    assert all(fields for n, fields in enumerate(metadata) if str(n) in told), "nothing is wrong without metadata"


def test_whole_numbers_and_fractions_of_one_commit_are_one_column() -> None:
    (field,) = new_columns(documents({"n": 1}, {"n": 0.5}, {"n": 2}), CORE)
    assert field.type == pa.float64()
    with pytest.raises(DataError, match="document '1': found metadata 'n' that is 'x'"):
        new_columns(documents({"n": 1}, {"n": "x"}), CORE)
