"""Laying an empty knowledge base: its table, the indexes of it, and what describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realm.errors import UsageError
from realm.knowledge.table import keys
from realm.knowledge.table import schema as sc
from realm.knowledge.table.places import Place
from realm.knowledge.table.store import FORMAT, FORMAT_VERSION, Store


def lay(place: Place, splitter: Mapping[str, Any] | None, text_search: Mapping[str, Any] | None) -> dict[str, Any]:
    """What describes the new one; see `KnowledgeBase.create`."""
    from lancedb.index import FTS

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
    with place.laying(config) as staged:
        Store.create(staged, sc.CORE)
        store = Store(staged)
        with store.errors("laid"):
            for column in ("text", "title"):
                store.table.create_index(column, config=text_index)
            keys.lay_indexes(store.table)
    return config
