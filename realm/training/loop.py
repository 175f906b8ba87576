"""The one training loop. It knows a method as a `Method` and batches as a function of the step.

Order of a step: hook (refresh swaps its index here), forward and backward for each part of the batch, check,
clip, schedule, update, log, evaluate, save. The body runs from the step the checkpoint names, and a batch
depends on nothing but its step, so an interrupted run that resumes computes what the uninterrupted one would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import TrainingError
from realm.training import parallel
from realm.training.ahead import Ahead
from realm.training.memory import kept_memory
from realm.training.metrics import Metrics
from realm.training.optim import linear_schedule, set_learning_rate
from realm.training.state import save_checkpoint
from realm.types import Batches, Method

ALIGNED = 64
"""Bytes. A tensor read from a file lies where the file has it, and a matrix product's last bit hangs on where its
factors lie: a resumed run would differ from an uninterrupted one in a bit of a moment now and then."""
MAX_BAD_STEPS = 10
"""So many non-finite steps in a row are not bad luck."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how often; all counts are optimizer steps."""

    num_steps: int
    warmup_steps: int
    accumulation: int = 1
    """Batches a step; their gradients are averaged, each weighted with its `Loss.weight`."""
    clip_norm: float = 1.0
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int = 2


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a workflow adds to the loop. Each may return figures that join the step's event."""

    before_step: Callable[[int], Mapping[str, float]] | None = None
    checkpoint_facts: Callable[[], Mapping[str, Any]] | None = None
    """Extra facts for ``loop.json``, such as the index in use."""
    after_checkpoint: Callable[[Path], None] | None = None
    on_event: Callable[[Mapping[str, Any]], None] | None = None
    describe: Callable[[Any, Tensor], list[str]] | None = None
    """(batch, Bool[B]) -> the text of those examples, for the report of a non-finite step."""
    should_stop: Callable[[], bool] | None = None
    meet: Callable[[], None] | None = None
    """Waits for the other ranks, however long rank 0 saves and what follows from it; torch's barrier by default."""


@kept_memory()
def train(
    method: Method,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    stage: str,
    folder: Path,
    metrics: Metrics,
    start_step: int = 0,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    hooks: Hooks | None = None,
) -> int:
    """Train from `start_step` to `schedule.num_steps`; returns the number of steps done.

    Batch ``accumulation * step + i`` is the i-th part of a step. Saves a checkpoint of step 0 (the state before
    any training), every `checkpoint_every` steps, at the end, and when `hooks.should_stop` says so: then the step
    is finished, saved, and KeyboardInterrupt raised. A step whose loss or gradient is not finite is left out and
    reported with its queries; TrainingError after `MAX_BAD_STEPS` of them in a row.
    """
    hooks = hooks or Hooks()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parallel.broadcast(parameters)
    seed = torch.initial_seed()
    for module in method.modules().values():
        # What nothing trains (the encoder of the index in use) has no business with dropout.
        module.train(any(parameter.requires_grad for parameter in module.parameters()))
        for parameter in module.parameters():
            if parameter.data_ptr() % ALIGNED:
                parameter.data = parameter.data.clone()
    checkpoints = folder / "checkpoints"

    def save(step: int) -> None:
        if parallel.rank() == 0:
            facts = hooks.checkpoint_facts() if hooks.checkpoint_facts else {}
            path = save_checkpoint(
                checkpoints, step, method.modules(), optimizer, facts=facts, keep=schedule.keep_checkpoints
            )
            if hooks.after_checkpoint:
                hooks.after_checkpoint(path)
        (hooks.meet or parallel.barrier)()

    def report(event: dict[str, Any]) -> None:
        if parallel.rank() == 0:
            metrics.write(event)
            if hooks.on_event:
                hooks.on_event(event)

    bad_steps = 0
    window = _Window()
    ahead = Ahead(batches, schedule.num_steps * schedule.accumulation)
    if start_step == 0:
        save(0)
    try:
        for step in range(start_step, schedule.num_steps):
            started = time.perf_counter()
            extra = dict(hooks.before_step(step)) if hooks.before_step else {}
            hooked = time.perf_counter()

            parallel.own_draws(seed, step)
            found = _forward_backward(method, ahead, step, schedule.accumulation, autocast, hooks)
            norm = torch.tensor(torch.nan)
            if found.finite:
                parallel.average_gradients(parameters, found.weight)
                norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            good = bool(torch.isfinite(norm))
            if good:
                if float(norm) > schedule.clip_norm:  # else the gradients would be read and written for nothing
                    nn.utils.clip_grads_with_norm_(parameters, schedule.clip_norm, norm)
                multiplier = linear_schedule(step, schedule.num_steps, schedule.warmup_steps)
                set_learning_rate(optimizer, multiplier)
                optimizer.step()
                bad_steps = 0
                times = {"seconds": time.perf_counter() - started, "hook_seconds": hooked - started}
                window.add(found.parts, {**extra, **times})
            else:
                bad_steps += 1
                queries = found.queries or _suspects(batches, step, found.sizes, hooks)
                report({"stage": stage, "kind": "non-finite", "step": step + 1, "queries": queries})
                if bad_steps >= MAX_BAD_STEPS:
                    raise TrainingError(
                        f"{bad_steps} steps in a row up to step {step + 1} had a loss or gradient that is not finite: "
                        f"lower the learning rate; the queries are in {metrics.path}"
                    )
            optimizer.zero_grad(set_to_none=True)

            last = step + 1 == schedule.num_steps
            if good and ((step + 1) % schedule.log_every == 0 or last):
                figures = window.flush()
                report(
                    {
                        "stage": stage,
                        "kind": "train",
                        "step": step + 1,
                        "num_steps": schedule.num_steps,
                        "gradient_norm": float(norm),
                        "learning_rate_multiplier": multiplier,
                        **figures,
                    }
                )
            # A signal may reach one rank a step before another: they stop together.
            stop = hooks.should_stop is not None and parallel.anywhere(hooks.should_stop())
            if last or stop or (step + 1) % schedule.checkpoint_every == 0:
                save(step + 1)
            if stop:
                raise KeyboardInterrupt
    finally:
        ahead.close()
        for module in method.modules().values():
            module.train(False)
    return schedule.num_steps - start_step


