"""Who may come in, with how much, and how many at once. Everything refused here is refused before it is read.

- From a browser: on loopback only a `Host` of this machine is served, so that no page can reach it under a name of its
  own (DNS rebinding); what changes something, and every other POST, comes from a page of the same origin or from no
  page at all; there is no CORS.
- With tokens: one reads, one reads and writes (RFC 6750). The page for people asks for one; its files hold no
  knowledge and are for everybody.
- A body is read here, up to the limit, and handed on whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

from realm.service.metrics import Metrics
from realm.service.problems import SOON, Problem, RefusedError, problem_of, stopping
from realm.service.settings import LimitsConfig
from realm.service.tokens import Tokens
from realm.service.wire import App, Message, Receive, Scope, Send, asked_of, header_of, headers_of, send_json

OPEN = frozenset({"/healthz", "/readyz"})
"""For everybody, and at any time."""
UNCOUNTED = OPEN | {"/metrics"}
READS = frozenset({"/v1/ask", "/v1/search"})
"""What is asked by POST and changes nothing."""
CLOSE = {"Connection": "close"}
"""Where the rest of a body is not read, nothing can follow it."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
SLOW_READER_SECONDS = 10.0
"""After the deadline, for a client that still reads an answer that has begun."""


class Gate:
    """The layer between the frame and the routes."""

    def __init__(
        self,
        app: App,
        limits: LimitsConfig,
        metrics: Metrics,
        *,
        tokens: Tokens | None,
        hosts: Collection[str] | None,
        origins: Collection[str] = (),
    ) -> None:
        """tokens: none are asked for when None. hosts: names that a request may call the service by, any when None.
        origins: of other web pages that may write."""
        self.app, self.limits, self.metrics = app, limits, metrics
        self.tokens, self.hosts = tokens, None if hosts is None else frozenset(hosts)
        self.origins = {origin.lower().rstrip("/") for origin in origins}
        self.stopping = False
        """Set, nothing new is taken."""
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check_host(scope)
            if scope["path"] in OPEN:
                if self.stopping and scope["path"] == "/readyz":
                    raise stopping()
                await self.app(scope, receive, send)
                return
            self._check_origin(scope)
            if not _is_page(scope):
                self._check_token(scope)
            if scope["path"] in UNCOUNTED:
                await self.app(scope, receive, send)
                return
            self._check_room()
        except RefusedError as error:
            await self._refuse(scope, send, problem_of(error))
            return
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            await self._in_time(scope, receive, send)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)

    # ------------------------------------------------------------ who

    def _check_host(self, scope: Scope) -> None:
        hosts = headers_of(scope, b"host")
        if len(hosts) > 1:
            raise RefusedError(400, "bad_host", "found several Host headers: expected one")
        if self.hosts is not None and (not hosts or _name(hosts[0]) not in self.hosts):
            raise RefusedError(
                403, "bad_host", "found a Host that is not this machine: expected localhost, 127.0.0.1 or [::1]"
            )

    def _check_origin(self, scope: Scope) -> None:
        """A page's request names the page's origin, and no page can leave it out or choose it."""
        if scope["method"] in SAFE:
            return
        origins, host = headers_of(scope, b"origin"), (header_of(scope, b"host") or "").lower()
        own = {f"http://{host}", f"https://{host}"} if host else set()
        foreign = not {origin.lower() for origin in origins} <= own | self.origins
        if foreign or (not origins and header_of(scope, b"sec-fetch-site") in ("cross-site", "same-site")):
            raise RefusedError(403, "bad_origin", "the request comes from another web page: expected none")

    def _check_token(self, scope: Scope) -> None:
        if self.tokens is None:
            return
        scheme, _, token = (header_of(scope, b"authorization") or "").partition(" ")
        allowed = self.tokens.allow(token.strip() if scheme.lower() == "bearer" else "")
        if allowed == "nothing":
            raise RefusedError(
                401,
                "no_token",
                "found no token, or a wrong one: expected Authorization: Bearer TOKEN",
                {"WWW-Authenticate": 'Bearer realm="realm"'},
            )
        writes = scope["method"] not in SAFE and scope["path"] not in READS
        if writes and allowed != "write":
            raise RefusedError(403, "read_only", "this token reads: expected the one that writes")

    # ------------------------------------------------------------ how many, how much, how long

    def _check_room(self) -> None:
        if self.stopping:
            raise stopping()
        if self.in_flight >= self.limits.in_flight:
            raise RefusedError(
                503, "busy", f"{self.limits.in_flight} requests are being answered already: try again", SOON
            )

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, body = asked_of(scope), None

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The answer is there; from here on it hangs on how fast the client reads.
                limit.reschedule(asked.deadline + SLOW_READER_SECONDS)
            await send(message)

        try:
            async with asyncio.timeout_at(asked.deadline) as limit:
                body = await self._body(scope, receive)
                await self.app(scope, _replay(body, receive), sending)
        except RefusedError as error:
            await self._refuse(scope, send, problem_of(error))
        except TimeoutError:
            if asked.status:  # half an answer is no answer: the connection ends without the last piece
                raise
            await self._refuse(scope, send, self._too_late(came=body is not None))

    def _too_late(self, *, came: bool) -> Problem:
        seconds = f"{self.limits.seconds:g} seconds"
        if came:
            message = f"no answer within {seconds}: ask for less, or later; an edit may be committed all the same"
            return Problem(504, "too_slow", message)
        return Problem(408, "slow_body", f"the body did not come within {seconds}: expected all of it", CLOSE)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. RefusedError when it is too large, before the rest of it is read, or not JSON."""
        most = self.limits.body_bytes
        length = header_of(scope, b"content-length") or ""
        if length.isdecimal() and int(length) > most:
            raise _too_large(most)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "gone", "the client left before its body was whole")
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
            more = message.get("more_body", False)
        kind = (header_of(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if size and kind != "application/json":
            raise RefusedError(415, "not_json", "found a body of another kind: expected Content-Type: application/json")
        return b"".join(parts)

    async def _refuse(self, scope: Scope, send: Send, problem: Problem) -> None:
        asked = asked_of(scope)
        asked.code = problem.code
        await send_json(send, problem.status, problem.body(asked.request_id), problem.headers)


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, "too_large", f"found a body of more than {most:,} bytes: expected at most so many", CLOSE)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _is_page(scope: Scope) -> bool:
    """Whether it asks for a file of the page for people."""
    return scope["method"] in ("GET", "HEAD") and (scope["path"] == "/" or scope["path"].startswith("/page/"))


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" where it is none."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found["name"].strip("[]").lower()
