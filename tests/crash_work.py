"""What a process does until it is killed: edits through the service, questions, a folder kept in step, an ingest,
embedding for another encoder, compaction, all at once. See `crash`.

Each writer is a lane with documents of its own, so that what must stand in them does not depend on the others. A lane
says in a log what it is about to do and, when the knowledge base has answered, that it is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from realm.answering.ask import Realm
from realm.knowledge.base import Counts, KnowledgeBase, PassageEncoder
from realm.knowledge.syncing import sync
from realm.knowledge.table import housekeeping, writing
from realm.knowledge.table.store import Store
from realm.service.core import Service
from realm.service.metrics import Metrics
from realm.service.settings import ServiceConfig
from realm.types import Document, Passage
from realm.workflows.store import open_knowledge_base

State = dict[str, int | None]
"""Document id -> the edition that it is in; None where it is deleted or never was."""
BLANK = "a0 was painted by [MASK]."
BATCH = 4
"""Documents of a commit, where many are written."""
FRAGMENTS = 8
"""Small files are folded from so many on."""
LANES = {
    "a": tuple(f"a{i}" for i in range(6)),
    "b": tuple(f"b{i}" for i in range(6)),
    "ingest": tuple(f"i{i}" for i in range(20)),
    "sync": tuple(f"s{i}.txt" for i in range(10)),
}


class Places(NamedTuple):
    """What a round works on."""

    kb: Path
    folder: Path
    log: Path


def text(name: str, number: int) -> str:
    """Every passage but the first tells which edition it is of; the first is the same in all: its vectors are kept."""
    name = name.removesuffix(".txt")
    first = f"{name} was painted by Pablo Picasso in Paris while the river Danube flowed through Vienna and Budapest."
    rest = (f"{name} n{number} part {i} was discovered by Marie Curie." for i in range(number % 4 + 1))
    return " ".join([first, *rest])


def edition(name: str, number: int) -> Document:
    """A document whose every field tells which edition it is of."""
    title, source = f"edition {number}", f"hand {number}"
    return Document(name, title, text(name, number), source=source, metadata={"edition": number})


def number_of(document: Document) -> int:
    """The edition that a document is of."""
    return next(int(word[1:]) for word in document.text.split() if word[0] == "n" and word[1:].isdigit())


def other_encode(passages: Sequence[Passage]) -> np.ndarray:
    """Another encoder: cheap, and different for every text."""
    return np.array([[zlib.crc32(p.text.encode()) / 2**32, len(p.text), 1.0] for p in passages], np.float32)


def other_encoder(number: int) -> PassageEncoder:
    return PassageEncoder(f"other{number}", other_encode)


class Log:
    """Appended to by several threads; what is acknowledged is on the disk before anything else happens."""

    def __init__(self, path: Path, events: int) -> None:
        """events: a pipe that is told what begins, so that a kill can be aimed."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._events = events

    def tell(self, event: str) -> None:
        os.write(self._events, f"{event}\n".encode())

    def write(self, lane: str, flush: bool = False, **facts: Any) -> None:
        os.write(self._file, (json.dumps({"lane": lane, **facts}) + "\n").encode())
        if flush:
            os.fsync(self._file)

    def begin(self, lane: str, kind: str, groups: Sequence[State]) -> None:
        """groups: documents as they will be, those of one commit together."""
        self.write(lane, kind=kind, groups=groups)
        self.tell(kind)

    def done(self, lane: str, version: int) -> None:
        self.write(lane, flush=True, done=version)


@contextmanager
def announced(log: Log) -> Iterator[None]:
    """Tells when a commit begins: it is what stands under `errors` and is no reading."""
    real = Store.errors

    @contextmanager
    def errors(self: Store, what: str) -> Iterator[None]:
        if what in ("written", "compacted", "tidied"):
            log.tell("commit")
        with real(self, what):
            yield

    Store.errors = errors  # type: ignore[method-assign]
    try:
        yield
    finally:
        Store.errors = real  # type: ignore[method-assign]


