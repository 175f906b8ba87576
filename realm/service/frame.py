"""Around every request: its id, the headers that every answer has, the log of what was answered, the last resort."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from realm.service.metrics import Metrics
from realm.service.problems import problem_of
from realm.service.wire import KEY, App, Asked, Message, Receive, Scope, Send, header_of, send_json

SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A request id that may be taken over from a client: it goes into headers and the log."""

HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not set them itself."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
access = logging.getLogger("realm.service.access")
log = logging.getLogger("realm.service")


class Frame:
    """The outermost layer. seconds: what a request may take."""

    def __init__(self, app: App, metrics: Metrics, seconds: float) -> None:
        self.app, self.metrics, self.seconds = app, metrics, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        # Nothing here speaks anything else.

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        now = asyncio.get_running_loop().time
        given = header_of(scope, b"x-request-id") or ""
        request_id = given if SANE.fullmatch(given) else uuid.uuid4().hex
        asked = scope[KEY] = Asked(request_id, arrived=now(), deadline=now() + self.seconds)
        if raw := scope.get("raw_path"):
            # As it was sent: "%2F" in a document's id is no slash of the address.
            scope["path"] = raw.decode("ascii", "replace")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                asked.status = message["status"]
                headers = list(message.get("headers", ()))
                there = {name for name, _ in headers}
                more = {**HEADERS, "x-request-id": request_id}
                headers += [(k.encode(), v.encode()) for k, v in more.items() if k.encode() not in there]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            log.exception("request %s failed", request_id, exc_info=error)
            if not asked.status:
                problem = problem_of(error)
                await send_json(sending, problem.status, problem.body(request_id), problem.headers)
        finally:
            self._tell(scope, asked, now() - asked.arrived)

    def _tell(self, scope: Scope, asked: Asked, seconds: float) -> None:
        """One line: no query, no token, no question."""
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        route = getattr(scope.get("route"), "path_format", "none")
        self.metrics.answered(method, route, asked.status, seconds)
        path = re.sub(r"[^!-~]", "?", scope["path"])[:200]
        why = f" {asked.code}" if asked.code else ""
        access.info("%s %s %s %d %.1f ms%s", asked.request_id, method, path, asked.status, 1000 * seconds, why)
