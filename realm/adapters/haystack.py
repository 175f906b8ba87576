"""A retriever for Haystack, 2 and later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from realm.adapters.found import Model, check_k, find, metadata_of
from realm.answering.constraints import Constraints
from realm.answering.questions import open_model
from realm.errors import MissingLibraryError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table.times import AsOf

try:
    from haystack import Document, component, default_to_dict
except ModuleNotFoundError as error:
    raise MissingLibraryError("haystack-ai", "haystack", "the retriever for Haystack") from error


@component
class RealmRetriever:
    """A model and a knowledge base as a component of a Haystack pipeline.

    ::

        retriever = RealmRetriever("runs/mine", "kb", k=3)
        retriever.run("Who painted Guernica?")["documents"][0].meta["title"]

    Gives a `Document` for each passage, best first: `content` is the passage, `id` its own, `score` f(x, z), `meta`
    what `metadata_of` tells. An edit is seen by the next run. Raises what `Realm.search` raises.
    """

    def __init__(
        self,
        model: Model | str | Path,
        kb: KnowledgeBase | str | Path,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | Mapping[str, Any] | None = None,
    ) -> None:
        """model, kb: open, or where they are. Those are opened at the first run (`warm_up`), and a pipeline with them
        can be written to YAML; Haystack 3 reads it again where the module "realm.adapters.haystack" is allowed.
        k, where, as_of, constraints: as for `Realm.search`; a run may have its own of the first three."""
        check_k(k)
        self.model, self.kb, self.k, self.where, self.as_of = model, kb, k, where, as_of
        self.constraints = Constraints(**constraints) if isinstance(constraints, Mapping) else constraints
        self._opened: tuple[Model, KnowledgeBase] | None = None

    def warm_up(self) -> None:
        """Open what was given by its place. Raises what `open_model` and `KnowledgeBase.open` raise."""
        if self._opened is None:
            model = open_model(self.model) if isinstance(self.model, str | Path) else self.model
            kb = KnowledgeBase.open(self.kb) if isinstance(self.kb, str | Path) else self.kb
            self._opened = model, kb

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, k: int | None = None, where: str | None = None, as_of: int | datetime | None = None
    ) -> dict[str, list[Document]]:
        """The passages as documents. k, where, as_of: in place of the component's own where they are given."""
        self.warm_up()
        assert self._opened is not None
        where, as_of = self.where if where is None else where, self.as_of if as_of is None else as_of
        return {
            "documents": [
                Document(id=m.passage.id, content=m.passage.text, meta=metadata_of(m), score=m.score)
                for m in find(*self._opened, query, self.k if k is None else k, where, as_of, self.constraints)
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, k: int | None = None, where: str | None = None, as_of: int | datetime | None = None
    ) -> dict[str, list[Document]]:
        """`run` in a thread of its own, for pipelines that wait for several things."""
        found: dict[str, list[Document]] = await asyncio.to_thread(self.run, query, k, where, as_of)
        return found

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's YAML. UsageError unless model and knowledge base were given by their places, and no time."""
        if not (isinstance(self.model, str | Path) and isinstance(self.kb, str | Path)):
            raise UsageError("found an open model or knowledge base: expected their paths, which can be written down")
        kept_to = None if self.constraints is None else asdict(self.constraints)
        if isinstance(self.as_of, datetime) or (kept_to and kept_to["now"] is not None):
            raise UsageError("found a time as as_of or now: expected a version, or none, which can be written down")
        if kept_to:  # lists, as YAML has them
            kept_to = {name: [*value] if isinstance(value, tuple) else value for name, value in kept_to.items()}
        places = {"model": str(self.model), "kb": str(self.kb)}
        asked = {"k": self.k, "where": self.where, "as_of": self.as_of, "constraints": kept_to}
        kept: dict[str, Any] = default_to_dict(self, **places, **asked)
        return kept
