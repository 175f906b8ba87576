"""The documents of a knowledge base that are kept in step with one source: read, written and deleted as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from realm.knowledge.table import origins
from realm.knowledge.table.columns import Misfit, fitting
from realm.knowledge.table.origins import Held, Origin
from realm.knowledge.table.store import Store
from realm.knowledge.table.vectors import PassageEncoder
from realm.knowledge.table.writing import Counts, Writer, read_headers
from realm.types import Document


@dataclass(frozen=True, slots=True)
class SourceDocuments:
    """See `origins` for what makes a document one of them, and what an edit by hand does."""

    store: Store
    writer: Writer
    source: str

    def held(self) -> Iterator[Held]:
        """All of them at one version, those deleted by hand among them, streamed."""
        table = self.store.at()
        with self.store.errors("read"):
            yield from origins.held(table, self.source)

    def files(self, ids: Sequence[str]) -> dict[str, str]:
        """Those of some ids that are there, and the file that each came from."""
        with self.store.errors("read"):
            headers = read_headers(self.store.at(), ids)
        mine = {i: header for i, header in headers.items() if header.get(origins.SOURCE) == self.source}
        return {i: header[origins.FILE] for i, header in mine.items() if header["change"] != "deleted"}

    def fitting(self, documents: Sequence[Document]) -> tuple[list[Document], list[tuple[Document, Misfit]]]:
        """Those that the present table has room for, see `columns.fitting`."""
        return fitting(documents, self.store.at().schema)

    def write(
        self, documents: Sequence[Document], files: Mapping[str, str], encoder: PassageEncoder | None = None
    ) -> Counts:
        """Add what is new and update what the source changed, in one commit; each id once.

        files: document id -> file of the source that gives it.
        What was edited or deleted by hand stays so while the source gives what it gave before. A document that another
        source or nobody's hand brought is an error, PresentError, unless it is nobody's and equal: that is taken over.
        """
        origin = Origin(self.source, files)
        counts = self.writer.write_batch(documents, "upsert", encoder, origin=origin)
        if counts.unchanged:
            # In a commit of its own, for it is no revision; what a crash leaves undone is done at the next time.
            self.writer.take_over(documents, origin)
        return counts

    def delete(self, ids: Sequence[str]) -> Counts:
        """Delete those of some ids that still come from this source, in one commit. Their history stays."""
        return self.writer.delete(ids, self.source)

    def tidy(self) -> None:
        """Merge small files where that is worth its time."""
        self.writer.tidy_behind(self.writer.store.place.look_every)
