"""Answers to come as HTTP gives them: together, or a line each; and how long they took."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence

from realm.service.problems import problem_of
from realm.service.wire import Asked
from realm.types import Answer
from realm.workflows.values import answer_json

LINES = "application/x-ndjson"
Coming = Sequence[asyncio.Future[Answer]]


async def together(coming: Coming) -> list[Answer]:
    """All of them, or what went wrong with one."""
    try:
        return list(await asyncio.gather(*coming))
    finally:
        for future in coming:
            future.cancel()


async def lines(coming: Coming, asked: Asked, places: Mapping[str, str]) -> AsyncIterator[str]:
    """An answer a line, in order; in its place what went wrong with it. places: see `problem_of`."""
    try:
        for future in coming:
            try:
                async with asyncio.timeout_at(asked.deadline):
                    value = answer_json(await future)
            except Exception as error:
                value = problem_of(error, places).body(asked.request_id)
            yield json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    finally:
        for future in coming:
            if not future.cancel() and not future.cancelled():
                future.exception()  # looked at, so that asyncio does not complain of it


def cached(coming: Coming) -> int:
    """How many were given before: those are done as soon as they are asked for."""
    return sum(future.done() for future in coming)


def timing(hits: int, coming: Coming, since: float | None = None) -> dict[str, str]:
    """What `Server-Timing` says: how many answers were in the cache, and milliseconds since the request came.

    since: on the event loop's clock; None where the answers are still to come.
    """
    told = f'cache;desc="{hits} of {len(coming)}"'
    if since is not None:
        told += f", total;dur={1000 * (asyncio.get_running_loop().time() - since):.1f}"
    return {"Server-Timing": told}
