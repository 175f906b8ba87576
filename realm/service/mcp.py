"""Tools for assistants: ask, search and read these documents over the Model Context Protocol, and cite them.

Nothing here writes. Limits, batching and versions are those of `core.Service`, as for HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import date as Date
from pathlib import Path
from typing import Any, Literal, TypeVar

from realm import __version__
from realm.answering.constraints import Constraints, constraints_of
from realm.answering.questions import open_model
from realm.errors import AbsentError, MissingLibraryError, RealmError, UsageError
from realm.knowledge.table.times import AsOf, read_as_of
from realm.service.core import Service
from realm.service.metrics import Metrics
from realm.service.problems import problem_of
from realm.service.settings import ServiceConfig
from realm.workflows.store import open_knowledge_base
from realm.workflows.values import answer_json, document_json, found_json

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ModuleNotFoundError as error:
    raise MissingLibraryError("mcp", "serve", "realm mcp") from error

T = TypeVar("T")
log = logging.getLogger("realm.service")
INSTRUCTIONS = (
    "These tools answer from a knowledge base of documents that people edit. Cite what you use by the document's id "
    "and version. `ask` abstains where the documents don't say; then `search` shows what comes near. Where documents "
    "disagree, `conflict` says so: report both sides."
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def build_tools(service: Service, opened: Future[None]) -> MCPServer[Any]:
    """The server over a service. opened: done when its model is open; calls that need it wait for it."""
    server: MCPServer[Any] = MCPServer("realm", instructions=INSTRUCTIONS, version=__version__)

    async def told(work: Callable[[], Awaitable[T]]) -> T:
        """What a call gave, or why not in one line that names no path of this machine."""
        try:
            await asyncio.shield(asyncio.wrap_future(opened))
            return await work()
        except Exception as error:
            if not isinstance(error, RealmError):
                log.exception("a tool failed", exc_info=error)
            raise ToolError(problem_of(error, service.places).message) from error

    @server.tool(annotations=READS)
    async def ask(
        question: str,
        k: int | None = None,
        where: str | None = None,
        as_of: str | None = None,
        source: str | None = None,
        since: str | None = None,
        until: str | None = None,
        max_per_source: int | None = None,
    ) -> dict[str, Any]:
        """Answer a question from the documents, with the passages, spans and versions that the answer rests on, how
        sure it is, and whether documents disagree. `abstained` is true where the documents don't say.

        question: a plain one; of a model that was only pre-trained a sentence with a blank, ____. k: passages to read.
        where: only documents that satisfy it, as source = 'reuters' and date >= date '2024-01-01'. as_of: the documents
        as of a version, 7, or of a time, 2024-05-01T09:30. source: only documents from there. since, until: only
        documents dated so, as 2024-05-01, both days included. max_per_source: passages of one source at most.
        """

        async def work() -> dict[str, Any]:
            kept_to = _constraints(source, since, until, max_per_source)
            (coming,) = await service.ask([question], k, where, _as_of(as_of), constraints=kept_to)
            return answer_json(await coming)

        return await told(work)

    @server.tool(annotations=READS)
    async def search(
        query: str,
        k: int = 5,
        where: str | None = None,
        as_of: str | None = None,
        by: Literal["meaning", "words"] = "meaning",
        source: str | None = None,
        since: str | None = None,
        until: str | None = None,
        max_per_source: int | None = None,
    ) -> dict[str, Any]:
        """Find k passages of the documents, best first, each with its document's id and version.

        by: "meaning" is the model's vectors, "words" BM25. The rest: see `ask`.
        """

        async def work() -> dict[str, Any]:
            kept_to = _constraints(source, since, until, max_per_source)
            found = await service.search(query, k, where, _as_of(as_of), by, kept_to)
            return found_json(found.matches, found.version, found.now)

        return await told(work)

    @server.tool(annotations=READS)
    async def get_document(document_id: str, as_of: str | None = None) -> dict[str, Any]:
        """Read a whole document, as it is or as it was. document_id: as evidence and hits name it. as_of: see `ask`."""

        async def work() -> dict[str, Any]:
            found = await service.get(document_id, _as_of(as_of))
            if found is None:
                raise AbsentError(f"no document {document_id!r}: search finds those that are there")
            document, change, version = found
            return {"document": document_json(document), "document_version": change.version, "version": version}

        return await told(work)

    return server


def _as_of(text: str | None) -> AsOf | None:
    return None if text is None or not text.strip() else read_as_of(text.strip())


def _constraints(
    source: str | None, since: str | None, until: str | None, max_per_source: int | None
) -> Constraints | None:
    """An assistant says nothing by an empty text, too."""
    days = {name: _day(name, text.strip()) for name, text in (("since", since), ("until", until)) if text}
    sources = (source,) if source else None
    return constraints_of(sources=sources, max_per_source=max_per_source, **days)


def _day(name: str, text: str) -> Date | None:
    try:
        return Date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"found {name}={text[:40]!r}: expected a day as 2024-05-01") from None


def serve_tools(model: Path, kb: Path, config: ServiceConfig, *, bf16: bool | None = None) -> None:
    """Speak the protocol over standard input and output until the other side closes them. Raises what opening the
    knowledge base raises."""
    opened = open_knowledge_base(kb)
    service = Service(lambda: open_model(model, bf16=bf16), opened, config, Metrics())
    try:
        build_tools(service, service.open()).run("stdio")
    finally:
        service.close()
