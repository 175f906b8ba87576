"""Salient spans of a snapshot: found once, kept beside it as memory-mapped arrays.

Legend: N rows (passages), S spans.

Guu et al. 2020, section 3.4, mask named entities and dates; neither their tagger nor their date pattern was
published, so `realm.knowledge.text.taggers` has its own. Offsets are characters of the passage's body text.

An artefact of format "realm spans" holds ``spans.npy`` Int32[S, 2], ``labels.npy`` UInt8[S], ``offsets.npy``
Int64[N + 1] (row r owns spans offsets[r]:offsets[r + 1]) and, last, ``manifest.json``. While the work goes
on, finished shards of rows stand in a hidden folder beside it; they are what an interrupted run goes on from.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from realm import errors, files
from realm.errors import ArtefactError, MismatchError, RealmError, UnavailableError, UsageError
from realm.knowledge.text.taggers import (
    DROPPED_LABELS,
    PATTERN,
    Tagger,
    find_tagger,
    load_tagger,
    tag_texts,
    works_without_torch,
)

FORMAT, FORMAT_VERSION = "realm spans", 1
SHARD_ROWS = 500
"""Rows a shard: some seconds of work, so that little is lost and progress is seen."""
Shard = tuple[int, int]
"""First and stop row."""


class Texts(Protocol):
    """What finding spans reads of a snapshot."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def text(self, row: int) -> str: ...


class SpanTable:
    """The salient spans of one snapshot, memory-mapped. Built by `find_spans`, opened by `open`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        try:
            self._spans, self._labels, self._offsets = (
                np.load(path / name, mmap_mode="r", allow_pickle=False)
                for name in ("spans.npy", "labels.npy", "offsets.npy")
            )
        except (OSError, ValueError, EOFError) as error:
            message = f"{path}: arrays can't be read ({error}): delete the folder and find the spans again"
            raise ArtefactError(message) from error
        count = len(self._spans)
        if len(self._labels) != count or len(self._offsets) != len(self) + 1 or int(self._offsets[-1]) != count:
            raise ArtefactError(f"{path}: arrays do not fit each other: delete the folder and find the spans again")

    @staticmethod
    def open(path: Path, snapshot: Texts | None = None) -> SpanTable:
        """Open a finished table. MismatchError when it was made from another snapshot, ArtefactError when torn."""
        path = Path(path)
        manifest = files.read_manifest(path, format=FORMAT, version=FORMAT_VERSION)
        if snapshot is not None and manifest["snapshot"] != snapshot.fingerprint:
            raise MismatchError(
                f"the spans in {path} were found in snapshot {manifest['snapshot']}, this is snapshot "
                f"{snapshot.fingerprint}: find the spans of this snapshot"
            )
        return SpanTable(path, manifest)

    def __len__(self) -> int:
        """N, the number of rows."""
        return int(self.manifest["rows"])

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def num_spans(self) -> int:
        return len(self._spans)

    def spans(self, row: int) -> np.ndarray:
        """Int32[S, 2]: (start, end) in characters of the row's body text, sorted, not overlapping."""
        return np.asarray(self._spans[self._range(row)])

    def labels(self, row: int) -> list[str]:
        """The label of each of the row's spans."""
        names = self.manifest["labels"]
        return [names[label] for label in self._labels[self._range(row)]]

    def counts(self) -> np.ndarray:
        """Int64[N]: the number of spans of every row."""
        return np.diff(self._offsets)

    def _range(self, row: int) -> slice:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return slice(int(self._offsets[row]), int(self._offsets[row + 1]))


