"""Refresh as a stage of training does it: an encoder's parameters go out when it is time, and what comes back is an
index together with the parameters that made it.

A query is searched for with the parameters that made the index, so the trainer keeps a copy of what it published until
the index is there. Of the copies no more are kept than can come back: the one that is embedded and the newest waiting.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realm.config import LoopConfig, RefreshConfig
from realm.files import read_json
from realm.knowledge.snapshot import Snapshot
from realm.methods.proposing import stale_copy
from realm.models.encoders import DenseEncoder
from realm.search.drift import top_drift
from realm.search.jobs import Job, step_name
from realm.search.priorities import Priorities
from realm.search.refresh import Refresh, open_refresh
from realm.training import parallel
from realm.training.cadence import Cadence
from realm.training.ranks import Ranks
from realm.training.state import list_checkpoints, read_facts
from realm.types import Progress, TrainableEncoder
from realm.workflows import parts
from realm.workflows.run import Run
from realm.workflows.shared_refresh import share_refresh

SHARES = 4
"""Shards for each worker on a cluster, where there are few passages: the last to be done is then soon done."""


class Swap(NamedTuple):
    """An index to take into use."""

    step: int
    """Of its parameters."""
    folder: Path
    encoder: TrainableEncoder
    """The parameters that made it."""
    embedded: float = 1.0
    """Share of the rows that they embedded; the others of a partial index were carried over."""


class Refreshing:
    """Publishes and hands back, between two steps."""

    def __init__(
        self,
        refresh: Refresh,
        encoder: TrainableEncoder,
        cadence: Cadence,
        *,
        index_step: int = 0,
        age: float = 0.0,
        priorities: Priorities | None = None,
    ) -> None:
        """cadence: when to publish. index_step: of the index in use; age: seconds since its parameters were published,
        those while nothing was trained left out. priorities: published beside the parameters, for a refresh in
        parts."""
        self.refresh, self.encoder, self.cadence, self.priorities = refresh, encoder, cadence, priorities
        self.index_step, self._since = index_step, time.time() - age
        self.rows_of: Mapping[int, int] = {index_step: 1}
        """How many rows of the index in use were embedded by the parameters of each step."""
        self.copies: dict[int, TrainableEncoder] = {}
        """By step, the parameters whose index may still come."""

    def observe(self, rows_BK: Tensor, index_BK: Tensor, live_BK: Tensor) -> None:
        """What a step saw of the index: see `RealmPretraining.watch`."""
        if self.cadence.drift is not None:
            self.cadence.observe(float(top_drift(index_BK, live_BK)))
        if self.priorities is not None:
            self.priorities.observe(rows_BK, index_BK, live_BK)

    def before_step(self, step: int) -> Swap | None:
        """Publish when it is time; the index that came back, if one did. TrainingError: the refresher is lost."""
        if self._due(step):
            self.refresh.publish(step, self._save)
            self.cadence.published = step
            pending = self.refresh.pending()
            self.copies = {at: copy for at, copy in self.copies.items() if at in pending}
            if step in pending:
                self.copies[step] = stale_copy(self.encoder)
        fresh = self.refresh.poll()
        if fresh is None or fresh.step not in self.copies:
            return None
        encoder = self.copies[fresh.step]
        # The complete index of a partial one's step is still to come.
        kept = fresh.step - (fresh.rows_of is not None)
        self.copies = {at: copy for at, copy in self.copies.items() if at > kept}
        self.index_step, self._since = fresh.step, fresh.published_at
        self.rows_of = fresh.rows_of or {fresh.step: 1}
        self.cadence.swapped()
        return Swap(fresh.step, fresh.folder, encoder, self.rows_of[fresh.step] / sum(self.rows_of.values()))

    def _due(self, step: int) -> bool:
        due = self.cadence.due(step, self.refresh.pending)
        # Each process measures the drift of its own part of a batch, and they have to publish together.
        return due if self.cadence.drift is None else parallel.anywhere(due)

    def _save(self, folder: Path) -> None:
        self.encoder.save_pretrained(folder)
        if self.priorities is not None:
            self.priorities.save(folder)

    def age(self, step: int) -> dict[str, float]:
        """How old the index in use is, for the log: `index_age_steps` of its newest rows, and `index_row_age_steps`,
        the mean over all rows, where they differ."""
        ages = {"index_age_steps": float(step - self.index_step), "index_age_seconds": time.time() - self._since}
        if len(self.rows_of) > 1:
            total = sum(rows * (step - of) for of, rows in self.rows_of.items())
            ages["index_row_age_steps"] = total / sum(self.rows_of.values())
        return ages

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps: `index_step`, `index_age_seconds` so that a run which goes on counts on, and the
        state of a cadence that has one."""
        kept: dict[str, Any] = {"index_step": self.index_step, "index_age_seconds": time.time() - self._since}
        return kept if self.cadence.drift is None else {**kept, "cadence": self.cadence.facts()}

    def close(self) -> None:
        self.refresh.close()


