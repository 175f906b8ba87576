"""A retriever for LlamaIndex."""

from __future__ import annotations

import asyncio
from typing import Any

from realm.adapters.found import Model, check_k, find, metadata_of
from realm.answering.constraints import Constraints
from realm.errors import MissingLibraryError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table.times import AsOf

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ModuleNotFoundError as error:
    raise MissingLibraryError("llama-index-core", "llamaindex", "the retriever for LlamaIndex") from error

NOT_READ = ["document_id", "document_version", "number", "start", "end", "score", "recency", "url"]
"""Metadata that no language model and no encoder is shown; title, source and date they may use."""


class RealmRetriever(BaseRetriever):
    """A model and a knowledge base as a LlamaIndex retriever.

    ::

        retriever = RealmRetriever(Realm.from_pretrained("runs/mine"), KnowledgeBase.open("kb"), k=3)
        retriever.retrieve("Who painted Guernica?")[0].node.metadata["title"]

    `retrieve` and `aretrieve` give a `NodeWithScore` for each passage, best first; its node has the passage's id and
    text, its place in the document (`start_char_idx`, `end_char_idx`), the document as its source, and `metadata_of`.
    An edit is seen by the next call. Raises what `Realm.search` raises.
    """

    def __init__(
        self,
        model: Model,
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | None = None,
        **options: Any,
    ) -> None:
        """k: passages to find. where: a predicate on the documents. as_of: a version or a time, see
        `KnowledgeBase.version_at`. constraints: what else they keep to. options: of LlamaIndex's own retrievers, as
        callback_manager."""
        check_k(k)
        super().__init__(**options)
        self.model, self.kb, self.k, self.where, self.as_of = model, kb, k, where, as_of
        self.constraints = constraints

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, nodes = query_bundle.query_str, []
        for match in find(self.model, self.kb, query, self.k, self.where, self.as_of, self.constraints):
            passage = match.passage
            node = TextNode(
                id_=passage.id,
                text=passage.text,
                start_char_idx=passage.start,
                end_char_idx=passage.end,
                metadata=metadata_of(match),
                excluded_llm_metadata_keys=NOT_READ,
                excluded_embed_metadata_keys=NOT_READ,
                relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=passage.document_id)},
            )
            nodes.append(NodeWithScore(node=node, score=match.score))
        return nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
