"""Several processes that train one model: how they meet, wait for each other, and end together.

They meet in a key-value store (`realm.training.launch` opens it); waits and decisions go through it, sums of gradients
through `torch.distributed` (`realm.training.parallel`). A wait has no limit of its own, because rank 0 may embed for
hours while the others have nothing to do: it lasts as long as those who are missing show signs of life. An error on one
rank ends all, and is told once.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from realm.errors import RealmError, TrainingError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    meeting: float = 300.0
    """Until all processes have to be there."""
    silence: float = 60.0
    """Without a sign of life, until a process counts as gone."""
    collective: float = 1800.0
    """Of a sum of gradients and the like: between two of them lies a step, or a checkpoint that is written."""
    beat: float = 1.0
    """Between two signs of life."""


class Ranks:
    """This process among those that train together."""

    def __init__(
        self,
        store: Store | None = None,
        rank: int = 0,
        size: int = 1,
        *,
        local_rank: int = 0,
        hosts_store: bool = False,
        patience: Patience | None = None,
        abort: Callable[[], object] | None = None,
    ) -> None:
        """Without a store: a single process, for which nothing here waits or fails.

        hosts_store: the store ends with this process, which therefore leaves last. abort: ends this process from
        another thread, when another rank failed and this one has not noticed, because it hangs in a sum of gradients
        that the other will never bring its part of.
        """
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store, self._hosts_store, self._patience = store, hosts_store, patience or Patience()
        self._abort = abort
        self.at = "the start"
        """Where this rank is, in words: told of all where they don't come together."""
        self._count = 0
        self._ended, self._failing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if store is not None:
            store.set(f"host/{rank}", socket.gethostname())
            self._thread = threading.Thread(target=self._live, args=(store,), daemon=True)
            self._thread.start()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    # ------------------------------------------------------------ waiting

    def meet(self) -> None:
        """`wait` at the start, for processes that have shown no sign of life yet."""
        if self._store is not None:
            self._meet(self._store, "all processes to start", self._patience.meeting)

    def wait(self, what: str) -> None:
        """Until every rank has come here. what: it is that they wait for, in words.

        TrainingError: another rank failed, or has shown no sign of life.
        """
        if self._store is None:
            return
        self.at = f"the wait for {what}"
        self._meet(self._store, what, self._patience.silence)

    def tell(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank: JSON values. Raises what `make` raises, and as `wait`."""
        if self._store is None:
            return make()
        key = self._key("told")
        if self.first:
            self._store.set(key, json.dumps(make()))
        else:
            self._await(self._store, key, lambda: [0], "its decision", self._patience.silence)
        value: T = json.loads(self._store.get(key))
        return value

    @contextmanager
    def rank_0_first(self, what: str) -> Iterator[None]:
        """The block on rank 0, and when it is through, on the others. what: it does, in words."""
        if not self.first:
            self.wait(what)
        yield
        if self.first:
            self.wait(what)

    def _meet(self, store: Store, what: str, silence: float) -> None:
        key = self._key("wait")
        store.set(f"{key}/{self.rank}", "")
        if store.add(f"{key}/count", 1) == self.size:
            store.set(key, "")

        def missing() -> list[int]:
            return [rank for rank in range(self.size) if not store.check([f"{key}/{rank}"])]

        self._await(store, key, missing, what, silence)

    def _key(self, kind: str) -> str:
        """The same on all ranks, because all come by the same way."""
        self._count += 1
        return f"{kind}/{self._count}"

    def _await(self, store: Store, key: str, missing: Callable[[], list[int]], what: str, silence: float) -> None:
        signs: dict[int, tuple[int, float]] = {}
        pause, looked = 0.001, time.monotonic()
        while not store.check([key]):
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)
            if time.monotonic() - looked < self._patience.beat:
                continue
            looked = time.monotonic()
            self._raise_failed(store)
            for rank in missing():
                self._look(store, rank, signs, silence, what)

    def _look(self, store: Store, rank: int, signs: dict[int, tuple[int, float]], silence: float, what: str) -> None:
        """TrainingError when a rank has not shown a sign of life for `silence` seconds, by this process's clock."""
        now, beat = time.monotonic(), store.add(f"beat/{rank}", 0)
        if rank not in signs or signs[rank][0] != beat:
            signs[rank] = (beat, now)
        elif now - signs[rank][1] > silence:
            raise TrainingError(
                f"{self._name(store, rank)} gave no sign of life for {silence:g} seconds, and rank {self.rank} waits "
                f"for {what}: look on its machine for what ended it, and give the same command again; a run goes on "
                "from its last checkpoint"
            )

    def _raise_failed(self, store: Store) -> None:
        if store.check(["failed"]):
            raise TrainingError(f"ended, because {store.get('failed').decode()}")

    def _name(self, store: Store, rank: int) -> str:
        host = f" on {store.get(f'host/{rank}').decode()}" if store.check([f"host/{rank}"]) else ""
        return f"rank {rank} of {self.size}{host}"

    def _live(self, store: Store) -> None:
        """Give signs of life; see `abort`."""
        try:
            while not self._ended.wait(self._patience.beat):
                store.add(f"beat/{self.rank}", 1)
                store.set(f"at/{self.rank}", self.at)
                if self._abort is None or self._failing.is_set() or not store.check(["failed"]):
                    continue
                if not self._failing.wait(3 * self._patience.beat) and not self._ended.is_set():
                    store.set(f"gone/{self.rank}", "")
                    self._abort()
        except RuntimeError:  # the store is gone, and with it what kept the processes together; a wait tells of it
            pass

    # ------------------------------------------------------------ the end

    def leave(self) -> None:
        """All is done: go, the one who hosts the store last."""
        if self._store is not None:
            self._store.set(f"gone/{self.rank}", "")
            if self._hosts_store:
                self._until_gone(self._store, self._patience.silence)
        self._stop()

    def fail(self, error: BaseException) -> BaseException | None:
        """End the others with an error of this rank. Returns what is to be told of it: None when it only follows from
        another rank's, which is told there."""
        store = self._store
        if store is None:
            return error
        self._failing.set()
        try:
            told = self._fail(store, error)
            store.set(f"gone/{self.rank}", "")
            if self._hosts_store:
                self._until_gone(store, 5 * self._patience.beat)
        except RuntimeError:  # the store has ended
            lost = "rank 0, which keeps the processes together, is gone: look for its error"
            told = error if isinstance(error, RealmError | KeyboardInterrupt) else TrainingError(lost)
        self._stop()
        return told

    def _fail(self, store: Store, error: BaseException) -> BaseException | None:
        # What torch says when a process on the other side is gone is a RuntimeError: the one who went may still be
        # telling why.
        if isinstance(error, RuntimeError):
            try:
                self._watch(store, 5 * self._patience.beat)
            except TrainingError as reason:
                error = reason
            else:
                error = self._late(store) if "timed out" in str(error).lower() else error
        if store.add("failures", 1) > 1:
            return None
        told = str(error) or type(error).__name__
        store.set("failed", f"{self._name(store, self.rank)} failed: {told}")
        if self.rank and isinstance(error, RealmError):
            error.args = (f"{self._name(store, self.rank)}: {error}",)
        return error

    def _late(self, store: Store) -> TrainingError:
        """For a sum over the ranks that did not come about although all of them live."""
        places: dict[str, list[str]] = {}
        for rank in range(self.size):
            at = store.get(f"at/{rank}").decode() if store.check([f"at/{rank}"]) else "an unknown place"
            places.setdefault(at, []).append(str(rank))
        found = "; ".join(f"rank {', '.join(ranks)} at {at}" for at, ranks in places.items())
        return TrainingError(
            f"the ranks did not come together within {self._patience.collective:g} seconds, and all live: found "
            f"{found}; look at what holds up the one behind, and give the same command again"
        )

    def _watch(self, store: Store, seconds: float) -> None:
        """Look for so long whether another rank failed or went. TrainingError: it did."""
        signs: dict[int, tuple[int, float]] = {}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._raise_failed(store)
            for rank in range(self.size):
                if rank != self.rank and not store.check([f"gone/{rank}"]):
                    self._look(store, rank, signs, 3 * self._patience.beat, "its part of a step")
            time.sleep(min(0.05, self._patience.beat))

    def _until_gone(self, store: Store, seconds: float) -> None:
        end = time.monotonic() + seconds
        names = [f"gone/{rank}" for rank in range(self.size)]
        while time.monotonic() < end and not store.check(names):
            time.sleep(0.01)

    def _stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(self._patience.beat)
