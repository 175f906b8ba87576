"""The refresher: takes the newest parameters, embeds the snapshot, publishes an index. Knows no trainer.

Run by `realm.search.refresh` as `python -m realm.search.refresher JOB.json PARENT_PID`, a process of its own.

On disk, below the job's folder::

    refresh/parameters/step-000500/   what the trainer published; appears whole, removed once embedded or outdated
    refresh/heartbeat.json            rewritten while there is progress
    refresh/refresher.log             standard error of the refresher
    refresh/events.log                what the trainer should tell, a line each
    index/step-000500/                a committed index (manifest last, folder renamed into place)
    index/step-000500.part-02/        while that is on its way: all rows, some of them carried over (partial.py)

The folders are the whole state: a refresher that is killed and started again goes on from finished shards.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from realm.errors import RealmError, UsageError
from realm.files import MANIFEST, fingerprint, read_json, sha256_of
from realm.types import Encoder, PassageSource, Progress

PUBLISHED = "publish.json"
"""In a folder of parameters: the step and the time of publication."""
PRIORITIES = "priorities.safetensors"
"""Beside it: which rows to embed first, as `realm.search.priorities` writes it."""


@dataclass(frozen=True)
class Job:
    """What there is to refresh, in JSON values."""

    folder: str
    """The run: parameters and indexes lie below it."""
    snapshot: str
    """Given to `opener` as a path."""
    opener: str
    """"module:function": (parameters: Path, snapshot: Path, **options) -> (encoder, source, max_tokens)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More arguments for `opener`, such as a device."""
    dtype: str = "float32"
    batch_tokens: int | None = None
    """Padded tokens of a batch, by the device when None."""
    bf16: bool = False
    """Compute the products in bfloat16."""
    rows_per_shard: int = 16384
    threads: int = 1
    """Of the refresher's process. Beside a trainer of one thread on two cores: 1."""
    nice: int = 0
    """Added to the refresher's niceness: above 0 it leaves a shared core to the trainer."""
    partial: float | None = None
    """Embed by priority, and publish a partial index after each such share of the work (`realm.search.partial`)."""
    workers: int = 0
    """On the machines of a Ray cluster, each of `threads`; 0: the refresher's own process embeds."""
    gpus: float = 0.0
    """Of each such worker."""

    @property
    def parameters(self) -> Path:
        return Path(self.folder) / "refresh" / "parameters"

    @property
    def indexes(self) -> Path:
        return Path(self.folder) / "index"

    @property
    def heartbeat(self) -> Path:
        return Path(self.folder) / "refresh" / "heartbeat.json"

    @property
    def log(self) -> Path:
        return Path(self.folder) / "refresh" / "refresher.log"

    @property
    def events(self) -> Path:
        return Path(self.folder) / "refresh" / "events.log"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@runtime_checkable
class Fingerprinted(Protocol):
    """An encoder that can name its parameters, so that an index is bound to it however it was saved."""

    def fingerprint(self) -> str: ...


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def steps(folder: Path, marker: str) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the finished folders, oldest first; `marker` is the file that a finished one has."""
    found = []
    for path in folder.glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdecimal() and (path / marker).exists():
            found.append((int(number), path))
    yield from sorted(found)


def partials(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(step, part, folder) of the finished partial indexes, oldest first."""
    found = []
    for path in folder.glob("step-*.part-*"):
        step, _, part = path.name.removeprefix("step-").partition(".part-")
        if step.isdecimal() and part.isdecimal() and (path / MANIFEST).exists():
            found.append((int(step), int(part), path))
    yield from sorted(found)


def resolve(reference: str) -> Callable[..., tuple[Encoder, PassageSource, int]]:
    """The function behind "module:function". UsageError where there is none."""
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"refresh can't import {reference!r} ({error}): expected 'module:function'") from error
    if not callable(found):
        raise UsageError(f"{reference!r} is no function: expected one that returns (encoder, source, max_tokens)")
    return found  # type: ignore[no-any-return]


def build(job: Job, parameters: Path, *, progress: Progress | None = None) -> Path:
    """Embed the snapshot with one folder of parameters. The index appears whole under index/step-…"""
    from realm.search.embed import embed

    out = place_of(job, parameters)
    encoder, source, max_tokens, facts = open_job(job, parameters)
    return embed(
        encoder,
        source,
        out,
        max_tokens=max_tokens,
        batch_tokens=job.batch_tokens,
        bf16=job.bf16,
        rows_per_shard=job.rows_per_shard,
        dtype=job.dtype,
        progress=progress,
        facts=facts,
    )


