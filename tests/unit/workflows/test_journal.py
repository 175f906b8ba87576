"""A file of lines that a stopped process goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from realm.errors import ArtefactError
from realm.workflows.journal import Journal


def test_a_torn_line_is_dropped_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "journal.jsonl"
    first = Journal(place)
    first.append({"a": 1})
    first.append({"b": "ü"})
    with place.open("ab") as stream:
        stream.write(b'{"c": 3')
    again = Journal(place)
    assert again.entries == first.entries == [{"a": 1}, {"b": "ü"}]
    again.append({"d": 4})
    assert Journal(place).entries == [{"a": 1}, {"b": "ü"}, {"d": 4}]
    place.write_bytes(b'{"a": 1}\nbroken\n{"d": 4}\n')
    with pytest.raises(ArtefactError, match=r"journal\.jsonl is damaged in line 2: remove it"):
        Journal(place)
