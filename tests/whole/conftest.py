"""A double of an object store, for the tests that ask for one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.core.object_store import Double, running


@pytest.fixture(scope="session")
def double() -> Iterator[Double]:
    """One server a process."""
    pytest.importorskip("moto.server", reason="the double of S3: pip install 'moto[s3]' flask flask-cors")
    with running() as found:
        yield found


@pytest.fixture
def bucket(double: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of a bucket of one's own."""
    for name, value in double.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    return double.make_bucket(f"b-{uuid.uuid4().hex[:12]}")