def place_of(job: Job, parameters: Path) -> Path:
    """Where the index of a folder of parameters comes to lie; what other steps left unfinished is removed."""
    name = step_name(read_json(parameters / PUBLISHED)["step"])
    job.indexes.mkdir(parents=True, exist_ok=True)
    for unfinished in job.indexes.glob(".step-*.partial-*"):
        if not unfinished.name.startswith(f".{name}.partial-"):
            shutil.rmtree(unfinished, ignore_errors=True)
    return job.indexes / name


def open_job(job: Job, parameters: Path) -> tuple[Encoder, PassageSource, int, dict[str, Any]]:
    """The encoder, what it embeds, the tokens of a passage, and the facts of the index that comes of it."""
    import torch

    published = read_json(parameters / PUBLISHED)
    # Opening an encoder may draw random numbers (initialisation), which must not disturb a trainer's own.
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices=devices):
        encoder, source, max_tokens = resolve(job.opener)(parameters, Path(job.snapshot), **job.options)
    saved = fingerprint_parameters(parameters)
    name = encoder.fingerprint() if isinstance(encoder, Fingerprinted) else saved
    facts = {"step": published["step"], "published": published["time"], "encoder": name, "parameters": saved}
    return encoder, source, max_tokens, facts


def fingerprint_parameters(folder: Path) -> str:
    """Of all files that `save` wrote: "parameters" in an index's manifest, and "encoder" if that has no name itself."""
    beside = (PUBLISHED, PRIORITIES)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in beside)
    return fingerprint(*(part for p in files for part in (str(p.relative_to(folder)), sha256_of(p))))


def newest(job: Job, building: int | None = None) -> tuple[int, Path] | None:
    """The newest parameters, if any wait. Older ones are dropped unread, but for those of the step that is built."""
    waiting = list(steps(job.parameters, PUBLISHED))
    for step, path in waiting[:-1]:
        if step != building:
            shutil.rmtree(path, ignore_errors=True)
    return waiting[-1] if waiting else None


def work(job: Job, *, idle: float = 0.2) -> None:
    """Serve for ever."""
    # What was published meanwhile and is outdated goes while an index is built: a slow one would let it pile up.
    beat = _Heartbeat(job.heartbeat, lambda: newest(job, building=beat.step))
    make: Callable[..., Path] = build
    look: Callable[[], object] | None = None
    if job.workers:
        from realm.search.cluster.embedding import Fleet

        fleet = Fleet(job, tell=lambda line: tell(job, line))
        make, look = fleet.build, fleet.look
    elif job.partial is not None:
        from realm.search.partial import build_in_parts

        make = build_in_parts
    while True:
        beat(0, None)
        found = newest(job)
        if found is None:
            if look is not None:
                look()
            time.sleep(idle)
            continue
        step, parameters = found
        beat.step = step
        make(job, parameters, progress=beat)
        shutil.rmtree(parameters, ignore_errors=True)


def tell(job: Job, line: str) -> None:
    """Let the trainer say something, at its next step."""
    with open(job.events, "a", encoding="utf-8") as stream:
        stream.write(" ".join(line.split()) + "\n")


class _Heartbeat:
    """A `Progress` that leaves a trace on disk and calls `then`, at most every half second."""

    def __init__(self, path: Path, then: Callable[[], object]) -> None:
        self.step: int | None = None
        self._path, self._then = path, then
        self._last = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._last < 0.5:
            return
        self._last = now
        staged = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        staged.write_text(json.dumps({"pid": os.getpid(), "step": self.step, "done": done, "total": total}))
        os.replace(staged, self._path)
        self._then()


def _die_with(parent: int) -> None:
    """End this process within a second of its parent's end, however that came.

    The parent holds the other end of standard input, so its death closes it; a sibling process that inherited
    that end would hide this, therefore the parent's id is looked at as well.
    """

    def watch() -> None:
        while os.getppid() == parent:
            ready, _, _ = select.select([0], [], [], 1.0)
            if ready and not os.read(0, 1):
                break
        # At once, wherever the main thread is: unfinished work has no manifest, so nothing half is left.
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    job = Job(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    # Ctrl-C reaches the whole terminal; the trainer decides when its refresher ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(int(arguments[1]))
    if job.nice:
        os.nice(job.nice)
    import torch

    torch.set_num_threads(job.threads)
    try:
        work(job)
    except RealmError as error:
        sys.stderr.write(f"{error}\n")
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
