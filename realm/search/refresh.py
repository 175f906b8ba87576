"""Refresh, seen from the trainer: publish parameters, poll for the next index (Guu et al. 2020, section 3.3, figure 3).

Between two training steps::

    if step % refresh_every == 0:
        refresh.publish(step, encoder.save_pretrained)
    if (fresh := refresh.poll()) is not None:
        index = ExactIndex.open(fresh.folder, snapshot=..., encoder=...)

"async": another process embeds, the trainer never waits; with `Job.partial` indexes come back on the way, too. "ray":
the same, but that process has workers on a Ray cluster embed; the trainer's own process knows nothing of Ray, so no
machine's death can hold it up. "sync": `poll` embeds then and there, so that the same seed gives the same run. "off":
the first index stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from realm.errors import TrainingError, UsageError
from realm.files import write_text
from realm.search.jobs import Job, resolve
from realm.search.refresher import build, newest
from realm.search.shelf import Fresh, Shelf
from realm.types import Progress


class Refresh(Protocol):
    """What the trainer knows of refreshing."""

    def publish(self, step: int, save: Callable[[Path], object]) -> None:
        """Offer the parameters of `step`: `save` writes them into the folder it is given. Embedding comes later."""
        ...

    def poll(self) -> Fresh | None:
        """The newest index since the last call, if there is one. TrainingError: the refresher can't be kept alive."""
        ...

    def pending(self) -> set[int]:
        """Steps whose parameters were published and may still come back as an index; outdated ones are dropped."""
        ...

    def wait(self, timeout: float | None = None) -> Fresh | None:
        """Like `poll`, but first lets everything published be embedded. TrainingError: not within `timeout` seconds."""
        ...

    def close(self) -> None:
        """End the refresher. Unfinished work is kept for the next start, and never mistaken for an index."""
        ...


def reference(function: Callable[..., object] | str) -> str:
    """ "module:function" for a function of a module. UsageError for one that another process can't import."""
    if isinstance(function, str):
        return function
    name = f"{function.__module__}:{function.__qualname__}"
    if "<" in name or function.__module__ == "__main__":
        raise UsageError(f"{name} can't be imported elsewhere: expected a function at the top of a module")
    return name


def open_refresh(
    mode: str,
    job: Job,
    *,
    since: int = 0,
    current: int = -1,
    in_use: Callable[[], Iterable[Path]] | None = None,
    keep: int = 2,
    progress: Progress | None = None,
    on_event: Callable[[str], None] | None = None,
    patience: float = 600.0,
    max_restarts: int = 3,
) -> Refresh:
    """The refresh of a run, in mode "async", "ray", "sync" or "off".

    since: the step at which the trainer stands. Parameters and indexes of later steps come from a future that was
    given up when the run was resumed, and are removed.
    current: the step of the index that the trainer holds; only newer ones are offered. -1: none yet.
    in_use: folders of indexes that must stay (a checkpoint names them), besides the newest `keep` ones.
    progress: sync only; an asynchronous refresher reports in refresh/heartbeat.json.
    on_event: one line about a restart, or about a worker that was lost. patience: seconds without any progress until a
    refresher counts as hanging. max_restarts: without a finished index in between.
    MissingLibraryError: mode "ray" without the library.
    """
    if keep < 1:
        raise UsageError(f"keep is {keep}: expected at least 1, the index in use")
    if mode == "off":
        return Off()
    job = replace(job, folder=str(Path(job.folder).resolve()), snapshot=str(Path(job.snapshot).resolve()))
    resolve(job.opener)  # fail here, with a clear message, and not in another process
    if mode == "ray":
        from realm.search.cluster.engine import require

        require()
    job = replace(job, workers=max(job.workers, 1) if mode == "ray" else 0)
    shelf = Shelf(job, since, current, keep, in_use or tuple)
    if mode == "sync":
        return Sync(job, shelf, progress)
    if mode in ("async", "ray"):
        return Async(job, shelf, on_event, patience, max_restarts)
    raise UsageError(f"refresh mode {mode!r}: expected async, ray, sync or off")


class Off:
    """No refresh: the parameters go on, the index stays."""

    def publish(self, step: int, save: Callable[[Path], object]) -> None:
        pass

    def poll(self) -> Fresh | None:
        return None

    def pending(self) -> set[int]:
        return set()

    def wait(self, timeout: float | None = None) -> Fresh | None:
        return None

    def close(self) -> None:
        pass


