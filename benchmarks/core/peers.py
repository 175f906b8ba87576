"""The packages that realm is measured beside. One that is not installed is named, with the command that brings it."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

PEERS = {
    "faiss": "faiss-cpu",
    "usearch.index": "usearch",
    "scann": "scann",
    "sentence_transformers": "sentence-transformers",
    "bm25s": "bm25s",
    "lancedb": "lancedb",
}
"""Module to distribution."""


def open_peer(module: str) -> tuple[Any | None, str]:
    """The module and "", or None and why it isn't there."""
    try:
        return importlib.import_module(module), ""
    except ImportError as error:
        package = PEERS[module]
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None, f"not installed: pip install {package}"
        return None, f"{package} is installed and can't be imported: {error}"
