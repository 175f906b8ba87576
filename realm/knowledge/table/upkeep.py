"""Looking after a knowledge base that is in use: when small files are folded, and what of the past is let go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from realm.knowledge.table import housekeeping
from realm.knowledge.table.housekeeping import Reclaimed
from realm.knowledge.table.writing import Writer


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Of the knowledge base that `writer` writes to."""

    writer: Writer

    def leave_to_tidy(self) -> None:
        """Let edits leave housekeeping to `tidy`, so that none of them waits for it."""
        self.writer.tidies = False

    def tidy(self) -> bool:
        """Fold small files and bring the indexes up to date, where that is worth its time and nobody writes now;
        whether anything was done. Readers go on meanwhile, writers wait for it."""
        return self.writer.tidy()

    def reclaim(self, older_than: timedelta | None = None, keep_versions: int | None = None) -> Reclaimed:
        """Let old versions go, and their files; see `housekeeping.reclaim`. What they held can't be had again."""
        store = self.writer.store
        with store.writing(self.writer.timeout) as table, store.errors("compacted"):
            return housekeeping.reclaim(table, store.place, older_than, keep_versions)
