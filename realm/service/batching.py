"""Questions that come at the same time are answered together.

While a batch is being answered the next one gathers by itself. Where several came lately, those that wait are joined by
others for as long as these keep coming, for some milliseconds; a lone question is never kept waiting. Only questions
that were asked in the same way (`key`) share a batch, and the same question is answered once. A batch may be answered
in parts, side by side: a core that reads half of the questions wastes less than two that share every matrix product.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")

PATIENCE = 5
"""Windows that a batch waits at most, however many questions keep coming."""


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    future: Future[Result] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)
    same: list[Future[Result]] = field(default_factory=list)
    """Of others who asked the very same."""

    def give(self, result: Result) -> None:
        for future in (self.future, *self.same):
            future.set_result(result)

    def fail(self, error: Exception) -> None:
        for future in (self.future, *self.same):
            future.set_exception(error)


class Batcher(Generic[Key, Item, Result]):
    """A thread that works off what is submitted, in batches of one key, with others to help it."""

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item]], Iterable[Result]],
        *,
        window: float,
        size: int,
        name: str,
        on_batch: Callable[[int, float], None] | None = None,
        threads: int = 1,
        parts: Callable[[Key], int] | None = None,
        on_part: Callable[[int], None] | None = None,
    ) -> None:
        """run: gives the results of items, in order; each is handed on as it comes.

        window: seconds that items wait for one more, where several came lately. size: items of a batch at most.
        on_batch: told how many items a batch had and how many seconds it took.
        threads: parts of a batch that `run` is given at the same time, at most. parts: at most so many of one key.
        on_part: told in how many parts a batch is answered, in the thread of each before it begins.
        """
        self._run, self._window, self._size, self._on_batch = run, window, size, on_batch
        self._threads, self._parts, self._on_part = threads, parts, on_part
        self._helpers = ThreadPoolExecutor(threads - 1, f"{name}-help") if threads > 1 else None
        self._waiting: dict[Key, list[_Job[Item, Result]]] = {}
        self._last = 2
        """Items of the last batch: as if there had been several, before the first."""
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
        if self._helpers is not None:
            self._helpers.shutdown()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            key, jobs = batch
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs:
                began = time.monotonic()
                self._side_by_side(key, _distinct(jobs))
                if self._on_batch is not None:
                    self._on_batch(len(jobs), time.monotonic() - began)

    def _next(self) -> tuple[Key, list[_Job[Item, Result]]] | None:
        """The jobs of the key that has waited longest; None when closed and all done."""
        with self._changed:
            free, crowded = time.monotonic(), self._last > 1 or bool(self._waiting)
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            key, jobs = next(iter(self._waiting.items()))
            latest = max(free, jobs[0].came) + PATIENCE * self._window
            while crowded and len(jobs) < self._size and not self._closed:
                due = min(latest, max(free, jobs[-1].came) + self._window)
                if (left := due - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            del self._waiting[key]
            self._last = len(jobs)
            if len(jobs) > self._size:  # the rest goes behind the other keys, so that none of them starves
                self._waiting[key] = jobs[self._size :]
            return key, jobs[: self._size]

    def _side_by_side(self, key: Key, jobs: Sequence[_Job[Item, Result]]) -> None:
        """Answer in as many parts as there are threads for, of like numbers of items."""
        most = self._threads if self._parts is None else min(self._threads, self._parts(key))
        count = max(1, min(most, len(jobs)))
        cuts = [len(jobs) * part // count for part in range(count + 1)]
        first, *others = (jobs[a:b] for a, b in pairwise(cuts))
        helping = [self._helpers.submit(self._part, key, part, count) for part in others] if self._helpers else []
        self._part(key, first, count)
        for help_ in helping:
            help_.result()

    def _part(self, key: Key, jobs: Sequence[_Job[Item, Result]], count: int) -> None:
        if self._on_part is not None:
            self._on_part(count)
        self._answer(key, jobs)

    def _answer(self, key: Key, jobs: Sequence[_Job[Item, Result]]) -> None:
        left = deque(jobs)
        try:
            for result in self._run(key, [job.item for job in jobs]):
                left.popleft().give(result)
            if left:
                raise RuntimeError(f"{len(jobs) - len(left)} results for {len(jobs)} items")
        except Exception as error:
            if len(jobs) > 1:  # one faulty item must not fail the others
                for job in left:
                    self._answer(key, [job])
            elif left:
                left[0].fail(error)


def _distinct(jobs: Sequence[_Job[Item, Result]]) -> list[_Job[Item, Result]]:
    """One job for each item, which gives its result to all that wait for it."""
    first: dict[Item, _Job[Item, Result]] = {}
    for job in jobs:
        if (one := first.setdefault(job.item, job)) is not job:
            one.same.append(job.future)
    return list(first.values())
