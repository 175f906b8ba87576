"""Workers that hold parts of something, each part held by several. Any of a part's workers answers for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from realm.errors import RealmError, UnavailableError
from realm.search.cluster import engine
from realm.search.cluster.engine import Call, Needs, Worker, WorkerLost

SILENCE = 30.0
"""Seconds without an answer to "are you there" after which a worker counts as lost."""
HEDGE = 5.0
"""Seconds after which another worker is asked the same: the first may hang, or only be slow."""
TRIES = 3
"""Workers in a row that may be lost while they open a part; then there is none for a while."""
AGAIN = 30.0
"""Seconds until another is tried then, and that a machine which lost a worker is avoided: it may be dying."""


@dataclass(eq=False)
class _Replica:
    worker: Worker
    pulse: Call | None
    """The answer to `open`, and later to "are you there"."""
    node: str | None
    """Where it should be, and once it has its part, where it is."""
    asked: float = field(default_factory=time.monotonic)
    place: str = ""
    """Where it is; empty as long as it opens its part."""
    busy: int = 0
    """Questions that it has to answer."""


@dataclass(eq=False)
class _Part:
    arguments: tuple[Any, ...]
    replicas: list[_Replica] = field(default_factory=list)
    stillborn: int = 0
    """Workers in a row that were lost while they opened it."""
    barred: float = 0.0
    """Until when no other is tried."""
    reason: str = ""
    """Why the last worker was lost."""
    error: RealmError | None = None
    """Why it can't be opened any more, or could not at all."""

    def ready(self, tried: Sequence[_Replica] = ()) -> _Replica | None:
        """The least busy one that is there and, as far as is known, well."""
        found = [r for r in self.replicas if r.place and r not in tried]
        return min(found, key=lambda r: (r.pulse is not None, r.busy), default=None)


@dataclass(eq=False)
class _Question:
    """What one part is asked, and of whom."""

    part: int
    arguments: tuple[Any, ...]
    tried: list[_Replica] = field(default_factory=list)
    pending: int = 0
    since: float = field(default_factory=time.monotonic)


