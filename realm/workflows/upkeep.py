"""Looking after a knowledge base by hand."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from realm.errors import UsageError
from realm.workflows.store import open_knowledge_base

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_period(text: str) -> timedelta:
    """90d, 12h, 30m or 4w; UsageError when it is none."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text.strip())
    if found is None:
        raise UsageError(f"found {text!r}: expected a number of minutes, hours, days or weeks, as 30m, 12h, 90d or 4w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def compact(kb_path: Path, *, older_than: timedelta | None, keep_versions: int | None) -> dict[str, Any]:
    """Compact, and let old versions go where that is told; see `KnowledgeBase.compact` and `Upkeep.reclaim`."""
    kb = open_knowledge_base(kb_path)
    kb.compact()
    told: dict[str, Any] = {"versions_removed": 0, "bytes_freed": 0}
    if older_than is not None or keep_versions is not None:
        gone = kb.upkeep.reclaim(older_than, keep_versions)
        told = {"versions_removed": gone.versions, "bytes_freed": gone.bytes}
    return {"version": kb.version, **told}
