"""The one routine that turns a snapshot into vectors: in memory, or on disk with resume.

Legend: N rows, M rows of a call, D vector size.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm.errors import ArtefactError, RealmError, TrainingError, UsageError
from realm.files import MANIFEST, fingerprint, read_manifest, write_json
from realm.search.shards import DTYPES, FORMAT, VERSION, pack, seal, shard_name, write_shard
from realm.types import Encoder, PassageSource, Progress

BATCH_TOKENS = 2048
"""Padded tokens a batch. On a CPU 14% faster than 4,096 for passages of 32 tokens, 0 to 8% for longer ones.
The rooms don't know each other: `realm.models.packing` says the same of what a network takes at once."""
ACCELERATOR_BATCH_TOKENS = 65536
"""On an accelerator, where a small batch leaves it idle; reckoned, not measured."""
DESCRIBED = ("snapshot", "max_tokens", "rows_per_shard", "bf16")
"""What the manifest tells of the work, beside the caller's facts."""
ROWS_PER_SHARD = 16384
"""Rows a shard: the window that is sorted by length, and what an interruption may lose."""


class EmbeddingStopped(RealmError):
    """`should_stop` said so; the finished shards are kept and the same call goes on from them."""


def embed_rows(
    encoder: Encoder,
    source: PassageSource,
    rows: Tensor | None = None,
    *,
    max_tokens: int,
    batch_tokens: int | None = None,
    bf16: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Float32[M, D] on the CPU: vectors of rows Long[M] (all by default), in their order.

    batch_tokens: padded tokens of a batch, by the device when None. bf16: compute the products in bfloat16.
    Passages are encoded shortest first, so that a batch holds equal lengths and padding is not computed;
    without gradients and without dropout. `on_batch` gets the number of rows of each finished batch.
    TrainingError: the encoder gave NaN or infinity.
    """
    wanted = np.arange(len(source)) if rows is None else rows.detach().cpu().numpy()
    lengths = source.passage_lengths(max_tokens)[wanted]
    out_MD = torch.empty((len(wanted), encoder.dim))
    kind = encoder.device.type
    size = batch_tokens or (BATCH_TOKENS if kind == "cpu" else ACCELERATOR_BATCH_TOKENS)
    autocast = torch.autocast(kind, torch.bfloat16, enabled=bf16)
    with torch.inference_mode(), _without_dropout(encoder), autocast:
        for batch in length_batches(lengths, size):
            tokens = source.passages(torch.from_numpy(wanted[batch]), max_tokens).to(encoder.device)
            out_MD[torch.from_numpy(batch)] = encoder.encode_passages(tokens).float().cpu()
            if on_batch is not None:
                on_batch(len(batch))
    bad = (~torch.isfinite(out_MD).all(1)).nonzero()
    if len(bad):
        raise TrainingError(
            f"the encoder gave NaN or infinity for row {int(wanted[int(bad[0])])}: its parameters are broken; "
            "go back to an earlier checkpoint"
        )
    return out_MD


def length_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Positions of `lengths` in batches, shortest first, of at most `batch_tokens` padded tokens (but at least one)."""
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        # Sorted, so the padded size of first..last grows with last: the largest that fits is found by bisection.
        padded = lengths[order[first:]].astype(np.int64)
        padded = padded[: batch_tokens // max(int(padded[0]), 1) + 1] if len(padded) else padded
        fits = int(np.searchsorted(padded * np.arange(1, len(padded) + 1), batch_tokens, side="right"))
        last = first + max(fits, 1)
        yield order[first:last]
        first = last


def embed(
    encoder: Encoder,
    source: PassageSource,
    out: Path,
    *,
    max_tokens: int,
    batch_tokens: int | None = None,
    bf16: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    dtype: str = "float32",
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Path:
    """Embed all passages of `source` into the folder `out`, which `ExactIndex.open` opens. Returns `out`.

    facts: JSON values for the manifest. facts["encoder"], the fingerprint of the parameters, names the work:
    an interrupted call that is repeated for the same encoder, snapshot and settings keeps its finished shards;
    a finished `out` is returned as it is; any other content of `out` is replaced only when the new one is whole.

    rank, world_size: several processes may share the work. Each writes every world_size-th shard and returns
    the unfinished folder; when all are done, one call with world_size=1 writes the manifest.

    Memory: one shard of vectors, whatever the number of passages.
    TrainingError: NaN from the encoder. EmbeddingStopped: should_stop() was true. ArtefactError: disk full.
    """
    facts = dict(facts or {})
    if (batch_tokens is not None and batch_tokens < 1) or not 0 <= rank < world_size:
        raise UsageError(f"batch_tokens {batch_tokens}, rank {rank} of {world_size}")
    plan = Plan.of(
        encoder,
        source,
        out,
        max_tokens=max_tokens,
        bf16=bf16,
        rows_per_shard=rows_per_shard,
        dtype=dtype,
        name=facts.get("encoder"),
    )
    if plan.finished():
        return plan.out
    work = plan.open(alone=world_size == 1)
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, plan.rows)
        if should_stop is not None and should_stop():
            raise EmbeddingStopped(f"embedding stopped at {done} of {plan.rows} passages: call again to go on")

    ranges = plan.ranges
    missing = [number for number in range(len(ranges)) if not plan.shard(number).exists()]
    if len(missing) < len(ranges):  # apart and first, so that no rate counts what an earlier call did
        tick(plan.rows - sum(ranges[number][1] - ranges[number][0] for number in missing))
    for number in missing:
        if number % world_size == rank:
            plan.write(encoder, source, number, batch_tokens=batch_tokens, on_batch=tick)
    return work if world_size > 1 else plan.seal(facts)


@dataclass(frozen=True)
class Plan:
    """An index that is being made: of what, by which parameters, in which shards. Equal plans share their work."""

    out: Path
    """The finished folder."""
    encoder: str | None
    """Fingerprint of the parameters; None: nobody can go on with this work."""
    snapshot: str
    max_tokens: int
    dim: int
    dtype: str
    rows: int
    rows_per_shard: int
    bf16: bool

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        source: PassageSource,
        out: Path,
        *,
        max_tokens: int,
        bf16: bool,
        rows_per_shard: int,
        dtype: str,
        name: str | None,
    ) -> Plan:
        """name: fingerprint of the encoder's parameters. UsageError: an impossible setting."""
        if dtype not in DTYPES:
            raise UsageError(f"storage type {dtype!r}: expected one of {', '.join(DTYPES)}")
        if rows_per_shard < 1:
            raise UsageError(f"rows_per_shard {rows_per_shard}: expected at least 1")
        snapshot, rows = source.fingerprint, len(source)
        return cls(Path(out), name, snapshot, max_tokens, encoder.dim, dtype, rows, rows_per_shard, bf16)

    @property
    def identity(self) -> dict[str, Any]:
        """What the work's folder is named after."""
        return {name: value for name, value in vars(self).items() if name != "out"}

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(first row, row after the last) of each shard."""
        size = self.rows_per_shard
        return [(first, min(first + size, self.rows)) for first in range(0, self.rows, size)]

    @property
    def work(self) -> Path:
        """The unfinished folder of exactly this work."""
        parts = (f"{key}={value}" for key, value in sorted(self.identity.items()))
        return self.out.with_name(f".{self.out.name}.partial-{fingerprint(*parts)}")

    def shard(self, number: int) -> Path:
        first = number * self.rows_per_shard
        return self.work / shard_name(number, first, min(first + self.rows_per_shard, self.rows))

    def finished(self) -> bool:
        """Whether `out` is there and is this."""
        if not (self.out / MANIFEST).exists():
            return False
        try:
            manifest = read_manifest(self.out, format=FORMAT, version=VERSION)
        except ArtefactError:
            return False
        found = {"bf16": False, **manifest}  # which older indexes don't tell
        same = all(found.get(key) == value for key, value in self.identity.items() if key != "rows_per_shard")
        return same and self.encoder is not None

    def open(self, *, alone: bool) -> Path:
        """Make the unfinished folder, or take up the one that is there; unless others may be at work, those of other
        plans for the same `out` are removed."""
        work, out = self.work, self.out
        if alone:
            for other in out.parent.glob(f".{out.name}.partial-*"):
                if other != work or self.encoder is None:  # without a name nobody can say whose vectors these are
                    shutil.rmtree(other, ignore_errors=True)
            if (work / MANIFEST).exists():  # killed between the manifest and the rename
                (work / MANIFEST).unlink()
        work.mkdir(parents=True, exist_ok=True)  # in its place: another rank may be making it at this moment
        if not _plan_path(work).exists():
            write_json(_plan_path(work), self.identity)
        return work

    def write(
        self,
        encoder: Encoder,
        source: PassageSource,
        number: int,
        *,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Embed the rows of one shard. TrainingError: NaN from the encoder. ArtefactError: disk full."""
        path = self.shard(number)
        first, last = number * self.rows_per_shard, min((number + 1) * self.rows_per_shard, self.rows)
        rows = torch.arange(first, last)
        budget: dict[str, Any] = {"max_tokens": self.max_tokens, "batch_tokens": batch_tokens, "bf16": self.bf16}
        write_shard(path, pack(embed_rows(encoder, source, rows, **budget, on_batch=on_batch), self.dtype))

    def seal(self, facts: Mapping[str, Any], hashes: Mapping[str, str] | None = None) -> Path:
        """Every shard is written: give the folder its manifest and its name, `out`. hashes: as `shards.seal` takes
        them."""
        work, out = self.work, self.out
        for leftover in work.glob(".*"):  # of writers that were killed
            leftover.unlink(missing_ok=True)
        described = {**facts, **{name: value for name, value in self.identity.items() if name in DESCRIBED}}
        _plan_path(work).unlink()
        seal(work, self.ranges, dim=self.dim, dtype=self.dtype, facts=described, hashes=hashes)
        if out.exists():
            old = out.with_name(f".{out.name}.stage-old-{os.getpid()}")
            os.replace(out, old)
            os.replace(work, out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(work, out)
        return out


def _plan_path(work: Path) -> Path:
    return work / "plan.json"


@contextmanager
def _without_dropout(encoder: Encoder) -> Iterator[None]:
    """Dropout in the document vectors would make the index noisy; the training mode is restored afterwards."""
    training = isinstance(encoder, torch.nn.Module) and encoder.training
    if training:
        encoder.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if training:
            encoder.train()  # type: ignore[attr-defined]