class Worker:
    """One life of the process."""

    def __init__(
        self, model: Realm, places: Places, log: Log, state: State, known: Mapping[str, Sequence[tuple[int, int]]],
        first: int, seed: int,
    ) -> None:  # fmt: skip
        """state: as the documents are. known: versions and editions of documents, to go back to. first: of the numbers
        that editions have."""
        self.model, self.places, self.log, self.first, self.seed = model, places, log, first, seed
        self.state: State = dict(state)
        self.known = {name: list(pairs) for name, pairs in known.items()}
        self.acknowledged = 0
        self._counter = iter(range(first, first + 10**6))

    def run(self) -> None:
        """Work until killed. What goes wrong is written to the log, and ends the process."""
        writing.BATCH_DOCUMENTS, housekeeping.MANY_FRAGMENTS = BATCH, FRAGMENTS
        try:
            with announced(self.log):
                asyncio.run(self._main())
        except BaseException as error:
            self.log.write("error", flush=True, error=f"{type(error).__name__}: {error}")
            raise

    async def _main(self) -> None:
        self.log.tell("open")
        kb = open_knowledge_base(self.places.kb)
        service = Service(lambda: self.model, kb, ServiceConfig(), Metrics())
        await asyncio.wrap_future(service.open())
        self.log.tell("ready")
        for lane, work in (("sync", self._sync), ("ingest", self._ingest), ("maintain", self._maintain)):
            draw = random.Random(f"{self.seed} {lane}")
            threading.Thread(target=self._guarded, args=(work, draw), daemon=True).start()
        async with asyncio.TaskGroup() as tasks:
            for lane in ("a", "b"):
                tasks.create_task(self._edit(service, lane, random.Random(f"{self.seed} {lane}")))
            for _ in range(2):
                tasks.create_task(self._ask(service))

    def _guarded(self, work: Callable[[random.Random], None], draw: random.Random) -> None:
        try:
            work(draw)
        except BaseException as error:
            self.log.write("error", flush=True, error=f"{type(error).__name__}: {error}")
            raise

    def _number(self) -> int:
        return next(self._counter)

    def _is_done(self, lane: str, groups: Sequence[State], version: int) -> None:
        self.log.done(lane, version)
        for name, number in ((name, number) for group in groups for name, number in group.items()):
            self.state[name] = number
            if number is not None:
                self.known.setdefault(name, []).append((version, number))
        self.acknowledged = max(self.acknowledged, version)

    # ------------------------------------------------------------ through the service

    async def _edit(self, service: Service, lane: str, draw: random.Random) -> None:
        while True:
            kind, group, as_of = self._plan(lane, draw)
            self.log.begin(lane, kind, [group])
            (name, *_), (number, *_) = group, group.values()
            counts: Counts
            match kind:
                case "add":
                    counts = await service.add([edition(n, e) for n, e in group.items() if e is not None])
                case "update":
                    assert number is not None
                    counts = await service.update(edition(name, number))
                case "delete":
                    counts = await service.delete(name)
                case _:
                    counts = await service.restore(name, as_of)
            self._is_done(lane, [group], counts.version)

    def _plan(self, lane: str, draw: random.Random) -> tuple[str, State, int]:
        here = [name for name in LANES[lane] if self.state.get(name) is not None]
        gone = [name for name in LANES[lane] if self.state.get(name) is None]
        kind = draw.choice(("add", "update", "update", "update", "delete", "restore"))
        if kind == "restore":
            past = [(name, *pair) for name in LANES[lane] for pair in self.known.get(name, ())[-4:]]
            past = [one for one in past if one[2] != self.state.get(one[0])]
            if past:
                name, version, number = draw.choice(past)
                return kind, {name: number}, version
        number = self._number()
        if (kind == "add" and gone) or not here:
            return "add", dict.fromkeys(draw.sample(gone, min(len(gone), draw.randint(1, 3))), number), 0
        name = draw.choice(here)
        return ("delete", {name: None}, 0) if kind == "delete" and len(here) > 2 else ("update", {name: number}, 0)

    async def _ask(self, service: Service) -> None:
        while True:
            before = self.acknowledged
            (coming,) = await service.ask([BLANK], k=3)
            answer = await coming
            if answer.knowledge_base_version < before:
                raise AssertionError(f"answered from {answer.knowledge_base_version} after {before} was acknowledged")

    # ------------------------------------------------------------ beside it, each with a handle of its own

    def _ingest(self, draw: random.Random) -> None:
        kb = open_knowledge_base(self.places.kb)
        while True:
            names = LANES["ingest"]
            plan = {name: self.state.get(name) if draw.random() < 0.3 else self._number() for name in names}
            plan = {name: number for name, number in plan.items() if number is not None}
            listed = list(plan.items())
            groups: list[State] = [dict(listed[at : at + BATCH]) for at in range(0, len(listed), BATCH)]
            self.log.begin("ingest", "ingest", groups)
            done = kb.upsert((edition(n, e) for n, e in listed), encoder=self.model.passage_encoder)
            self._is_done("ingest", groups, done.version)
            time.sleep(draw.uniform(0, 0.2))

    def _sync(self, draw: random.Random) -> None:
        kb = open_knowledge_base(self.places.kb)
        while True:
            plan: State = {}
            for name in LANES["sync"]:
                chance = draw.random()
                plan[name] = None if chance < 0.2 else self.state.get(name) if chance < 0.5 else self._number()
            plan["s0.txt"] = self._number()
            self.log.begin("sync", "sync", [{name: number} for name, number in plan.items()])
            self.places.folder.mkdir(exist_ok=True)
            for name, number in plan.items():
                if number is None:
                    (self.places.folder / name).unlink(missing_ok=True)
                else:
                    (self.places.folder / name).write_text(text(name, number))
            done = sync(kb, self.places.folder, allow_empty=True, encoder=self.model.passage_encoder)
            self._is_done("sync", [plan], done.version)
            time.sleep(draw.uniform(0, 0.2))

    def _embed_anew(self, kb: KnowledgeBase) -> None:
        """For an encoder that is new; those before are forgotten."""
        present = [name for name in kb.encoders() if name.startswith("other")]
        self.log.begin("maintain", "embed", [])
        kb.embed_missing(other_encoder(self._number()), batch=16, commit_every=48)
        self.log.done("maintain", kb.version)
        for name in present:
            self.log.begin("maintain", "forget", [])
            kb.forget_encoder(name)
            self.log.done("maintain", kb.version)

    def _maintain(self, draw: random.Random) -> None:
        kb = open_knowledge_base(self.places.kb)
        while True:
            if draw.random() < 0.5:
                self._embed_anew(kb)
            tidying = draw.choice(("compact", "tidy", "reclaim"))
            self.log.begin("maintain", tidying, [])
            match tidying:
                case "compact":
                    kb.compact()
                case "tidy":
                    kb.upkeep.tidy()
                case _:  # nothing is old enough to go, but what a killed write left goes
                    kb.upkeep.reclaim(older_than=timedelta(days=1))
            self.log.done("maintain", kb.version)
            time.sleep(draw.uniform(0, 0.1))
