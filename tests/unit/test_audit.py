"""The audit of dependencies: red for what is known, never red for what can't be asked."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CLEAN: dict[str, Any] = {"name": "jinja2", "version": "3.1.6", "vulns": []}
HURT: dict[str, Any] = {
    "name": "a",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}, {"id": "B", "fix_versions": []}],
}
UNKNOWN: dict[str, Any] = {"name": "b", "skip_reason": "not found"}


@pytest.fixture(scope="module")
def audit(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", repository / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tool(tmp_path: Path, body: str) -> list[str]:
    """A program that takes pip-audit's place and writes down what it was asked."""
    (tmp_path / "tool.py").write_text(
        "import pathlib, sys\n"
        "pins = pathlib.Path(sys.argv[sys.argv.index('--requirement') + 1]).read_text()\n"
        f"pathlib.Path({str(tmp_path / 'asked')!r}).open('a').write(pins)\n{body}\n"
    )
    return [sys.executable, str(tmp_path / "tool.py")]


def gives(*found: dict[str, Any], code: int = 0) -> str:
    return f"print({json.dumps({'dependencies': found})!r}); sys.exit({code})"


def test_what_is_pinned_is_what_is_asked_for(audit: ModuleType, repository: Path) -> None:
    assert audit.pins("# a comment\na==1.0\n\ntorch==2.11.0+cpu\nb==2\n") == ["a==1.0", "torch==2.11.0", "b==2"]
    lines = audit.pins(audit.PINS.read_text(encoding="utf-8"))
    assert len(lines) > 100 and any(line.lower().startswith("jinja2==") for line in lines)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (gives(CLEAN), 0, "audit: 1 packages, no known vulnerability"),
        (gives(CLEAN, UNKNOWN), 0, "no known vulnerability; unknown to it: b"),
        (gives(CLEAN, HURT, code=1), 1, "a 1.0: PYSEC-1, mended in 1.1\na 1.0: B, mended in no version yet"),
        (gives(HURT, UNKNOWN, code=1), 1, "raise these versions in constraints.txt"),
        (gives(UNKNOWN), 0, "audit: skipped: the database knows none"),
        ("sys.exit('requests.exceptions.ConnectionError: no route')", 0, "audit: skipped: requests.exceptions"),
        ("print('not json'); sys.exit(1)", 0, "audit: skipped: no answer"),
        ("print('[]')", 0, "audit: skipped: "),
    ],
)
def test_the_verdict(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, code: int, words: str
) -> None:
    assert audit.main(tool(tmp_path, body)) == code
    out = capsys.readouterr().out
    assert words in out and "Traceback" not in out
    asked = (tmp_path / "asked").read_text().splitlines()
    if "skipped" in out:
        assert len(asked) == 1, "where one is not answered, no other is asked for"
    else:
        assert len(asked) > 100


def test_a_tool_that_is_not_there(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([str(tmp_path / "nothing")]) == 0
    assert capsys.readouterr().out == "audit: skipped: the tool can't be started\n"
