"""What went wrong, as HTTP tells it: a status, a code for programs and one line for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from realm.errors import AbsentError, ChangedError, DataError, PresentError, RealmError, UnavailableError, UsageError
from realm.knowledge.table.predicates import PredicateError
from realm.knowledge.table.store import DiskFullError, InUseError, NoVersionError, ReadOnlyError


class RefusedError(RealmError):
    """A request that the service does not take, and the status that says why."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str) -> dict[str, Any]:
        """The one shape that errors have."""
        return {"error": {"code": self.code, "message": self.message, "request_id": request_id}}


KINDS: tuple[tuple[type[RealmError], int, str], ...] = (
    (AbsentError, 404, "no_such_document"),
    (NoVersionError, 404, "no_such_version"),
    (ReadOnlyError, 403, "read_only"),
    (DiskFullError, 507, "disk_full"),
    (UnavailableError, 503, "unavailable"),
    (PresentError, 409, "document_exists"),
    (ChangedError, 412, "document_changed"),
    (DataError, 400, "bad_document"),
    (PredicateError, 400, "bad_predicate"),
    (UsageError, 400, "bad_request"),
)
"""The first that fits counts."""

_PATHS = re.compile(r"(?<![\w.])/?[\w.@+-]+(?:/[\w.@+-]+){2,}")
"""The store's own words name files of this machine, and of the one it was built on."""
SOON = {"Retry-After": "1"}


def stopping() -> RefusedError:
    """What is told from the signal to stop on."""
    return RefusedError(503, "stopping", "the service is stopping: ask another, or again later", SOON)


def problem_of(error: BaseException, places: Mapping[str, str] | None = None) -> Problem:
    """What to tell of an error. Nothing of one that is not ours: it may quote anything.

    places: paths on this machine and what a client calls what lies there; a message never names the former.
    """
    message = str(error)
    for path, name in (places or {}).items():
        message = message.replace(path, name)
    if isinstance(error, RefusedError):
        return Problem(error.status, error.code, message, error.headers)
    if isinstance(error, TimeoutError):
        return Problem(504, "too_slow", "no answer in time: ask for less, or later")
    if isinstance(error, InUseError):
        return Problem(503, "busy", "somebody else is writing to the knowledge base: try again", SOON)
    for kind, status, code in KINDS:
        if isinstance(error, kind):
            return Problem(status, code, message)
    if isinstance(error, RealmError):
        return Problem(500, "failed", _PATHS.sub("...", message))
    return Problem(500, "internal", "the service failed: its log has the reason under this request id")