def open_refreshing(
    run: Run,
    encoder: DenseEncoder,
    snapshot: Snapshot,
    config: RefreshConfig,
    loop: LoopConfig,
    *,
    device: torch.device,
    max_tokens: int,
    begin: int,
    facts: Mapping[str, Any],
    always: Iterable[int] = (),
    on_event: Callable[[str], None],
    ranks: Ranks | None = None,
) -> Refreshing:
    """The refresh of a run that begins, or goes on, at step `begin`.

    facts: of the checkpoint that it goes on from, as `Refreshing.facts` gave them. always: steps whose index stays
    besides those that a checkpoint names. max_tokens: of a passage. on_event: one line about a restart. ranks: train
    together; each must call.
    """
    ranks = ranks or Ranks()
    job = _job(run, snapshot, config, loop, device, max_tokens, ranks)

    def in_use() -> list[Path]:
        """What a checkpoint would resume with."""
        named = {int(read_facts(folder)["index_step"]) for folder in list_checkpoints(run.checkpoints)}
        return [run.index / f"step-{step:06d}" for step in {*always, *named}]

    index_step = int(facts.get("index_step", 0))

    def opened() -> Refresh:
        return open_refresh(config.mode, job, since=begin, current=index_step, in_use=in_use, on_event=on_event)

    def share(step: int) -> None:
        """Of the passages of a synchronous refresh each process embeds its part."""
        folder = run.index / step_name(step)
        parts.share_embedding(encoder, snapshot, folder, ranks, max_tokens=max_tokens, bf16=job.bf16)

    refresh = opened() if ranks.size == 1 else share_refresh(ranks, opened, share if config.mode == "sync" else None)
    cadence = Cadence(
        config.every_steps,
        drift=config.drift,
        min_steps=config.min_steps,
        published=index_step,
        facts=facts.get("cadence"),
    )
    age = float(facts.get("index_age_seconds", 0.0))
    priorities = None if config.partial is None else Priorities(len(snapshot))
    return Refreshing(refresh, encoder, cadence, index_step=index_step, age=age, priorities=priorities)


def embed_by_workers(
    run: Run,
    encoder: DenseEncoder,
    snapshot: Snapshot,
    config: RefreshConfig,
    loop: LoopConfig,
    *,
    device: torch.device,
    max_tokens: int,
    step: int,
    on_event: Callable[[str], None],
    progress: Progress,
) -> Path:
    """The index of `step`, by the workers of `refresh.mode=ray`, while this process waits; its folder.

    on_event: one line about a lost worker. TrainingError: the refresher can't be kept alive.
    """
    job = _job(run, snapshot, config, loop, device, max_tokens, Ranks())
    every = sys.maxsize  # what a run keeps of its indexes is not for here to say
    refresh = open_refresh("ray", job, since=step, current=step - 1, keep=every, on_event=on_event)
    try:
        refresh.publish(step, encoder.save_pretrained)
        while (fresh := refresh.poll()) is None:
            if job.heartbeat.exists():
                told = read_json(job.heartbeat)
                if told["step"] == step:
                    progress(told["done"], told["total"])
            time.sleep(0.2)
    finally:
        refresh.close()
    return fresh.folder


def _job(
    run: Run,
    snapshot: Snapshot,
    config: RefreshConfig,
    loop: LoopConfig,
    device: torch.device,
    max_tokens: int,
    ranks: Ranks,
) -> Job:
    place, rows = config.device or str(device), parts.rows_per_shard(len(snapshot), ranks)
    if config.mode == "ray":
        place = torch.device(place).type  # a worker sees no accelerators but its own
        rows = min(rows, max(1, math.ceil(len(snapshot) / (SHARES * config.workers))))
    return Job(
        folder=str(run.path),
        snapshot=str(snapshot.path),
        opener="realm.workflows.parts:open_for_refresh",
        options={"max_tokens": max_tokens, "device": place},
        bf16=parts.choose_bf16(loop.bf16 if config.bf16 is None else config.bf16, parts.choose_device(place)),
        threads=config.threads,
        workers=config.workers,
        gpus=float(config.mode == "ray" and place != "cpu"),
        partial=config.partial,
        rows_per_shard=rows,
    )
