"""Questions that come at the same time are answered together, by one thread.

The first question that waits is joined by others for a few milliseconds, or until there are enough; while a batch is
being answered the next one gathers by itself. Only questions that were asked in the same way (`key`) share a batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    future: Future[Result] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)


class Batcher(Generic[Key, Item, Result]):
    """A thread that works off what is submitted, in batches of one key."""

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item]], Iterable[Result]],
        *,
        window: float,
        size: int,
        name: str,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """run: gives the results of items, in order; each is handed on as it comes.

        window: seconds that the first item waits for others. size: items of a batch at most.
        on_batch: told how many items a batch had and how many seconds it took.
        """
        self._run, self._window, self._size, self._on_batch = run, window, size, on_batch
        self._waiting: dict[Key, list[_Job[Item, Result]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, key: Key, item: Item) -> Future[Result]:
        """The result to come; it can be cancelled until its batch begins. RuntimeError after `close`."""
        job: _Job[Item, Result] = _Job(item)
        with self._changed:
            if self._closed:
                raise RuntimeError("closed")
            self._waiting.setdefault(key, []).append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Work off what waits, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            key, jobs = batch
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs:
                began = time.monotonic()
                self._answer(key, jobs)
                if self._on_batch is not None:
                    self._on_batch(len(jobs), time.monotonic() - began)

    def _next(self) -> tuple[Key, list[_Job[Item, Result]]] | None:
        """The jobs of the key that has waited longest; None when closed and all done."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            key, jobs = next(iter(self._waiting.items()))
            due = jobs[0].came + self._window
            while len(jobs) < self._size and not self._closed and (left := due - time.monotonic()) > 0:
                self._changed.wait(left)
            del self._waiting[key]
            if len(jobs) > self._size:  # the rest goes behind the other keys, so that none of them starves
                self._waiting[key] = jobs[self._size :]
            return key, jobs[: self._size]

    def _answer(self, key: Key, jobs: Sequence[_Job[Item, Result]]) -> None:
        left = deque(jobs)
        try:
            for result in self._run(key, [job.item for job in jobs]):
                left.popleft().future.set_result(result)
            if left:
                raise RuntimeError(f"{len(jobs) - len(left)} results for {len(jobs)} items")
        except Exception as error:
            if len(jobs) > 1:  # one faulty item must not fail the others
                for job in left:
                    self._answer(key, [job])
            elif left:
                left[0].future.set_exception(error)