class Sync:
    """Embeds when polled, in this process: deterministic, what the other mode is compared with."""

    def __init__(self, job: Job, shelf: Shelf, progress: Progress | None) -> None:
        self._job, self._shelf, self._progress = job, shelf, progress

    def publish(self, step: int, save: Callable[[Path], object]) -> None:
        self._shelf.publish(step, save)

    def poll(self) -> Fresh | None:
        found = newest(self._job)
        if found is not None:
            build(self._job, found[1], progress=self._progress)
            shutil.rmtree(found[1], ignore_errors=True)
        return self._shelf.take()

    def pending(self) -> set[int]:
        return self._shelf.pending()

    def wait(self, timeout: float | None = None) -> Fresh | None:
        return self.poll()

    def close(self) -> None:
        pass


class Async:
    """Looks after a refresher in its own process: started at once, restarted when it dies, ended with the trainer."""

    def __init__(
        self,
        job: Job,
        shelf: Shelf,
        on_event: Callable[[str], None] | None,
        patience: float,
        max_restarts: int,
    ) -> None:
        self._job, self._shelf = job, shelf
        self._on_event = on_event or (lambda line: None)
        self._patience, self._max_restarts = patience, max_restarts
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = job.events.stat().st_size if job.events.exists() else 0
        self._start()

    @property
    def pid(self) -> int | None:
        """Of the refresher's process; None after `close`."""
        return self._process.pid if self._process is not None else None

    def publish(self, step: int, save: Callable[[Path], object]) -> None:
        self._watch()
        self._shelf.publish(step, save)

    def poll(self) -> Fresh | None:
        fresh = self._shelf.take()
        if fresh is not None:
            self._restarts = 0
        else:
            self._watch()
        return fresh

    def pending(self) -> set[int]:
        return self._shelf.pending()

    def wait(self, timeout: float | None = None) -> Fresh | None:
        end = None if timeout is None else time.monotonic() + timeout
        last: Fresh | None = None
        while True:
            last = self.poll() or last
            if self._shelf.taken >= self._shelf.published:
                return last
            if end is not None and time.monotonic() > end:
                raise TrainingError(
                    f"no index of step {self._shelf.published} within {timeout:g} seconds: "
                    f"look into {self._job.log}, or wait longer"
                )
            time.sleep(0.05)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> None:
        job = self._job
        description = job.heartbeat.with_name("job.json")
        write_text(description, job.to_json())
        paths = [path or os.getcwd() for path in sys.path]
        count = str(job.threads)
        threads = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
        with open(job.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "realm.search.refresher", str(description), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._started = time.time()

    def _hear(self) -> None:
        """Tell what the refresher wants told."""
        events = self._job.events
        if not events.exists() or events.stat().st_size <= self._heard:
            return
        with open(events, "rb") as stream:
            stream.seek(self._heard)
            whole, _, _ = stream.read().rpartition(b"\n")
        self._heard += len(whole) + 1 if whole else 0
        for line in whole.decode("utf-8", "replace").splitlines():
            self._on_event(line)

    def _watch(self) -> None:
        """Restart a refresher that is dead or hangs. Never waits."""
        self._hear()
        process = self._process
        if process is None:
            raise UsageError("this refresh was closed: open another one")
        code = process.poll()
        if code is None:
            silent = time.time() - max(self._started, _modified(self._job.heartbeat))
            if silent < self._patience:
                return
            process.kill()
            process.wait()
            reason = f"showed no progress for {silent:.0f} seconds"
        else:
            reason = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended: {self._last_line()}"
        if process.stdin is not None:
            process.stdin.close()
        self._restarts += 1
        if self._restarts > self._max_restarts:
            self._process = None
            raise TrainingError(
                f"the refresher {reason}, after {self._max_restarts} restarts without a new index: "
                f"see {self._job.log}; refresh=sync shows the error in the trainer itself"
            )
        self._on_event(f"the refresher {reason}; restart {self._restarts} of {self._max_restarts}")
        self._start()

    def _last_line(self) -> str:
        try:
            lines = self._job.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return "no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "no word in the log")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
