"""Addresses of object stores: one spelling, no secrets, and never taken for a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import error

from realm.addresses import address_of, address_or_path
from realm.errors import UsageError
from realm.files import check_folder


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("s3://bucket/kb", "s3://bucket/kb"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://my.bucket-1", "s3://my.bucket-1"),
        ("gs://bucket//kb", "gs://bucket/kb"),
        ("az://container/kb", "az://container/kb"),
        ("s3://bucket/지식-기반", "s3://bucket/지식-기반"),
    ],
)
def test_an_address_has_one_spelling_also_as_a_path(given: str, address: str) -> None:
    assert address_of(given) == address_of(Path(given)) == address_of(address) == address
    assert address_or_path(Path(given)) == address


@pytest.mark.parametrize("place", ["kb", "/data/kb", "./s3/kb", "s3", "C:/kb", "http://host/kb", "file:///kb", ""])
def test_a_place_of_this_machine_is_no_address(place: str) -> None:
    assert address_of(place) is None
    assert address_or_path(place) == str(Path(place).absolute())


@pytest.mark.parametrize(
    "given",
    ["s3://AKIA:hushhush@bucket/kb", "s3://bucket/kb?secret=hushhush", "gs://bucket/kb#hushhush", "s3://", "s3:///"],
)
def test_what_is_more_than_an_address_is_refused_and_not_repeated(given: str) -> None:
    for place in (given, Path(given)):
        with pytest.raises(UsageError, match=r"expected (s3|gs)://bucket/path") as refused:
            address_of(place)
        assert "hushhush" not in str(refused.value)


def test_nothing_but_a_knowledge_base_lies_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="found s3://bucket/run: expected a folder"):
        check_folder(Path("s3://bucket/run"))
    code, line = error("pretrain", "--kb", "kb", "--out", "s3://bucket/run")
    assert code == 2 and "only a knowledge base" in line
    code, line = error("docs", "list", "--kb", "s3://me:hushhush@bucket/kb")
    assert code == 2 and "environment" in line and "hushhush" not in line
    assert [*tmp_path.iterdir()] == []
