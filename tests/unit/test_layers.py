"""Imports point one way: a module may import what stands on a lower tier, and its own room.

Read from the syntax tree, so that imports inside functions and under TYPE_CHECKING count, too.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

TIERS = (
    ("errors",),
    ("addresses",),
    ("files", "settings"),
    ("types", "config"),
    ("settings_finetune", "settings_corpus"),
    ("knowledge", "search", "models", "objectives"),
    ("objectives_qa",),
    ("methods", "training", "evaluation"),
    ("answering",),
    ("recipes",),
    ("workflows",),
    ("console",),
    ("service", "adapters"),
    ("commands",),
    ("cli",),
)
"""Lowest first. Rooms of one tier do not know each other."""

OPTIONAL = (
    "datasets",
    "faiss",
    "fastapi",
    "haystack",
    "ir_measures",
    "langchain_core",
    "llama_index",
    "mcp",
    "prometheus_client",
    "pydantic",
    "ray",
    "tensorboard",
    "uvicorn",
)
SOLD_AS = {"haystack": "haystack-ai", "llama_index": "llama-index-core"}
"""Libraries that no test needs, and whose package has another name than their modules."""
TENSORS_ONLY = {"__future__", "collections", "math", "typing", "torch"}


def imported(tree: ast.AST, home: dict[str, str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; `home` says where the names that `realm` itself offers come from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                if module == "realm":
                    yield node.lineno, home.get(alias.name, f"realm.{alias.name}")
                else:
                    yield node.lineno, module
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def sources(package: Path) -> Iterator[tuple[str, str, ast.AST]]:
    """(path, room, tree) of every module but the package's own front page, which only names things."""
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if inside.name != "__init__.py" or len(inside.parts) > 1:
            yield str(inside), inside.parts[0].removesuffix(".py"), parsed(path.read_text(encoding="utf-8"))


parsed = lru_cache(maxsize=None)(ast.parse)
"""Of each text one tree, which nobody changes."""


def front_page(package: Path) -> dict[str, str]:
    """The names that `realm` loads lazily, and the modules they come from."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOME":
            return dict(ast.literal_eval(node.value))
    return {}


def violations(package: Path) -> list[str]:
    tier = {room: height for height, rooms in enumerate(TIERS) for room in rooms}
    home = front_page(package)
    found = []
    for path, room, tree in sources(package):
        if room not in tier:
            found.append(f"{path}: {room!r} stands on no tier; add it to TIERS")
            continue
        for line, module in imported(tree, home):
            if module.startswith("."):
                found.append(f"{path}:{line}: relative import {module!r}; write realm...")
            if not module.startswith("realm.") or module == "realm.__version__":
                continue
            other = module.split(".")[1]
            if other not in tier:
                found.append(f"{path}:{line}: imports {module}, which stands on no tier")
            elif other != room and tier[other] >= tier[room]:
                found.append(f"{path}:{line}: {room} imports {other}, which does not stand below it")
    return found


def circle(package: Path) -> list[str]:
    """Modules each of which is imported by the next, the last one by the first; none where there are no such."""
    home = front_page(package)
    imports: dict[str, set[str]] = {}
    for path, _, tree in sources(package):
        module = f"realm.{path.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        parts = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        imports[module] = {found for _, found in imported(tree, home)} | parts
    graph = {module: (found & imports.keys()) - {module} for module, found in imports.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "__init__.py").write_text('_HOME = {"KnowledgeBase": "realm.knowledge.base"}\n')
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "good.py").write_text(
        "from realm import __version__\nfrom realm.types import Hits\nfrom realm.models import __init__\nimport torch\n"
    )
    return tmp_path


def test_realm_points_one_way(repository: Path) -> None:
    assert violations(repository / "realm") == []


def test_no_modules_import_each_other(repository: Path) -> None:
    assert circle(repository / "realm") == []


def test_the_checker_finds_a_planted_circle(package: Path) -> None:
    (package / "models" / "one.py").write_text("def f():\n    from realm.models import other")
    assert circle(package) == []
    (package / "models" / "other.py").write_text("if TYPE_CHECKING:\n    from realm.models.one import f")
    assert {"realm.models.one", "realm.models.other"} == set(circle(package))


def test_the_checker_finds_a_circle_through_the_front_page(package: Path) -> None:
    (package / "knowledge").mkdir()
    (package / "knowledge" / "base.py").write_text("from realm.knowledge.table import rows")
    (package / "knowledge" / "table.py").write_text("def rows():\n    from realm import KnowledgeBase")
    assert {"realm.knowledge.base", "realm.knowledge.table"} == set(circle(package))


def test_the_checker_lets_downward_imports_pass(package: Path) -> None:
    assert violations(package) == []


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("from realm.methods.realm import X", "models imports methods"),
        ("import realm.search.exact", "models imports search"),
        ("def f():\n    from realm.knowledge import base", "models imports knowledge"),
        ("if TYPE_CHECKING:\n    from realm.training import loop", "models imports training"),
        ("from realm import cli", "models imports cli"),
        ("from realm import KnowledgeBase", "models imports knowledge"),
        ("import importlib\nimportlib.import_module('realm.workflows.run')", "models imports workflows"),
        ("from ..search import exact", "relative import"),
        ("from realm.cellar import wine", "no tier"),
    ],
)
def test_the_checker_finds_a_planted_violation(package: Path, code: str, complaint: str) -> None:
    (package / "models" / "bad.py").write_text(code)
    (found,) = violations(package)
    assert found.startswith("models/bad.py:") and complaint in found


def test_the_checker_finds_a_room_without_a_place(package: Path) -> None:
    (package / "cellar.py").write_text("")
    assert violations(package) == ["cellar.py: 'cellar' stands on no tier; add it to TIERS"]


def test_objectives_see_only_tensors(repository: Path) -> None:
    paths = [p for p in (repository / "realm").rglob("*.py") if "objectives" in p.relative_to(repository).as_posix()]
    assert paths
    for path in paths:
        found = {module for _, module in imported(ast.parse(path.read_text(encoding="utf-8")), {})}
        roots = {module.split(".")[0] for module in found - {"realm.objectives"}}
        assert roots <= TENSORS_ONLY, path


def test_every_library_is_declared(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [need for name, needs in project["optional-dependencies"].items() if name != "dev" for need in needs]
    declared = {re.split(r"[<>=\[;]", need)[0].strip().lower() for need in [*project["dependencies"], *extras]}
    used = {m.split(".")[0] for _, _, tree in sources(repository / "realm") for _, m in imported(runtime(tree), {})}
    provides = packages_distributions()
    undeclared = {
        library
        for library in used - set(sys.stdlib_module_names) - {"realm", ""}
        for packages in [provides.get(library, [SOLD_AS.get(library, library)])]
        if not {re.sub(r"[-_.]+", "-", package).lower() for package in packages} & declared
    }
    assert undeclared == set()


def runtime(tree: ast.AST) -> ast.AST:
    """The tree without its TYPE_CHECKING blocks, which only the type checker enters."""
    kept = [node for node in getattr(tree, "body", []) if not _only_types(node)]
    return ast.Module(body=kept, type_ignores=[])


def _only_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def test_an_optional_library_is_imported_in_one_file(repository: Path) -> None:
    where = defaultdict(set)
    for path, _, tree in sources(repository / "realm"):
        for _, module in imported(tree, {}):
            root = "tensorboard" if module == "torch.utils.tensorboard" else module.split(".")[0]
            if root in OPTIONAL:
                where[root].add(path)
    assert {library: paths for library, paths in where.items() if len(paths) > 1} == {}
