"""The help names the verbs as a user meets them, each with a line that is whole."""

from __future__ import annotations

import re

import pytest
from story import realm

from realm.cli import ORDER, app


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as any."""
    monkeypatch.setenv("COLUMNS", "80")


def listed(*path: str) -> dict[str, str]:
    """Verbs and what the help says of them, in its order."""
    told = realm(*path, "--help")
    assert told.code == 0
    lines = told.out.partition("Commands:\n")[2].splitlines()
    return dict(re.fullmatch(r"  (\S+) +(\S.*)", line).groups() for line in lines if line)  # type: ignore[union-attr]


def test_verbs_come_in_the_order_of_their_use() -> None:
    found = list(listed())
    assert found == [name for name in ORDER if name in found], "a verb that ORDER doesn't name"
    assert len(found) == len(app.registered_commands) + len(app.registered_groups)
    assert found.index("ingest") == 0 and found.index("finetune") < found.index("ask") < found.index("evaluate")


@pytest.mark.parametrize("path", [(), ("docs",)])
def test_no_first_line_is_cut(path: tuple[str, ...]) -> None:
    for verb, line in listed(*path).items():
        assert line.endswith((".", "?")) and not line.endswith("...") and "et al" not in line, f"{verb}: {line}"
