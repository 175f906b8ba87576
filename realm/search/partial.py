"""A refresh that is of use before it is done: what matters is embedded first, the rest is carried over.

A plain refresh (Guu et al. 2020, section 3.3) gives nothing until the last passage is embedded. Here rows are embedded
in an order of the caller's, and after each share of the work an index of *all* rows is published: new vectors where
there are any, elsewhere the previous ones. Vectors of two different steps don't share a space, and a mere mixture can
be worse than either; so the previous vectors are taken into the new space first, by the affine map that fits best where
a row has both. `python -m benchmarks refresh` shows recall by work done, with the map and without.

Legend: N rows, M rows that have both vectors, D vector size. A row's *place* is its position in the order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from realm.errors import UsageError
from realm.files import MANIFEST, fingerprint, read_json, staged_folder
from realm.search.embed import embed, embed_rows
from realm.search.exact import ExactIndex
from realm.search.jobs import Job, open_job, place_of, steps
from realm.search.priorities import order_of
from realm.search.shards import pack, read_shard, seal, shard_name, write_shard
from realm.types import Encoder, PassageSource, Progress

ROW_STEPS = "row-steps.npy"
"""In a partial index: Int32[N], the step of the parameters that embedded each row."""
RIDGE = 0.1
"""Weight of staying where the vector was, against the mean spread of the old vectors along a component: best of 0.1, 1
and 10 where much had moved, and no worse than they where little had."""
FITTED = 65536
"""At most so many rows tell the map."""


class Carrier(NamedTuple):
    """The map from one step's vectors to another's: v -> s |v| unit(new + (v - old) (I + W))."""

    old_D: Tensor
    new_D: Tensor
    weight_DD: Tensor
    scale: Tensor
    """Float[], s: how much longer new vectors are on average."""

    def __call__(self, vector_ND: Tensor) -> Tensor:
        """Float32[N, D]. Lengths are kept, but for the common factor: a fitted vector is too short by what the map does
        not explain, and would lose against an embedded one."""
        centred_ND = vector_ND - self.old_D
        moved_ND = centred_ND + centred_ND @ self.weight_DD + self.new_D
        length_N1 = self.scale * vector_ND.norm(dim=1, keepdim=True)
        carried_ND: Tensor = nn.functional.normalize(moved_ND, dim=1) * length_N1
        return carried_ND


@torch.no_grad()
def fit_carrier(old_MD: Tensor, new_MD: Tensor, ridge: float = RIDGE) -> Carrier:
    """Ridge regression of the change of M vectors on the old ones: W = argmin |X W - Y|^2 + r tr(X'X)/D |W|^2, with X
    the centred old vectors and Y the change of the centred vectors. M >= 1; with few rows W is near 0 and only the
    means move."""
    old_D, new_D = old_MD.mean(0), new_MD.mean(0)
    old, change = (old_MD - old_D).double(), ((new_MD - new_D) - (old_MD - old_D)).double()
    spread_DD = old.T @ old
    size = len(spread_DD)
    stay = ridge * float(spread_DD.trace()) / size
    system_DD = spread_DD + max(stay, 1e-12) * torch.eye(size, dtype=torch.float64, device=old.device)
    weight_DD = torch.linalg.solve(system_DD, old.T @ change).float()
    scale = new_MD.norm(dim=1).mean() / old_MD.norm(dim=1).mean().clamp(min=1e-12)
    return Carrier(old_D, new_D, weight_DD, scale)


def part_name(index: str, part: int) -> str:
    """Of the folder of a partial index, beside the complete one's: `step-000500.part-03`."""
    return f"{index}.part-{part:02d}"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One refresh in parts. Finished chunks of vectors lie in `folder`; they are the whole state, so that the same work
    that is begun again goes on from them."""

    encoder: Encoder
    source: PassageSource
    out: Path
    """The complete index, in the end."""
    base: Path
    """A complete index of the same snapshot by older parameters."""
    order_N: Tensor
    """Long[N]: the rows, the most urgent first."""
    share: float
    """Of the work (word pieces), between two partial indexes."""
    facts: Mapping[str, Any]
    """For the manifests; "encoder" names the parameters, "step" is theirs."""
    max_tokens: int
    batch_tokens: int | None = None
    bf16: bool = False
    rows_per_shard: int = 16384
    dtype: str = "float32"
    carry: bool = True
    """Take previous vectors into the new space; false mixes them in as they are."""

    def run(self, progress: Progress | None = None) -> Path:
        """Embed all rows, publishing partial indexes on the way; returns `out`, complete.

        TrainingError: NaN from the encoder. ArtefactError: disk full. UsageError: an order that is none.
        """
        rows = len(self.source)
        if not torch.equal(self.order_N.sort().values, torch.arange(rows)):
            raise UsageError(f"an order of {len(self.order_N)} rows: expected each of {rows} rows once")
        self._make_folder()
        shown: Progress = progress or (lambda done, total: None)
        found = sum(self._chunk(number).exists() for number in range(len(self.chunks)))
        for number, (_, last) in enumerate(self.chunks):
            if number >= found:
                self._embed(number, shown)
            shown(last, rows)
            # Of what an interrupted call left, the last part may not have been published yet; earlier ones are old.
            if number + 1 >= found and last in self.parts[:-1]:
                self._publish(number + 1, self.parts.index(last) + 1, shown)
        self._finish(shown)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.out

    # ------------------------------------------------------------ what is done when

    @cached_property
    def parts(self) -> list[int]:
        """Places at which a part ends; the last is N."""
        work_N = self.source.passage_lengths(self.max_tokens)[self.order_N.numpy()].astype(np.int64).cumsum()
        rows, total = len(work_N), int(work_N[-1]) if len(work_N) else 0
        count = max(1, int(np.ceil(1 / self.share - 1e-9)))
        ends = [int(work_N.searchsorted(number * self.share * total, "left")) + 1 for number in range(1, count)]
        return sorted({end for end in ends if end < rows} | {rows})

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """(first place, place after the last) of what is embedded and written at a time; none crosses a part."""
        found, first = [], 0
        for end in self.parts:
            while first < end:
                found.append((first, min(first + self.rows_per_shard, end)))
                first = found[-1][1]
        return found

    @cached_property
    def folder(self) -> Path:
        """The unfinished work of exactly this order and these parameters. Its name is one that `embed` clears away."""
        told = {name: getattr(self, name) for name in ("max_tokens", "bf16", "rows_per_shard", "share")}
        order = fingerprint(self.order_N.numpy().tobytes())
        name = fingerprint(json.dumps([told, str(self.facts.get("encoder")), self.source.fingerprint, order]))
        return self.out.with_name(f".{self.out.name}.partial-in-parts-{name}")

    def _make_folder(self) -> None:
        for other in self.out.parent.glob(f".{self.out.name}.partial-*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _chunk(self, number: int) -> Path:
        return self.folder / shard_name(number, *self.chunks[number])

    def _embed(self, number: int, shown: Progress) -> None:
        first, last = self.chunks[number]
        done = first

        def tick(count: int) -> None:
            nonlocal done
            done += count
            shown(done, len(self.source))

        vectors = embed_rows(
            self.encoder,
            self.source,
            self.order_N[first:last],
            max_tokens=self.max_tokens,
            batch_tokens=self.batch_tokens,
            bf16=self.bf16,
            on_batch=tick,
        )
        write_shard(self._chunk(number), pack(vectors, "float32"))

    # ------------------------------------------------------------ indexes

    def _embedded(self, chunks: int) -> ExactIndex:
        """The new vectors of so many first chunks, by place."""
        sizes = [last - first for first, last in self.chunks[:chunks]]
        return ExactIndex([read_shard(self._chunk(i), n, self.encoder.dim, "float32") for i, n in enumerate(sizes)])

    def _ranges(self) -> list[tuple[int, int]]:
        rows, size = len(self.source), self.rows_per_shard
        return [(first, min(first + size, rows)) for first in range(0, rows, size)]

    def _described(self) -> dict[str, Any]:
        told = {"snapshot": self.source.fingerprint, "rows_per_shard": self.rows_per_shard}
        return {**self.facts, **told, "max_tokens": self.max_tokens, "bf16": self.bf16}

    def _publish(self, chunks: int, part: int, shown: Progress) -> None:
        """A partial index of what is embedded so far."""
        place = self.out.with_name(part_name(self.out.name, part))
        if (place / MANIFEST).exists():
            return
        new, old = self._embedded(chunks), ExactIndex.open(self.base)
        done, rows = len(new), len(self.source)
        place_N = self._places()
        step, base_step = int(self.facts["step"]), int(read_json(self.base / MANIFEST)["step"])
        carrier = self._carrier(old, new) if self.carry else None
        with staged_folder(place) as staged:
            for number, (first, last) in enumerate(self._ranges()):
                vectors = old.vectors(torch.arange(first, last))
                if carrier is not None:
                    vectors = carrier(vectors)
                fresh = place_N[first:last] < done
                vectors[fresh] = new.vectors(place_N[first:last][fresh])
                write_shard(staged / shard_name(number, first, last), pack(vectors, self.dtype))
                shown(done, rows)  # a sign of life
            steps_N = torch.where(place_N < done, step, base_step).int()
            np.save(staged / ROW_STEPS, steps_N.numpy())
            facts = {
                **self._described(),
                "part": part,
                "parts": len(self.parts),
                "base_step": base_step,
                "carried": self.carry,
                "row_steps": ROW_STEPS,
                "rows_of": {str(step): done, str(base_step): rows - done},
            }
            seal(staged, self._ranges(), dim=self.encoder.dim, dtype=self.dtype, facts=facts)

    def _carrier(self, old: ExactIndex, new: ExactIndex) -> Carrier:
        done = len(new)
        places = torch.linspace(0, done - 1, min(done, FITTED)).long()
        return fit_carrier(old.vectors(self.order_N[places]), new.vectors(places))

    def _finish(self, shown: Progress) -> None:
        """The complete index, its rows in their own order."""
        new, place_N, rows = self._embedded(len(self.chunks)), self._places(), len(self.source)
        with staged_folder(self.out) as staged:
            for number, (first, last) in enumerate(self._ranges()):
                vectors = new.vectors(place_N[first:last])
                write_shard(staged / shard_name(number, first, last), pack(vectors, self.dtype))
                shown(rows, rows)
            seal(staged, self._ranges(), dim=self.encoder.dim, dtype=self.dtype, facts=self._described())

    def _places(self) -> Tensor:
        """Long[N]: the place of each row."""
        place_N = torch.empty_like(self.order_N)
        place_N[self.order_N] = torch.arange(len(self.order_N))
        return place_N


def build_in_parts(job: Job, parameters: Path, *, progress: Progress | None = None) -> Path:
    """`refresher.build` by priority, with a partial index after each `job.partial` of the work. Where there is no older
    index to carry over, it is `build`."""
    out = place_of(job, parameters)
    encoder, source, max_tokens, facts = open_job(job, parameters)
    how: dict[str, Any] = {
        "max_tokens": max_tokens,
        "batch_tokens": job.batch_tokens,
        "bf16": job.bf16,
        "rows_per_shard": job.rows_per_shard,
        "dtype": job.dtype,
        "facts": facts,
    }
    base = _base(job, int(facts["step"]), source, encoder.dim)
    if job.partial is None or base is None or (out / MANIFEST).exists():
        return embed(encoder, source, out, **how, progress=progress)
    order_N = order_of(parameters, len(source))
    work = Work(encoder=encoder, source=source, out=out, base=base, order_N=order_N, share=job.partial, **how)
    return work.run(progress)


def _base(job: Job, step: int, source: PassageSource, dim: int) -> Path | None:
    """The newest complete index before `step` whose vectors can be carried over; None where there is none."""
    wanted = {"snapshot": source.fingerprint, "rows": len(source), "dim": dim}
    for at, path in reversed(list(steps(job.indexes, MANIFEST))):
        manifest = read_json(path / MANIFEST)
        if at < step and all(manifest.get(name) == value for name, value in wanted.items()):
            return path
    return None
