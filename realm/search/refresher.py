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

import json
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from realm.errors import RealmError
from realm.search.jobs import PUBLISHED, Job, open_job, place_of, steps
from realm.types import Progress


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
