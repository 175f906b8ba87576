"""Refresh as a stage of training does it: an encoder's parameters go out when it is time, and what comes back is an
index together with the parameters that made it.

A query is searched for with the parameters that made the index, so the trainer keeps a copy of what it published until
the index is there. Of the copies no more are kept than can come back: the one that is embedded and the newest waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from realm.config import LoopConfig, RefreshConfig
from realm.knowledge.snapshot import Snapshot
from realm.methods.proposing import stale_copy
from realm.search.refresh import Refresh, open_refresh
from realm.search.refresher import Job
from realm.training.state import list_checkpoints, read_facts
from realm.types import TrainableEncoder
from realm.workflows import parts
from realm.workflows.run import Run


class Swap(NamedTuple):
    """An index to take into use."""

    step: int
    """Of its parameters."""
    folder: Path
    encoder: TrainableEncoder
    """The parameters that made it."""


class Refreshing:
    """Publishes and hands back, between two steps."""

    def __init__(
        self, refresh: Refresh, encoder: TrainableEncoder, *, every_steps: int, index_step: int = 0, age: float = 0.0
    ) -> None:
        """index_step: of the index in use; age: seconds since its parameters were published, those while nothing was
        trained left out."""
        self.refresh, self.encoder, self.every_steps = refresh, encoder, every_steps
        self.index_step, self._since = index_step, time.time() - age
        self.copies: dict[int, TrainableEncoder] = {}
        """By step, the parameters whose index may still come."""

    def before_step(self, step: int) -> Swap | None:
        """Publish when it is time; the index that came back, if one did. TrainingError: the refresher is lost."""
        if step and step % self.every_steps == 0:
            self.refresh.publish(step, self.encoder.save_pretrained)
            pending = self.refresh.pending()
            self.copies = {at: copy for at, copy in self.copies.items() if at in pending}
            if step in pending:
                self.copies[step] = stale_copy(self.encoder)
        fresh = self.refresh.poll()
        if fresh is None or fresh.step not in self.copies:
            return None
        encoder = self.copies[fresh.step]
        self.copies = {at: copy for at, copy in self.copies.items() if at > fresh.step}
        self.index_step, self._since = fresh.step, fresh.published_at
        return Swap(fresh.step, fresh.folder, encoder)

    def age(self, step: int) -> dict[str, float]:
        """How old the index in use is, for the log."""
        return {"index_age_steps": float(step - self.index_step), "index_age_seconds": time.time() - self._since}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps: `index_step`, and `index_age_seconds` so that a run which goes on counts on."""
        return {"index_step": self.index_step, "index_age_seconds": time.time() - self._since}

    def close(self) -> None:
        self.refresh.close()


def open_refreshing(
    run: Run,
    encoder: TrainableEncoder,
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
) -> Refreshing:
    """The refresh of a run that begins, or goes on, at step `begin`.

    facts: of the checkpoint that it goes on from, as `Refreshing.facts` gave them. always: steps whose index stays
    besides those that a checkpoint names. max_tokens: of a passage. on_event: one line about a restart.
    """
    place = config.device or str(device)
    job = Job(
        folder=str(run.path),
        snapshot=str(snapshot.path),
        opener="realm.workflows.parts:open_for_refresh",
        options={"max_tokens": max_tokens, "device": place},
        bf16=parts.choose_bf16(loop.bf16, parts.choose_device(place)),
        threads=config.threads,
    )

    def in_use() -> list[Path]:
        """What a checkpoint would resume with."""
        named = {int(read_facts(folder)["index_step"]) for folder in list_checkpoints(run.checkpoints)}
        return [run.index / f"step-{step:06d}" for step in {*always, *named}]

    index_step = int(facts.get("index_step", 0))
    refresh = open_refresh(config.mode, job, since=begin, current=index_step, in_use=in_use, on_event=on_event)
    age = float(facts.get("index_age_seconds", 0.0))
    return Refreshing(refresh, encoder, every_steps=config.every_steps, index_step=index_step, age=age)