@dataclass(frozen=True)
class _Part:
    """A part of a step on one rank."""

    stats: Mapping[str, float]
    weight: float
    """Of its loss."""
    examples: float
    """What its other figures are means over; the weight where the method doesn't tell."""


@dataclass(frozen=True)
class _Step:
    """Forward and backward of one step; gradients, summed over `weight` terms, lie in ``.grad``."""

    finite: bool
    """On every rank: they all take the step or none does."""
    parts: Sequence[_Part]
    weight: float = 0.0
    queries: Sequence[str] = ()
    """Of the examples that were not finite, on any rank."""
    sizes: Sequence[int] = ()
    """Examples of each part, where the method tells."""


def _forward_backward(
    method: Method,
    batches: Ahead,
    step: int,
    accumulation: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    hooks: Hooks,
) -> _Step:
    """One step's parts, each weighted with what its loss is the mean of."""
    parts: list[_Part] = []
    sizes: list[int] = []
    total = 0.0
    for i in range(accumulation):
        batch = batches.batch(step * accumulation + i)
        with autocast():
            loss = method.loss(batch)
        if parallel.anywhere(not bool(torch.isfinite(loss.total))):
            queries: list[str] = []
            if loss.per_example is not None and hooks.describe:
                queries = hooks.describe(batch, ~torch.isfinite(loss.per_example))
            return _Step(False, (), queries=parallel.together(queries))
        weight = 1.0 if loss.weight is None else float(loss.weight)
        with batches.meanwhile(step * accumulation + i + 1):
            (loss.total * weight).backward()
        total += weight
        sizes.append(0 if loss.per_example is None else len(loss.per_example))
        parts.append(_Part({name: float(value) for name, value in loss.stats.items()}, weight, sizes[-1] or weight))
    return _Step(True, parts, total, sizes=sizes)


def _suspects(batches: Batches, step: int, sizes: Sequence[int], hooks: Hooks) -> list[str]:
    """All queries of a step whose losses are finite and whose gradient is not: which one did it is not known."""
    if hooks.describe is None:
        return []
    found: list[str] = []
    for i, size in enumerate(sizes):
        found += hooks.describe(batches.batch(step * len(sizes) + i), torch.ones(size, dtype=torch.bool))
    return parallel.together(found)


class _Window:
    """Means over the steps since the last log line, and over the ranks."""

    def __init__(self) -> None:
        self._rows: list[tuple[Sequence[_Part], Mapping[str, float]]] = []

    def add(self, parts: Sequence[_Part], extra: Mapping[str, float]) -> None:
        """extra: figures that are this rank's own."""
        self._rows.append((parts, extra))

    def flush(self) -> dict[str, float]:
        """Every rank must ask, at the same step. A figure over some of the examples alone, such as the accuracy on kept
        sentences, is over the ranks the mean of theirs, each weighing as many as all its examples."""
        own, self._rows = self._rows, []
        steps = zip(*parallel.everyone([parts for parts, _ in own]), strict=True)
        rows = [{**_step_stats(step), **extra} for step, (_, extra) in zip(steps, own, strict=True)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {n: _mean(row[n] for row in rows if n in row) for n in names}


def _step_stats(ranks: Sequence[Sequence[_Part]]) -> dict[str, float]:
    """The mean of each figure over a step's parts, each of them over the ranks that have it."""
    parts = [_over_ranks(part) for part in zip(*ranks, strict=True)]
    names = dict.fromkeys(name for part in parts for name in part)
    return {n: _mean(part[n] for part in parts if n in part) for n in names}


def _over_ranks(ranks: Sequence[_Part]) -> Mapping[str, float]:
    if len(ranks) == 1:
        return ranks[0].stats
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for part in ranks for name in part.stats):
        known = [(p.stats[name], p.weight if name == "loss" else p.examples) for p in ranks if name in p.stats]
        found[name] = sum(value * count for value, count in known) / max(sum(count for _, count in known), 1e-9)
    return found


def _mean(values: Iterator[float]) -> float:
    seen = list(values)
    return sum(seen) / len(seen)
