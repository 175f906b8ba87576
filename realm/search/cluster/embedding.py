"""Embedding by workers on several machines: the same shards and manifest as `search.embed` writes in one process.

The snapshot, the parameters and the index lie in folders that all machines see under one path. A worker embeds one
shard's rows after another and writes the shard beside its place; whoever coordinates collects their hashes and gives
the folder its manifest. What is finished stays finished whoever is lost, the coordinator included, and one process
alone may go on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from realm.errors import ArtefactError, UnavailableError
from realm.search.cluster import engine
from realm.search.cluster.crew import Crew
from realm.search.cluster.engine import Needs
from realm.search.embed import Plan
from realm.search.jobs import PUBLISHED, Job, open_job, place_of
from realm.search.shards import shard_hashes
from realm.types import Encoder, PassageSource, Progress

JOIN = 300.0
"""Seconds for which a cluster is tried that does not answer."""
VISIBLE = 60.0
"""Seconds that a network file system may take to show a new folder to another machine."""


class Embedder:
    """A worker: holds one encoder and the snapshot."""

    def __init__(self, job: Job) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self._job = job
        self._of: str | None = None
        self._opened: tuple[Encoder, PassageSource, int, dict[str, Any]] | None = None
        self._place = engine.here().text
        self._done = 0

    def pulse(self) -> tuple[str, int]:
        """Where this is, and the rows of the present shard that are done."""
        return self._place, self._done

    def plan(self, parameters: str, out: str) -> tuple[Plan, dict[str, Any]]:
        """What there is to do for a folder of parameters, and the facts of the index."""
        job = self._job
        encoder, source, max_tokens, facts = self._open(parameters)
        plan = Plan.of(
            encoder,
            source,
            Path(out),
            max_tokens=max_tokens,
            bf16=job.bf16,
            rows_per_shard=job.rows_per_shard,
            dtype=job.dtype,
            name=facts["encoder"],
        )
        return plan, facts

    def shard(self, parameters: str, plan: Plan, number: int) -> dict[str, str]:
        """Write a shard, unless it is there. SHA-256 of its files by name."""
        self._done = 0
        path = plan.shard(number)
        _await(path.parent, "the folder of the unfinished index")
        if not path.exists():
            encoder, source, _, _ = self._open(parameters)
            plan.write(encoder, source, number, batch_tokens=self._job.batch_tokens, on_batch=self._count)
        return shard_hashes(path)

    def _count(self, rows: int) -> None:
        self._done += rows

    def _open(self, parameters: str) -> tuple[Encoder, PassageSource, int, dict[str, Any]]:
        if self._opened is None or self._of != parameters:
            self._opened = None  # so that two encoders are never held at once
            _await(Path(parameters) / PUBLISHED, "the parameters")
            self._opened, self._of = open_job(self._job, Path(parameters)), parameters
        return self._opened


class Fleet:
    """The workers of one job, kept from refresh to refresh."""

    def __init__(self, job: Job, *, tell: Callable[[str], object], address: str | None = None) -> None:
        """Joins the cluster (see `engine.connect`). tell: one line about a lost worker.

        UnavailableError: nobody answers there for JOIN seconds.
        """
        _join(address, tell)
        needs = Needs(float(job.threads), job.gpus)
        self._job = job
        self._crew = Crew(Embedder, (job,), count=job.workers, needs=needs, tell=tell)

    def build(self, job: Job, parameters: Path, *, progress: Progress | None = None) -> Path:
        """`refresher.build`, by the workers."""
        out = place_of(job, parameters)
        told = str(parameters)
        ((_, (plan, facts)),) = self._crew.map("plan", [(told, str(out))])
        return self.embed(plan, facts, told, progress=progress)

    def embed(self, plan: Plan, facts: Mapping[str, Any], parameters: str, *, progress: Progress | None = None) -> Path:
        """Every shard of a plan, then the manifest; the finished folder. ArtefactError, TrainingError: as `embed`."""
        if plan.finished():
            return plan.out
        plan.open(alone=True)
        ranges = plan.ranges
        hashes: dict[str, str] = {}
        done = shown = 0

        def show(under_way: int) -> None:
            nonlocal shown
            # Only what is more than before is progress: work that was lost is not, nor is mere waiting.
            if progress is not None and done + under_way > shown:
                shown = done + under_way
                progress(shown, plan.rows)

        tasks = [(parameters, plan, number) for number in range(len(ranges))]
        for number, found in self._crew.map("shard", tasks, on_progress=show):
            hashes |= found
            done += ranges[number][1] - ranges[number][0]
            show(0)
        return plan.seal(facts, hashes)

    def look(self) -> list[str]:
        """Between two refreshes: replace workers that were lost meanwhile. Where those are that are there."""
        return self._crew.look()

    def close(self) -> None:
        """End the workers."""
        self._crew.close()


def _join(address: str | None, tell: Callable[[str], object]) -> None:
    """A head that is started again may be back in some minutes."""
    end, told = time.monotonic() + JOIN, False
    while True:
        try:
            engine.connect(address)
            return
        except UnavailableError as error:
            if time.monotonic() > end:
                raise
            if not told:
                tell(f"{error}; trying again for {JOIN / 60:.0f} minutes")
                told = True
        time.sleep(1.0)


def _await(path: Path, what: str) -> None:
    """ArtefactError: it does not appear, because the machines share no such folder."""
    end = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > end:
            raise ArtefactError(
                f"{engine.here().text} sees no {path}, {what}: expected a folder that all machines share under one path"
            )
        time.sleep(0.1)
