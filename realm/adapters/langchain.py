"""A retriever for LangChain."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from realm.adapters.found import check_k, find, metadata_of
from realm.answering.ask import Realm
from realm.answering.constraints import Constraints
from realm.answering.questions import QuestionAnswering
from realm.errors import MissingLibraryError
from realm.knowledge.base import KnowledgeBase

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError as error:
    raise MissingLibraryError("langchain-core", "langchain", "the retriever for LangChain") from error


class RealmRetriever(BaseRetriever):
    """A model and a knowledge base as a LangChain retriever.

    ::

        retriever = RealmRetriever(model=Realm.from_pretrained("runs/mine"), kb=KnowledgeBase.open("kb"), k=3)
        retriever.invoke("Who painted Guernica?")[0].metadata["title"]

    `invoke`, `ainvoke` and `batch` give a `Document` for each passage, best first: `page_content` is the passage, `id`
    its own, `metadata` what `metadata_of` tells. An edit is seen by the next call. Raises what `Realm.search` raises.
    """

    model: Realm | QuestionAnswering
    kb: KnowledgeBase
    k: int = 5
    """Passages to find."""
    where: str | None = None
    """A predicate on the documents."""
    as_of: int | datetime | None = None
    """A version or a time, see `KnowledgeBase.version_at`."""
    constraints: Constraints | None = None
    """What else the passages keep to."""

    def model_post_init(self, context: Any, /) -> None:
        """UsageError for k below 1."""
        super().model_post_init(context)
        check_k(self.k)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [
            Document(id=match.passage.id, page_content=match.passage.text, metadata=metadata_of(match))
            for match in find(self.model, self.kb, query, self.k, self.where, self.as_of, self.constraints)
        ]
