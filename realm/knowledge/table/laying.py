"""Laying an empty knowledge base: its table, the indexes of it, and kb.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm.errors import KnowledgeBaseError, UsageError
from realm.files import staged_folder, write_json
from realm.knowledge.table import keys
from realm.knowledge.table import schema as sc
from realm.knowledge.table.store import CONFIG, FORMAT, FORMAT_VERSION, Store


def lay(path: Path, splitter: Mapping[str, Any] | None, text_search: Mapping[str, Any] | None) -> dict[str, Any]:
    """What kb.json says of the new one; see `KnowledgeBase.create`."""
    from lancedb.index import FTS

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise KnowledgeBaseError(f"{path} is there already and not empty: open it, or give another path")
    try:
        text_index = FTS(**{"with_position": False, **(text_search or {})})
    except TypeError as error:
        raise UsageError(f"text_search={text_search}: {error}; the settings are lancedb.index.FTS's") from error
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "splitter": dict(splitter or {}),
        "text_search": dict(text_search or {}),
    }
    with staged_folder(path) as staged:
        Store.create(staged, sc.CORE)
        table = Store(staged).table
        for column in ("text", "title"):
            table.create_index(column, config=text_index)
        keys.lay_indexes(table)
        write_json(staged / CONFIG, config)
    return config
