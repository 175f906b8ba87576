"""Workers that share a list of tasks. One that is lost is replaced, and what it was doing is done again elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from realm.errors import TrainingError
from realm.search.cluster import engine
from realm.search.cluster.engine import Call, Needs, Worker, WorkerLost

LOOK = 0.5
"""Seconds between two looks at the workers."""
SILENCE = 60.0
"""Seconds without an answer to "are you there" after which a worker counts as lost: Ray says so sooner of one that
died, but not of one that hangs, or whose machine can't be reached."""
PLACE = 30.0
"""Seconds without any worker after which this is told."""


@dataclass(eq=False)
class _Member:
    worker: Worker
    pulse: Call | None
    """The answer to "are you there"; the first one comes when the worker has been made."""
    asked: float = field(default_factory=time.monotonic)
    """When."""
    place: str = ""
    """Where it is; empty as long as it is being made."""
    done: int = 0
    """Of its present task."""
    task: int | None = None
    call: Call | None = None


class Crew:
    """A fixed number of workers of one kind, as far as the cluster has room for them.

    The kind has a method `pulse() -> (place, done)`, which is answered while another one works: where it is, for a
    person to read, and how far it got with its task.
    """

    def __init__(
        self,
        kind: type,
        arguments: Sequence[Any],
        *,
        count: int,
        needs: Needs,
        tell: Callable[[str], object],
        tries: int = 3,
        silence: float = SILENCE,
    ) -> None:
        """tell: one line about a lost worker, or about waiting for a first one.

        tries: workers that a task may lose before it is given up. silence: see SILENCE.
        """
        self._kind, self._arguments, self._count, self._needs = kind, arguments, count, needs
        self._tell, self._tries, self._silence = tell, tries, silence
        self._members: list[_Member] = []
        self._waiting: deque[int] = deque()
        self._losses: Counter[int] = Counter()
        self._stillborn = 0
        """Workers in a row that were lost before they said anything."""

    def map(
        self,
        method: str,
        tasks: Sequence[tuple[Any, ...]],
        *,
        on_progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """(number, answer) of each task, as they come. on_progress: what `done` of the tasks under way adds up to.

        TrainingError: a task lost too many workers, or no worker stays alive. Else what the method raised. The workers
        are ended then.
        """
        self._waiting, self._losses, left = deque(range(len(tasks))), Counter(), len(tasks)
        placed, told = time.monotonic(), False
        try:
            while left:
                for member in self._members:
                    if member.place and member.task is None and self._waiting:
                        member.task, member.done = self._waiting.popleft(), 0
                        member.call = engine.ask(member.worker, method, *tasks[member.task])
                for answer in self._turn(LOOK):
                    left -= 1
                    yield answer
                if on_progress is not None:
                    on_progress(sum(member.done for member in self._members))
                if any(member.place for member in self._members):
                    placed, told = time.monotonic(), False
                elif not told and time.monotonic() - placed > PLACE:
                    told = True
                    self._tell(
                        f"no worker has a place yet: each needs {self._needs.cpus:g} CPUs and {self._needs.gpus:g} "
                        f"GPUs, the cluster is {engine.size()}; waiting"
                    )
        except BaseException:
            self.close()  # they may be at work on something that nobody waits for any more
            raise

    def look(self) -> list[str]:
        """Before and between calls of `map`: start workers, replace those that were lost. Doesn't wait.

        Where those are that are there, for a person to read.
        """
        list(self._turn(0.0))
        return [member.place for member in self._members if member.place]

    def close(self) -> None:
        """End the workers."""
        members, self._members = self._members, []
        for member in members:
            engine.stop(member.worker)

    def _turn(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """Wait so long for news. The tasks that were answered."""
        while len(self._members) < self._count:
            worker = engine.start(self._kind, self._arguments, self._needs)
            self._members.append(_Member(worker, engine.ask(worker, "pulse")))
        member_of = {call: m for m in self._members for call in (m.call, m.pulse) if call is not None}
        for call in engine.wait(list(member_of), seconds):
            member = member_of[call]
            if member not in self._members:  # lost a moment ago, by its other call
                continue
            try:
                answer = engine.result(call)
            except WorkerLost as loss:
                self._lose(member, str(loss))
                continue
            if call is member.pulse:
                member.place, member.done = answer
                member.pulse, self._stillborn = None, 0
                continue
            assert member.task is not None
            number, member.task, member.call, member.done = member.task, None, None, 0
            yield number, answer
        now = time.monotonic()
        for member in list(self._members):
            if member.pulse is None:
                if now - member.asked > LOOK:
                    member.pulse, member.asked = engine.ask(member.worker, "pulse"), now
            elif member.place and now - member.asked > self._silence:
                self._lose(member, f"no word for {now - member.asked:.0f} seconds")

    def _lose(self, member: _Member, reason: str) -> None:
        self._members.remove(member)
        engine.stop(member.worker)
        if not member.place:
            self._stillborn += 1
            if self._stillborn >= self._tries:
                raise TrainingError(f"{self._stillborn} workers in a row were lost as they began: {reason}")
            self._tell(f"a worker was lost as it began ({reason}); another takes its place")
            return
        if member.task is None:
            self._tell(f"the worker on {member.place} was lost ({reason}); another takes its place")
            return
        self._losses[member.task] += 1
        if self._losses[member.task] >= self._tries:
            raise TrainingError(
                f"part {member.task} lost {self._tries} workers, the last on {member.place} ({reason}): see the "
                "machines' memory and Ray's logs (/tmp/ray/session_latest/logs); finished parts are kept"
            )
        self._waiting.appendleft(member.task)
        self._tell(f"the worker on {member.place} was lost ({reason}); part {member.task} is done again by another")
