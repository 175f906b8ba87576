"""The folders that trainer and refresher share, from the trainer's side: what is published, and what came back.

Only the trainer removes indexes, only the refresher removes parameters, so the folders are the whole state.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from realm.errors import UsageError
from realm.files import MANIFEST, read_json, staged_folder, write_json
from realm.search.jobs import PUBLISHED, Job, fingerprint_parameters, partials, step_name, steps


class Fresh(NamedTuple):
    """A committed index that is newer than the one in use."""

    step: int
    """At which its parameters were published; index age in steps is the trainer's step minus this."""
    folder: Path
    published_at: float
    """Seconds since the epoch; index age in seconds is the present minus this."""
    committed_at: float
    """Seconds since the epoch."""
    encoder: str
    """Fingerprint of the encoder, as in the index's manifest: its own `fingerprint()`, else that of its files."""
    rows_of: Mapping[int, int] | None = None
    """Of a partial index, which the complete one of the same step will follow: how many rows were embedded by the
    parameters of each step. None for a complete one."""


class Shelf:
    """Parameters out, indexes in."""

    def __init__(self, job: Job, since: int, current: int, keep: int, in_use: Callable[[], Iterable[Path]]) -> None:
        self._job, self._keep, self._in_use = job, keep, in_use
        self.taken = current
        """Step of the newest complete index that was taken."""
        self._part = (-1, -1)
        """Step and part of the newest partial one."""
        self.published = -1
        job.indexes.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(job.parameters, ignore_errors=True)
        job.parameters.mkdir(parents=True)
        for step, path in steps(job.indexes, MANIFEST):
            if step > since:
                _remove(path)
        # A run goes on with complete indexes: the next refresh makes its own parts.
        for _, _, path in partials(job.indexes):
            _remove(path)
        for leftover in [*job.indexes.glob(".step-*.gone-*"), *job.indexes.glob(".step-*.part-*")]:
            shutil.rmtree(leftover, ignore_errors=True)

    def publish(self, step: int, save: Callable[[Path], object]) -> None:
        last = max(self.taken, self.published)
        if step < last:
            raise UsageError(f"parameters of step {step} published after step {last}: steps only go up")
        index = self._job.indexes / step_name(step)
        with staged_folder(self._job.parameters / step_name(step)) as staged:
            save(staged)
            saved = fingerprint_parameters(staged)
            # An index of this step was left by a run that was interrupted here: good if the parameters are the same.
            if (index / MANIFEST).exists() and read_json(index / MANIFEST).get("parameters") != saved:
                _remove(index)
                self.taken = min(self.taken, step - 1)
            write_json(staged / PUBLISHED, {"step": step, "time": time.time()})
        self.published = step

    def pending(self) -> set[int]:
        """Steps of the parameters that are there, and of the indexes that were not taken yet."""
        # In this order: the refresher removes parameters when their index is there, so one of the two is seen.
        waiting = {step for step, _ in steps(self._job.parameters, PUBLISHED)}
        return waiting | {step for step, _ in steps(self._job.indexes, MANIFEST) if step > self.taken}

    def take(self) -> Fresh | None:
        """The newest index that was not taken yet; what it replaces is removed, except what is in use."""
        found = [(step, path) for step, path in steps(self._job.indexes, MANIFEST) if step > self.taken]
        if not found:
            return self._take_part()
        step, folder = found[-1]
        manifest = read_json(folder / MANIFEST)
        self.taken = step
        for of, _, path in partials(self._job.indexes):
            if of <= step:
                _remove(path)
        pinned = {Path(path).resolve() for path in self._in_use()}
        for _, path in list(steps(self._job.indexes, MANIFEST))[: -self._keep]:
            if path.resolve() not in pinned:
                _remove(path)
        committed = (folder / MANIFEST).stat().st_mtime
        return Fresh(step, folder, manifest["published"], committed, manifest["encoder"])

    def _take_part(self) -> Fresh | None:
        """The newest partial index of a step whose complete one is still on its way; older parts are removed."""
        found = [one for one in partials(self._job.indexes) if one[0] > self.taken]
        if not found or found[-1][:2] <= self._part:
            return None
        step, part, folder = found[-1]
        self._part = (step, part)
        for _, _, path in found[:-1]:
            _remove(path)
        manifest = read_json(folder / MANIFEST)
        rows_of = {int(of): int(rows) for of, rows in manifest["rows_of"].items()}
        committed = (folder / MANIFEST).stat().st_mtime
        return Fresh(step, folder, manifest["published"], committed, manifest["encoder"], rows_of)


def _remove(path: Path) -> None:
    """Out of sight first, so that nobody opens an index that is half gone."""
    gone = path.with_name(f".{path.name}.gone-{uuid.uuid4().hex[:8]}")
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)