class Replicas:
    """Asks every part, and answers only when each has answered.

    The kind has methods `open() -> Place`, called first, and `pulse() -> Place`, answered while others work. Several
    threads may ask at once.
    """

    def __init__(
        self,
        kind: type,
        parts: Sequence[tuple[Any, ...]],
        *,
        replicas: int,
        needs: Needs,
        tell: Callable[[str], object],
        calls: int = 8,
        hedge: float = HEDGE,
        silence: float = SILENCE,
    ) -> None:
        """parts: arguments of the kind. calls: questions that a worker answers at once. hedge, silence: see above."""
        self._kind, self._needs, self._calls = kind, needs, calls
        self._tell, self._hedge, self._silence = tell, hedge, silence
        self._count = replicas
        self._lock = threading.Lock()
        self._parts = [_Part(arguments) for arguments in parts]
        self._avoided: dict[str | None, float] = {}
        """Machines, and until when."""
        with self._lock:
            self._look()

    def wait(self, seconds: float) -> None:
        """Until every replica of every part is there. UnavailableError: not within `seconds`. What `open` raised."""
        end = time.monotonic() + seconds
        while True:
            with self._lock:
                self._look()
                opening = [r.pulse for part in self._parts for r in part.replicas if not r.place]
                failed = next((part for part in self._parts if part.stillborn >= TRIES), None)
            if failed is not None:
                raise failed.error or UnavailableError(
                    f"{TRIES} workers in a row were lost as they opened a part: {failed.reason}"
                )
            if not opening:
                return
            if time.monotonic() > end:
                every = self._count * len(self._parts)
                raise UnavailableError(
                    f"{len(opening)} of {every} workers found no place within {seconds:g} seconds: each needs "
                    f"{self._needs.cpus:g} CPUs and {self._needs.gpus:g} GPUs, the cluster is {engine.size()}; add "
                    "machines, or take fewer shards or replicas"
                )
            engine.wait(opening, 0.5)

    def alive(self) -> list[int]:
        """How many workers of each part are there, as far as is known. Replaces those that were lost."""
        with self._lock:
            for part in self._parts:
                for replica in part.replicas:
                    self._feel(replica)
            self._look()
            return [sum(bool(replica.place) for replica in part.replicas) for part in self._parts]

    def ask(self, method: str, arguments: Sequence[tuple[Any, ...] | None], *, patience: float = 0.0) -> list[Any]:
        """The answer of each part, in order; None where its arguments are None.

        patience: seconds to wait for a new worker where a part has lost all. UnavailableError: it has lost all, and
        none came. Else what the method raised.
        """
        answers: list[Any] = [None] * len(self._parts)
        open_ = {n: _Question(n, given) for n, given in enumerate(arguments) if given is not None}
        calls: dict[Call, tuple[_Question, _Replica]] = {}
        try:
            while open_:
                with self._lock:
                    self._look()
                    for question in open_.values():
                        self._send(method, question, calls, patience)
                if not calls:
                    time.sleep(0.05)  # for a new worker
                for call in engine.wait(list(calls), min(0.5, self._hedge)):
                    question, replica = calls.pop(call)
                    question.pending -= 1
                    replica.busy -= 1
                    try:
                        answer = engine.result(call)
                    except WorkerLost as loss:
                        with self._lock:
                            self._lose(self._parts[question.part], replica, str(loss))
                        continue
                    if question.part in open_:
                        answers[question.part] = answer
                        del open_[question.part]
        finally:
            for _, replica in calls.values():
                replica.busy -= 1
        return answers

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            for part in self._parts:
                part.barred = float("inf")
                for replica in part.replicas:
                    engine.stop(replica.worker)
                part.replicas.clear()

    # ------------------------------------------------------------ inside, under the lock

    def _send(
        self, method: str, question: _Question, calls: dict[Call, tuple[_Question, _Replica]], patience: float
    ) -> None:
        """Ask somebody who wasn't asked yet: at first, after a loss, and when the others take long."""
        part, now = self._parts[question.part], time.monotonic()
        if question.pending:
            if now - question.since < self._hedge * question.pending:
                return
            for slow in question.tried:
                self._feel(slow)
        replica = part.ready(question.tried)
        if replica is None:
            if not question.pending and now - question.since >= patience:
                first, last = part.arguments[1:3]
                raise UnavailableError(
                    f"no worker is left for the rows {first:,} to {last - 1:,} of the index "
                    f"({part.reason or 'it was closed'}): their replacements are not there yet; ask again in a "
                    "moment, or hold more replicas"
                )
            return
        call = engine.ask(replica.worker, method, *question.arguments)
        question.tried.append(replica)
        question.pending += 1
        replica.busy += 1
        calls[call] = (question, replica)

    def _look(self) -> None:
        """Hear who is there; replace who is not."""
        now = time.monotonic()
        waiting = {r.pulse: (part, r) for part in self._parts for r in part.replicas if r.pulse is not None}
        for call in engine.wait(list(waiting), 0.0):
            part, replica = waiting[call]
            try:
                (replica.place, replica.node), replica.pulse, part.stillborn = engine.result(call), None, 0
            except WorkerLost as loss:
                self._lose(part, replica, str(loss))
            except RealmError as error:
                # Those that have their rows go on; a search fails only where none is left.
                part.stillborn, part.error = max(part.stillborn, TRIES - 1), error
                self._lose(part, replica, str(error))
        for part, replica in waiting.values():
            if replica.pulse is not None and replica.place and now - replica.asked > self._silence:
                self._lose(part, replica, f"no word for {now - replica.asked:.0f} seconds")
        short = [part for part in self._parts if len(part.replicas) < self._count and part.barred <= now]
        nodes = engine.nodes(self._needs) if short else []
        for part in short:
            while len(part.replicas) < self._count:
                node = self._node(part, nodes)
                worker = engine.start(self._kind, part.arguments, self._needs, node=node, calls=self._calls)
                part.replicas.append(_Replica(worker, engine.ask(worker, "open"), node))

    def _node(self, part: _Part, nodes: list[str]) -> str | None:
        """One that holds no replica of this part, if there is one, and few of other parts."""
        own = [replica.node for replica in part.replicas]
        every = [replica.node for other in self._parts for replica in other.replicas]
        now = time.monotonic()

        def cost(node: str) -> tuple[bool, int, int]:
            return self._avoided.get(node, 0.0) > now, own.count(node), every.count(node)

        return min(nodes, key=cost, default=None)

    def _feel(self, replica: _Replica) -> None:
        if replica.pulse is None:
            replica.pulse, replica.asked = engine.ask(replica.worker, "pulse"), time.monotonic()

    def _lose(self, part: _Part, replica: _Replica, reason: str) -> None:
        if replica not in part.replicas:  # lost a moment ago, by another of its calls
            return
        part.replicas.remove(replica)
        part.reason = reason
        engine.stop(replica.worker)
        self._avoided[replica.node] = time.monotonic() + AGAIN
        if not replica.place:
            part.stillborn += 1
            if part.stillborn >= TRIES:
                part.barred = time.monotonic() + AGAIN
        first, last = part.arguments[1:3]
        self._tell(
            f"the worker for the rows {first:,} to {last - 1:,} on {replica.place or 'its way'} was lost ({reason}); "
            "another takes its place"
        )
