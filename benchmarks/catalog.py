"""Which benchmarks there are: one line each.

A module with `run(bench, options)` is a suite (see `benchmarks.suites`): its contests become rows of a record. One that
has only `main()` is a script: it is started with the arguments that follow its name, and the record keeps what it
printed.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

SUITES = {
    "step": "benchmarks.suites.step",
    "embed": "benchmarks.suites.embed",
    "search": "benchmarks.suites.search",
    "ondisk": "benchmarks.suites.ondisk",
    "bm25": "benchmarks.suites.bm25",
    "ask": "benchmarks.suites.ask",
    "ingest": "benchmarks.suites.ingest",
    "memory": "benchmarks.suites.memory",
    "refresh": "benchmarks.suites.refresh",
    "estimate": "benchmarks.suites.estimate",
    "serve": "benchmarks.bench_serve",
    "edits": "benchmarks.bench_edits",
    "filters": "benchmarks.bench_filters",
    "precision": "benchmarks.bench_precision",
    "objects": "benchmarks.bench_objects",
    "together": "benchmarks.bench_together",
    "cluster": "benchmarks.cluster_scaling",
}
"""Name to module."""


def open_suite(name: str) -> ModuleType:
    """KeyError: no such suite."""
    return importlib.import_module(SUITES[name])


def about(module: str) -> str:
    """The first sentence of a module's docstring, without importing what it needs."""
    import ast
    from pathlib import Path

    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")
