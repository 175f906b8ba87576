"""One run of one suite: contests are held in it, and their rows, absences and notes make its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.core import limits, machine
from benchmarks.core.memory import peak_of
from benchmarks.core.peers import PEERS, open_peer
from benchmarks.core.profiling import profile
from benchmarks.core.record import Record, Row
from benchmarks.core.timing import Contestant, take_turns

T = TypeVar("T")


class Built(NamedTuple):
    """What building something cost."""

    seconds: float
    peak_bytes: int | None


class Bench:
    """Given to a suite's `run`."""

    def __init__(
        self,
        suite: str,
        *,
        command: str,
        sizes: dict[str, Any],
        quick: bool = False,
        rounds: int = 15,
        budget: float = 4.0,
        profiles: Path | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """rounds, budget: see `take_turns`. profiles: a folder for traces of the hot paths. say: progress, in words."""
        self.quick, self.rounds, self.budget, self.say = quick, rounds, budget, say
        self._profiles = profiles
        self._load = machine.Load()
        self._packages: set[str] = set()
        self.record = Record(
            suite=suite,
            when=datetime.now().astimezone().isoformat(timespec="seconds"),
            command=command,
            quick=quick,
            sizes=sizes,
            machine=machine.describe(),
            versions={},
            limits={} if quick else limits.rates(),
        )

    # ------------------------------------------------------------ holding contests

    def contest(
        self,
        work: str,
        contestants: Iterable[Contestant],
        *,
        unit: str | None = None,
        size: float | None = None,
        of: str = "",
        rounds: int | None = None,
    ) -> list[Row]:
        """Let them take turns, and keep a row of each. unit: of their items; None compares times."""
        listed = list(contestants)
        self.say(f"{work}{f', {size:,.0f} {of}' if size else ''}: {', '.join(one.who for one in listed)}")
        timed = take_turns(
            listed, rounds=rounds or self.rounds, budget=self.budget, each_round=self._load.look, tidy=not self.quick
        )
        rows = [
            Row(
                work=work,
                who=one.who,
                role=one.role,
                seconds=tuple(found.seconds),
                items=one.items,
                unit=unit,
                size=size,
                of=of,
                peak_bytes=None if one.role == "limit" else found.peak_bytes,
                facts=one.facts,
            )
            for one, found in zip(listed, timed, strict=True)
        ]
        self.record.rows += rows
        if self._profiles is not None:
            for one in listed:
                if one.role == "realm":
                    # Sizes ascend: the last, and largest, stays.
                    self.record.profiles[work] = profile(one.run, self._profiles, f"{self.record.suite}-{work}")
        return rows

    def once(
        self,
        work: str,
        who: str,
        run: Callable[[], T],
        *,
        role: str = "realm",
        items: float = 1.0,
        unit: str | None = None,
        size: float | None = None,
        of: str = "",
        **facts: Any,
    ) -> T:
        """One row of work that can't be repeated, such as filling an empty store; what it gave."""
        self.say(f"{work}{f', {size:,.0f} {of}' if size else ''}: {who}")
        result, built = self.build(run)
        row = Row(
            work=work, who=who, role=role, seconds=(built.seconds,), items=items, unit=unit, size=size, of=of,
            peak_bytes=built.peak_bytes, facts=facts,
        )  # fmt: skip
        self.add(row)
        return result

    def add(self, row: Row) -> None:
        """Keep a row that was timed elsewhere."""
        self.record.rows.append(row)
        self._load.look()

    def build(self, make: Callable[[], T]) -> tuple[T, Built]:
        """What was made, and its time and memory."""
        began = time.perf_counter()
        result, peak = peak_of(make, tidy=not self.quick)
        return result, Built(time.perf_counter() - began, peak)

    def products(self, flops: float) -> Contestant:
        """The machine's limit for so many operations; see `limits.products`."""
        return limits.products(flops, small=self.quick)

    def reads(self, size: float) -> Contestant:
        """The machine's limit for reading so many bytes."""
        return limits.reads(size, small=self.quick)

    # ------------------------------------------------------------ who does not take part

    def peer(self, module: str, who: str | None = None) -> Any | None:
        """A peer's module, or None, which the record tells with the reason. who: its name; the package's if None."""
        found, why = open_peer(module)
        if found is None:
            self.record.missing[who or PEERS[module]] = why
        else:
            self._packages.add(PEERS[module])
        return found

    def absent(self, who: str, why: str) -> None:
        self.record.missing[who] = why

    def fits(self, who: str, needed: float) -> bool:
        """Whether so many bytes are there to be taken; an absence where they aren't."""
        free = machine.available_bytes()
        if free is None or needed < 0.8 * free:
            return True
        self.absent(who, f"needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")
        return False

    def note(self, line: str) -> None:
        self.record.notes.append(line)

    # ------------------------------------------------------------ the end

    def finish(self) -> Record:
        """The record, with the machine's limits measured a second time and the versions of who took part."""
        if not self.quick:
            again = limits.rates()
            self.record.limits = {name: max(value, again[name]) for name, value in self.record.limits.items()}
        self.record.machine["load"] = self._load.facts()
        self.record.versions = {**machine.versions(sorted(self._packages)), **self.record.versions}
        return self.record
