"""The HTTP API: which request is which call of the service. Who may come in, and how often, is `gate`'s business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, overload
from urllib.parse import quote, unquote

from realm import __version__
from realm.answering.early import EarlyExit
from realm.errors import AbsentError, RealmError, UsageError
from realm.knowledge.base import Counts
from realm.knowledge.table.times import AsOf, read_as_of
from realm.service import examples
from realm.service.assets import page_routes
from realm.service.coming import LINES, cached, lines, timing, together
from realm.service.conditional import etag, expected_version
from realm.service.core import Service
from realm.service.cursors import PATTERN, next_cursor, read_cursor
from realm.service.described import described, methods_at
from realm.service.framework import (
    APIRouter,
    Body,
    FastAPI,
    Header,
    HTTPBearer,
    HTTPException,
    JSONResponse,
    Path,
    Query,
    Request,
    RequestValidationError,
    Response,
    Security,
    StreamingResponse,
)
from realm.service.problems import Problem, problem_of
from realm.service.schemas import (
    Added,
    AnswerOut,
    Ask,
    Content,
    EditOut,
    ErrorBody,
    HistoryOut,
    HitsOut,
    KnowledgeBaseOut,
    NewDocuments,
    OneDocumentOut,
    PageOut,
    Restore,
    Search,
    StatusOut,
)
from realm.service.schemas_model import ModelOut
from realm.service.wire import asked_of
from realm.workflows.values import answer_json, document_json, found_json

PREFIX = "/v1"
EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
_GIVEN: dict[str, Any] = {"pattern": f"^{PATTERN}$"}
_WORDS = {
    400: ("bad_request", "found a body that can't be read: expected JSON"),
    404: ("not_found", "no such address: see /openapi.json"),
    405: ("method_not_allowed", "this address does not take that method: see /openapi.json"),
}
"""For what the framework refuses by itself."""

Id = Annotated[str, Path(description="Percent-encoded; slashes too, where the id ends in /history or /restore.")]
Where = Annotated[str | None, Query(max_length=100_000, description="A predicate on the documents.")]
IfMatch = Annotated[
    str | None, Header(max_length=200, description="The document's ETag: edit only what nobody has changed since.")
]
When = Annotated[
    str | None, Query(max_length=64, description="Read this version, or as it was at this time (ISO 8601).")
]


def create_app(service: Service) -> FastAPI:
    """The routes over a service, without their guard."""
    app = FastAPI(
        title="realm",
        version=__version__,
        description="Answers from documents that people edit, with the passages that they rest on.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = [_questions(service), _documents(service), _facts(service), _probes(service)]
    for router in (*routers, page_routes()):
        app.include_router(router)

    def tell(request: Request, problem: Problem) -> Response:
        asked = asked_of(request.scope)
        asked.code = problem.code
        return JSONResponse(problem.body(asked.request_id), problem.status, dict(problem.headers))

    async def ours(request: Request, error: Exception) -> Response:
        return tell(request, problem_of(error, service.places))

    async def refused(request: Request, error: Exception) -> Response:
        status: int = getattr(error, "status_code", 400)
        headers = {"Allow": methods_at(app, request.scope["path"])} if status == 405 else {}
        return tell(request, Problem(status, *_WORDS[status], headers))

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return tell(request, Problem(422, "malformed", _where_wrong(error.errors())))

    app.add_exception_handler(RealmError, ours)
    for status in _WORDS:
        app.add_exception_handler(status, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(Exception, ours)  # raised on for the log, after the answer
    describe = app.openapi
    app.openapi = lambda: described(describe(), routers, service.limits)  # type: ignore[method-assign]
    return app


def _router(*statuses: int, closed: bool = True) -> APIRouter:
    """closed: whether it asks for a token, where there are any."""
    guarded = [Security(HTTPBearer(auto_error=False))] if closed else []
    return APIRouter(responses=_errors(*statuses), dependencies=guarded)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": examples.STATUSES[status]} for status in statuses}


def _ok(model: Any, description: str, example: Any, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"model": model, "description": description, "content": {"application/json": {"example": example}, **more}}
    }


# ---------------------------------------------------------------- questions


def _questions(service: Service) -> APIRouter:
    router = _router(400, 401, 403, 404, 408, 413, 415, 422, 500, 503, 504)
    streamed = {LINES: {"schema": {"type": "string", "description": "An answer, or an error, a line."}}}

    @router.post(
        f"{PREFIX}/ask",
        response_model=None,
        responses=_ok(
            AnswerOut | list[AnswerOut], "The answer, or one for each question.", examples.ANSWER, **streamed
        ),
    )
    async def ask(request: Request, body: Annotated[Ask, Body(openapi_examples=examples.ASK)]) -> Response:
        """Answer a question from the documents, or many. Many come as lines as they are answered, where the request
        accepts `application/x-ndjson`; else as a list, all or none."""
        if (body.question is None) == (body.questions is None):
            raise UsageError("found neither question nor questions, or both: expected one of them")
        asked = [body.question] if body.question is not None else list(body.questions or ())
        rule = None if body.conflicts is None else body.conflicts.rule()
        as_of = _moment(body.as_of)
        early = None if body.early_exit is None else EarlyExit(body.early_exit)
        coming = await service.ask(asked, body.k, body.where, as_of, body.aggregate, rule, body.constraints(), early)
        hits, asking = cached(coming), asked_of(request.scope)
        if LINES in request.headers.get("accept", ""):
            given = lines(coming, asking, service.places)
            return StreamingResponse(given, media_type=LINES, headers=timing(hits, coming))
        answers = [answer_json(answer) for answer in await together(coming)]
        told = answers[0] if body.question is not None else answers
        return JSONResponse(told, headers=timing(hits, coming, asking.arrived))

    @router.post(
        f"{PREFIX}/search",
        response_model=None,
        responses=_ok(HitsOut, "The best passages.", examples.HITS),
    )
    async def search(body: Annotated[Search, Body(openapi_examples=examples.SEARCH)]) -> Response:
        """Find passages by meaning, or by words."""
        found = await service.search(body.query, body.k, body.where, _moment(body.as_of), body.by, body.constraints())
        return JSONResponse(found_json(found.matches, found.version, found.now))

    return router


# ---------------------------------------------------------------- documents


def _documents(service: Service) -> APIRouter:
    router = _router(400, 401, 403, 404, 408, 413, 415, 422, 500, 503, 504, 507)
    there, changed = _errors(409), _errors(412)

    @router.post(
        f"{PREFIX}/documents",
        status_code=201,
        response_model=None,
        responses={201: {"model": EditOut, "description": "Added, and seen by the next question."}, **there},
    )
    async def add(body: Annotated[Added, Body(openapi_examples=examples.ADD)]) -> Response:
        """Add a document, or several: all or none."""
        new = body.documents if isinstance(body, NewDocuments) else [body]
        counts = await service.add([one.document(one.id) for one in new])
        place = {"Location": f"{PREFIX}/documents/{quote(new[0].id, safe='')}"} if len(new) == 1 else None
        return JSONResponse(_counts(counts), 201, place)

    @router.get(
        f"{PREFIX}/documents",
        response_model=None,
        responses=_ok(PageOut, "Documents in order of insertion.", examples.PAGE),
    )
    async def page(
        where: Where = None,
        as_of: When = None,
        limit: Annotated[int, Query(ge=1, description="Documents of a page.")] = 50,
        cursor: Annotated[
            str | None, Query(description="As the page before gave it.", json_schema_extra=_GIVEN)
        ] = None,
    ) -> Response:
        """List documents by pages. All pages show the version of the first, and its `now()`."""
        asked = _moment(as_of)
        found, now = await service.page(where, limit, read_cursor(cursor, asked), asked)
        following = next_cursor(found, now)
        documents = [document_json(document) for document in found.documents]
        return JSONResponse(
            {"documents": documents, "total": found.total, "version": found.version, "cursor": following}
        )

    @router.get(
        f"{PREFIX}/documents/{{document_id:path}}/history",
        response_model=None,
        responses=_ok(HistoryOut, "Changes, oldest first.", examples.HISTORY),
    )
    async def history(
        document_id: Id,
        limit: Annotated[int, Query(ge=1, description="The newest so many; fewer where they are long.")] = 50,
        before: Annotated[int | None, Query(ge=1, description="Only changes before this version.")] = None,
    ) -> Response:
        """Every change of a document, with the text that it left."""
        changes = await service.history(_name(document_id), limit, before)
        older = changes[0]["version"] if changes and changes[0]["revision"] > 1 else None
        return JSONResponse({"changes": changes, "before": older})

    @router.post(
        f"{PREFIX}/documents/{{document_id:path}}/restore",
        response_model=None,
        responses=_ok(EditOut, "Restored, and seen by the next question.", examples.UPDATED),
    )
    async def restore(document_id: Id, body: Annotated[Restore, Body(openapi_examples=examples.RESTORE)]) -> Response:
        """Make a document again what it was, also one that is deleted; nothing that came since is lost."""
        return JSONResponse(_counts(await service.restore(_name(document_id), _moment(body.as_of))))

    @router.api_route(f"{PREFIX}/documents/{{document_id:path}}/history", methods=EVERY, include_in_schema=False)
    @router.api_route(f"{PREFIX}/documents/{{document_id:path}}/restore", methods=EVERY, include_in_schema=False)
    async def no_document(document_id: Id) -> Response:
        """With another method these are no document whose id ends so: that slash is to be encoded."""
        raise HTTPException(405)

    @router.get(
        f"{PREFIX}/documents/{{document_id:path}}",
        response_model=None,
        responses=_ok(OneDocumentOut, "The document.", examples.DOCUMENT),
    )
    async def get(document_id: Id, as_of: When = None) -> Response:
        """A document as it is, or was. Its ETag, given back as `If-Match`, guards an edit against other writers."""
        found = await service.get(_name(document_id), _moment(as_of))
        if found is None:
            raise AbsentError(f"no document {_name(document_id)!r}: GET {PREFIX}/documents lists them")
        document, change, version = found
        value = {"document": document_json(document), "document_version": change.version, "revision": change.revision}
        value |= {"time": change.time.isoformat(), "version": version}
        return JSONResponse(value, headers=etag(change.version))

    @router.put(
        f"{PREFIX}/documents/{{document_id:path}}",
        response_model=None,
        responses={**_ok(EditOut, "Replaced, and seen by the next question.", examples.UPDATED), **changed},
    )
    async def update(
        document_id: Id, body: Annotated[Content, Body(openapi_examples=examples.UPDATE)], if_match: IfMatch = None
    ) -> Response:
        """Replace a document: what is not given is empty afterwards."""
        document, expected = body.document(_name(document_id)), expected_version(if_match)
        return JSONResponse(_counts(await service.update(document, expected)))

    @router.delete(
        f"{PREFIX}/documents/{{document_id:path}}",
        response_model=None,
        responses={**_ok(EditOut, "Deleted; its history stays.", examples.DELETED), **changed},
    )
    async def delete(document_id: Id, if_match: IfMatch = None) -> Response:
        """Delete a document."""
        return JSONResponse(_counts(await service.delete(_name(document_id), expected_version(if_match))))

    return router


def _counts(counts: Counts) -> dict[str, int]:
    names = ("added", "updated", "unchanged", "deleted", "version")
    return {name: getattr(counts, name) for name in names}


def _name(document_id: str) -> str:
    """Routes see the path as it was sent (`frame`), so that an encoded slash belongs to an id."""
    try:
        return unquote(document_id, errors="strict")
    except UnicodeDecodeError:
        raise UsageError("found an id that is not UTF-8: expected a percent-encoded one") from None


@overload
def _moment(as_of: int | str) -> AsOf: ...
@overload
def _moment(as_of: int | str | None) -> AsOf | None: ...
def _moment(as_of: int | str | None) -> AsOf | None:
    """A version, or a time."""
    return read_as_of(as_of) if isinstance(as_of, str) else as_of


# ---------------------------------------------------------------- the rest


def _facts(service: Service) -> APIRouter:
    router = _router(400, 401, 403, 500, 503, 504)

    @router.get(
        f"{PREFIX}/knowledge-base",
        response_model=None,
        responses=_ok(KnowledgeBaseOut, "What is known.", examples.KNOWLEDGE_BASE),
    )
    async def knowledge_base() -> Response:
        """Version, counts, and how fresh the vectors are."""
        return JSONResponse(await service.knowledge_base())

    @router.get(f"{PREFIX}/model", response_model=None, responses=_ok(ModelOut, "What answers.", examples.MODEL))
    async def model() -> Response:
        """What answers, and the curves of the trainings that it stems from."""
        return JSONResponse(service.about_model())

    @router.get(
        "/metrics",
        response_model=None,
        responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(await service.measured(), media_type=service.metrics.content_type)

    return router


def _probes(service: Service) -> APIRouter:
    router = _router(400, 403, 500, 503, 504, closed=False)

    @router.get("/healthz", response_model=None, responses=_ok(StatusOut, "It lives.", {"status": "ok"}))
    async def healthz() -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", response_model=None, responses=_ok(StatusOut, "It can answer.", {"status": "ready"}))
    async def readyz() -> Response:
        """Whether it can answer: the model is open and every passage has its vector."""
        await service.check_ready()
        return JSONResponse({"status": "ready"})

    return router


def _where_wrong(errors: Sequence[Any]) -> str:
    """One line on the first fault of a body or a query, and how many more there are."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"found {place or 'a body'}: {str(first['msg'])[:200]}{more}"
