"""The front page: names load when they are used, `import realm` and `realm --help` cost next to nothing."""

from __future__ import annotations

import importlib
import importlib.util
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import realm

HEAVY = ("torch", "transformers", "numpy", "lancedb", "pyarrow", "spacy", "bm25s")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=True)


def cpu_seconds(*arguments: str) -> float:
    """CPU time of a fresh process: what a busy machine can't change much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded(code: str) -> set[str]:
    """The heavy libraries in a fresh process after `code`."""
    return set(run("-c", f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])").stdout.split())


def test_import_realm_loads_no_heavy_library() -> None:
    assert loaded("import realm; realm.__version__; dir(realm)") == set()


def test_configuration_loads_no_heavy_library() -> None:
    assert loaded("from realm.config import PretrainConfig; PretrainConfig()") == set()


@pytest.mark.parametrize("name", [name for name in realm.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(realm, name) is getattr(importlib.import_module(realm._HOME[name]), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = realm.Nothing


def test_the_version_is_the_one_of_the_changelog(repository: Path) -> None:
    newest = re.search(r"^## (\S+)", (repository / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and newest[1] == realm.__version__


def test_constraints_pin_every_dependency_that_tests_need(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted += project["optional-dependencies"]["spacy-en"]
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.partition("==")[0]) for line in lines if "==" in line}
    assert {canonical(re.split(r"[<>=\[;]", need)[0]) for need in wanted} <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


@pytest.mark.skipif(importlib.util.find_spec("realm.cli") is None, reason="no command line yet")
def test_help_costs_little_more_than_the_library_it_is_made_with() -> None:
    assert "Usage" in run("-m", "realm.cli", "--help").stdout
    assert loaded("from realm import cli") == set()
    # The best of three is what the machine can do; a neighbour only makes a run slower.
    typer = min(cpu_seconds("-c", "import typer, rich.console, rich.table, rich.panel") for _ in range(3))
    assert min(cpu_seconds("-m", "realm.cli", "--help") for _ in range(3)) < 3 * typer
