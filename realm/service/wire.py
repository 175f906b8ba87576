"""What a request is, below any framework: the small common part of the guard and the routes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "realm"
"""Where a scope holds its `Asked`."""


@dataclass(slots=True)
class Asked:
    """What is known of a request beside what it says."""

    request_id: str
    arrived: float
    """On the event loop's clock, as is the next one."""
    deadline: float
    status: int = 0
    """Of the answer; 0 before it began."""
    code: str = ""
    """What it was refused with."""


def asked_of(scope: Scope) -> Asked:
    """The request that a scope belongs to."""
    asked: Asked = scope[KEY]
    return asked


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """All values of a header; `name` in small letters."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def header_of(scope: Scope, name: bytes) -> str | None:
    """The only value of a header; None when there is none, or several."""
    values = headers_of(scope, name)
    return values[0] if len(values) == 1 else None


async def send_json(send: Send, status: int, value: Any, headers: Mapping[str, str]) -> None:
    """A whole answer."""
    body = json.dumps(value, ensure_ascii=False).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    pairs = [(name.lower().encode(), text.encode("latin-1")) for name, text in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
