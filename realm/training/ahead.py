"""The next batch, made by a thread while the backward pass of the present one runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from realm.types import Batches


class Ahead:
    """Batches that are functions of their number alone, so that making one early changes nothing.

    The backward pass leaves Python to others, and nothing else of a step runs beside it: what batches read (a
    snapshot, a tokenizer, caches) is never used by two threads at a time.
    """

    def __init__(self, batches: Batches, end: int) -> None:
        """end: the number behind the last batch that is wanted."""
        self._batches, self._end = batches, end
        self._pool = ThreadPoolExecutor(1, "batches")
        self._made: dict[int, Future[Any]] = {}

    def batch(self, number: int) -> Any:
        """Batch `number`: the one that was made meanwhile, or made now. What went wrong with it is raised here."""
        made = self._made.pop(number, None)
        return self._batches.batch(number) if made is None else made.result()

    @contextmanager
    def meanwhile(self, number: int) -> Iterator[None]:
        """Make batch `number` while the block runs; it is done when the block is left."""
        self._made = {} if number >= self._end else {number: self._pool.submit(self._batches.batch, number)}
        try:
            yield
        finally:
            wait(self._made.values())

    def close(self) -> None:
        self._pool.shutdown()