def find_spans(
    snapshot: Texts,
    path: Path,
    *,
    pipeline: str = "en_core_web_sm",
    drop_labels: Collection[str] = DROPPED_LABELS,
    dates: bool = True,
    processes: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> SpanTable:
    """Find the salient spans of every row and keep them at `path`; open the table if it is there already.

    pipeline: a spaCy pipeline by name or folder, or ``pattern`` (capitalised runs; needs nothing installed).
    drop_labels: entity labels that are no salient spans. dates: whether the date pattern is added.
    processes: workers; by default one a core, at most 8, and one for ``pattern`` or a small corpus.
    progress: called with (rows done, rows) after every shard.

    An interrupted run goes on from its finished shards when called again with the same settings. Ctrl-C ends the
    workers and leaves the finished shards. Raises what `load_tagger` raises, and ArtefactError when the disk is
    full or a worker dies.
    """
    path = Path(path)
    total = len(snapshot)
    _, tagger_version = find_tagger(pipeline)
    drop = sorted(set(drop_labels))
    facts = {
        "snapshot": snapshot.fingerprint,
        "pipeline": {"name": pipeline, "version": tagger_version},
        "drop_labels": drop,
        "dates": dates,
        "rows": total,
    }
    key = files.fingerprint(json.dumps({"version": FORMAT_VERSION, **facts}, sort_keys=True))
    if (path / files.MANIFEST).exists():
        manifest = files.read_json(path / files.MANIFEST)
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT and manifest.get("fingerprint") == key:
            return SpanTable.open(path, snapshot)
    parts = path.with_name(f".{path.name}.parts-{key}")
    shards = [(start, min(start + SHARD_ROWS, total)) for start in range(0, total, SHARD_ROWS)]
    parts.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in shards if _read_shard(parts, shard) is None]
    done = total - sum(stop - start for start, stop in missing)
    if progress is not None:
        progress(done, total)

    def texts(shard: Shard) -> list[str]:
        return [snapshot.text(row) for row in range(*shard)]

    request = {"pipeline": pipeline, "drop": drop, "dates": dates}
    count = _workers(processes, pipeline, len(missing))
    results = _tag_here(missing, texts, request) if count <= 1 else _tag_in_workers(missing, texts, request, count)
    with closing(results):  # whatever happens here, the workers end
        for shard, found in results:
            _write_shard(parts, shard, found)
            done += shard[1] - shard[0]
            if progress is not None:
                progress(done, total)
    _merge(parts, shards, path, {**facts, "fingerprint": key})
    for leftover in path.parent.glob(f".{path.name}.parts-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return SpanTable.open(path, snapshot)


# ---------------------------------------------------------------- shards


def _shard_path(parts: Path, shard: Shard) -> Path:
    return parts / f"{shard[0]:010d}-{shard[1]:010d}.json"


def _write_shard(parts: Path, shard: Shard, found: list[list[Any]]) -> None:
    files.write_text(_shard_path(parts, shard), json.dumps(found))


def _read_shard(parts: Path, shard: Shard) -> list[list[tuple[int, int, str]]] | None:
    """A finished shard; None when it is absent or damaged, which both mean that it is made again."""
    try:
        found = json.loads(_shard_path(parts, shard).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) and len(found) == shard[1] - shard[0] else None


def _merge(parts: Path, shards: list[Shard], path: Path, facts: dict[str, Any]) -> None:
    """Shards to arrays, one shard in memory at a time."""
    names: dict[str, int] = {}
    total = int(facts["rows"])
    offsets = np.zeros(total + 1, np.int64)
    with files.staged_folder(path) as folder:
        with open(folder / "spans.raw", "wb") as spans_file, open(folder / "labels.raw", "wb") as labels_file:
            for shard in shards:
                found = _read_shard(parts, shard)
                if found is None:
                    raise ArtefactError(f"{_shard_path(parts, shard)} vanished: run the same command again")
                flat = [span for spans in found for span in spans]
                offsets[shard[0] + 1 : shard[1] + 1] = [len(spans) for spans in found]
                for span in flat:
                    names.setdefault(span[2], len(names))
                np.array([span[:2] for span in flat], np.int32).tofile(spans_file)
                np.array([min(names[span[2]], 255) for span in flat], np.uint8).tofile(labels_file)
        np.cumsum(offsets, out=offsets)
        count = int(offsets[-1])
        for name, dtype, shape in (("spans", np.int32, (count, 2)), ("labels", np.uint8, (count,))):
            _with_header(folder / f"{name}.raw", folder / f"{name}.npy", np.dtype(dtype), shape)
        np.save(folder / "offsets.npy", offsets)
        labels = list(names) if len(names) <= 256 else [*list(names)[:255], "OTHER"]
        files.write_manifest(folder, format=FORMAT, version=FORMAT_VERSION, **facts, spans=count, labels=labels)


def _with_header(raw: Path, target: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with open(target, "wb") as stream, open(raw, "rb") as source:
        np.lib.format.write_array_header_1_0(stream, header)
        shutil.copyfileobj(source, stream)
    raw.unlink()


# ---------------------------------------------------------------- workers


def _workers(processes: int | None, pipeline: str, shards: int) -> int:
    if processes is not None and processes < 1:
        raise UsageError(f"processes={processes}: expected at least 1")
    # A worker takes seconds to start; two shards are done sooner without one.
    wanted = (1 if pipeline == PATTERN or shards <= 2 else min(_cores(), 8)) if processes is None else processes
    return min(wanted, shards)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Results = Generator[tuple[Shard, list[list[Any]]], None, None]


def _tag_here(shards: list[Shard], texts: Callable[[Shard], list[str]], request: dict[str, Any]) -> Results:
    if not shards:
        return
    tagger = load_tagger(request["pipeline"])
    for shard in shards:
        yield shard, list(tag_texts(tagger, texts(shard), request["drop"], use_dates=request["dates"]))


def _tag_in_workers(
    shards: list[Shard],
    texts: Callable[[Shard], list[str]],
    request: dict[str, Any],
    count: int,
) -> Results:
    """Shards as they are finished.

    The workers are plain child processes that answer one line of JSON for another: they need no importable
    ``__main__``, end by themselves when this process dies (their input ends), and one that dies ends its answer,
    so nothing is ever waited on for ever. They have a session of their own, so Ctrl-C reaches only this process,
    which then ends them.
    """
    with ExitStack() as stack:
        idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        pool = stack.enter_context(ThreadPoolExecutor(count))
        workers = [stack.enter_context(_worker()) for _ in range(count)]
        for worker in workers:
            idle.put(worker)

        def ask(shard: Shard, content: list[str]) -> tuple[Shard, list[list[Any]]]:
            worker = idle.get_nowait()
            found = _ask(worker, {**request, "texts": content})
            idle.put(worker)
            return shard, found

        waiting = iter(shards)
        running: set[Future[tuple[Shard, list[list[Any]]]]] = set()
        while True:
            while len(running) < count and (shard := next(waiting, None)) is not None:
                running.add(pool.submit(ask, shard, texts(shard)))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


@contextmanager
def _worker() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    environment.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    process = subprocess.Popen(
        [sys.executable, "-c", "from realm.knowledge.text.spans import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # unsent bytes for a dead worker
                    pipe.close()


def _ask(worker: subprocess.Popen[str], request: dict[str, Any]) -> list[list[Any]]:
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except OSError:
        line = ""
    if not line.endswith("\n"):
        raise ArtefactError(
            f"a worker that finds spans died (exit code {worker.wait()}; out of memory?): finished shards are kept, "
            "run the same command again, with fewer processes if need be"
        )
    answer = json.loads(line)
    if "error" in answer:
        kind = getattr(errors, answer["kind"], RealmError)
        raise kind(answer["error"]) if kind in (UnavailableError, UsageError) else RealmError(answer["error"])
    return list(answer["spans"])


def serve() -> None:
    """The worker: reads requests from standard input until it ends, answers on standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    tagger: Tagger | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if tagger is None:
                if request["pipeline"] != PATTERN and works_without_torch(request["pipeline"]):
                    sys.modules["torch"] = None  # type: ignore[assignment]  # reads as "not installed"
                tagger = load_tagger(request["pipeline"])
            found = list(tag_texts(tagger, request["texts"], request["drop"], use_dates=request["dates"]))
            answer: dict[str, Any] = {"spans": found}
        except Exception as error:  # told to the parent, which raises it
            told = str(error) if isinstance(error, RealmError) else f"finding spans failed: {error!r}"
            answer = {"kind": type(error).__name__, "error": told}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:  # the parent was killed
            os._exit(1)
