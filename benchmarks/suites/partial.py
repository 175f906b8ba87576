"""Recall of an index by work done: a refresh in parts, in several orders, against a plain one.

Taken from a pre-training run that is there: its indexes of several steps and the encoders of its checkpoints. The older
index is refreshed to the newest one's parameters by `realm.search.partial` itself; only the encoder is replaced by one
that looks the newest vectors up. The first half of the run's probe asks as training would, which gives the priorities;
the second half judges: the share of the complete index's first k that a partial one finds, with live queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.core.bench import Bench
from realm.errors import UsageError
from realm.files import MANIFEST, read_json
from realm.knowledge.snapshot import Snapshot
from realm.models.encoders import DenseEncoder
from realm.search.drift import top_drift
from realm.search.exact import ExactIndex
from realm.search.jobs import partials, steps
from realm.search.partial import Work
from realm.search.priorities import Priorities, order_of
from realm.training.probe import Probe
from realm.training.state import list_checkpoints, read_facts
from realm.types import MaskedBatch, Tokens
from realm.workflows.run import Run

KS = (5, 20, 64)
SHARE = 0.1


class Stored:
    """An encoder that knows the vectors already; what it gets as token ids are rows."""

    def __init__(self, vector_ND: Tensor) -> None:
        self.vector_ND, self.dim, self.device = vector_ND, int(vector_ND.shape[1]), torch.device("cpu")

    def encode_passages(self, tokens: Tokens) -> Tensor:
        return self.vector_ND[tokens.ids[:, 0]]

    encode_queries = encode_passages


class ByRow:
    """A snapshot whose passages are their rows, as long as they really are."""

    def __init__(self, snapshot: Snapshot, max_tokens: int) -> None:
        self.fingerprint, self._lengths = snapshot.fingerprint, snapshot.passage_lengths(max_tokens)

    def __len__(self) -> int:
        return len(self._lengths)

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        return self._lengths

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        return Tokens(rows[:, None], torch.zeros_like(rows[:, None]), torch.ones_like(rows))


class Judged:
    """A run's probe, and who was asked what."""

    def __init__(self, run: Run, limit: int) -> None:
        self.config = run.config()
        parents = run.facts()["parents"]
        self.snapshot = _snapshot(Path(parents["knowledge_base"]), parents["snapshot"])
        probe = Probe.load(run.probe)
        half = min(len(probe) // 2, limit)
        batches = list(probe.batches(self.snapshot, half, exclude=self.config.data.exclude))
        self.asking, self.judging = batches[0], batches[1]
        self.places = {step: folder for step, folder in steps(run.index, MANIFEST)}
        self.encoders = _encoders(run)

    def index(self, step: int) -> ExactIndex:
        return ExactIndex.open(self.places[step], snapshot=self.snapshot.fingerprint)

    @torch.no_grad()
    def queries(self, step: int, batch: MaskedBatch) -> Tensor:
        return DenseEncoder.from_pretrained(self.encoders[step]).eval().encode_queries(batch.query)


def _snapshot(kb: Path, fingerprint: str) -> Snapshot:
    for manifest in sorted((kb / "snapshots").glob(f"v*/{MANIFEST}")):
        if read_json(manifest).get("fingerprint") == fingerprint:
            return Snapshot.open(manifest.parent)
    raise UsageError(f"{kb} holds no snapshot {fingerprint}: expected the knowledge base of the run")


def _encoders(run: Run) -> dict[int, Path]:
    """By step, the encoders that a run keeps."""
    found: dict[int, Path] = {}
    warm = list_checkpoints(run.warm_start / "checkpoints")
    if warm:
        found[0] = warm[-1] / "encoder"
    for folder in list_checkpoints(run.checkpoints):
        facts = read_facts(folder)
        if "index_step" in facts and (folder / "index_encoder").exists():
            found[int(facts["index_step"])] = folder / "index_encoder"
        found[int(facts["step"])] = folder / "encoder"
    return found


def recalls(index: ExactIndex, query_BD: Tensor, batch: MaskedBatch, best_BK: Tensor) -> dict[int, float]:
    """By k, the share of the first k of `best_BK` that the index finds among its first k."""
    rows_BK = index.search(query_BD, max(KS), exclude=batch.exclude_rows).rows
    return {k: float((rows_BK[:, :k, None] == best_BK[:, None, :k]).any(-1).float().mean()) for k in KS}


def by_work(bench: Bench, folder: Path, limit: int) -> None:
    """limit: sentences that ask, and that judge."""
    run = Run(folder)
    judged = Judged(run, limit)
    known = sorted(set(judged.places) & set(judged.encoders))
    if len(known) < 2:
        raise UsageError(f"{folder} keeps index and encoder of steps {known}: expected two; run with keep_checkpoints")
    *olds, new = known
    index, live_BD = judged.index(new), judged.queries(new, judged.judging)
    best_BK = index.search(live_BD, max(KS), exclude=judged.judging.exclude_rows).rows
    told: list[dict[str, Any]] = []
    for old in olds:
        stale = judged.index(old)
        stale_BD = judged.queries(old, judged.judging)
        hits = stale.search(stale_BD, max(KS), exclude=judged.judging.exclude_rows)
        moved_BK = (live_BD[:, None] * index.vectors(hits.rows)).sum(-1)
        drift = float(top_drift(hits.scores, moved_BK.masked_fill(hits.rows < 0, -torch.inf)))
        half = max(KS) // 2
        missed = 1.0 - float((hits.rows[:, :half, None] == best_BK[:, None, :half]).any(-1).float().mean())
        plain = recalls(stale, stale_BD, judged.judging, best_BK)
        asked = recalls(stale, live_BD, judged.judging, best_BK)
        bench.note(
            f"index of step {old} under parameters of step {new}: drift {drift:.3f}, 1 - recall@{half} {missed:.3f}; "
            f"recall {_told(plain)} by its own queries (plain refresh, until it is done), {_told(asked)} by live ones"
        )
        told.append({"old": old, "new": new, "drift": drift, "missed": missed, "plain": plain, "live": asked})
        for name, order_N in _orders(judged, old, new).items():
            for carry in (True, False):
                curve = _curve(judged, old, new, order_N, carry, live_BD, best_BK)
                told.append({"old": old, "new": new, "order": name, "carry": carry, "curve": curve})
                line = "; ".join(f"{share:.0%} {_told(found)}" for share, found in curve.items() if share in SHOWN)
                mean = np.mean([found[20] for found in curve.values()])
                how = "carried over" if carry else "mixed as they are"
                bench.note(f"  by {name}, the rest {how}: {line}; recall@20 over the whole refresh {mean:.3f}")
    bench.record.told["recall by work"] = told


SHOWN = (0.1, 0.2, 0.5, 0.9)


def _told(found: Mapping[int, float]) -> str:
    return "/".join(f"{value:.3f}" for value in found.values())


def _orders(judged: Judged, old: int, new: int) -> dict[str, Tensor]:
    """movement: `Priorities` of what the first half of the probe is proposed. asked: how often alone."""
    index, live, rows = judged.index(old), judged.index(new), len(judged.snapshot)
    hits = index.search(judged.queries(old, judged.asking), max(KS), exclude=judged.asking.exclude_rows)
    live_BK = (judged.queries(new, judged.asking)[:, None] * live.vectors(hits.rows)).sum(-1)
    seen = Priorities(rows)
    seen.observe(hits.rows, hits.scores, live_BK)
    with tempfile.TemporaryDirectory() as name:
        seen.save(Path(name))
        moved = order_of(Path(name), rows)
    count_N = torch.bincount(hits.rows[hits.rows >= 0], minlength=rows)
    return {
        "movement": moved,
        "asked": count_N.argsort(descending=True, stable=True),
        "random": torch.randperm(rows, generator=torch.Generator().manual_seed(0)),
        "row": torch.arange(rows),
    }


def _curve(
    judged: Judged, old: int, new: int, order_N: Tensor, carry: bool, live_BD: Tensor, best_BK: Tensor
) -> dict[float, dict[int, float]]:
    max_tokens = judged.config.data.max_passage_tokens
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / f"step-{new:06d}"
        Work(
            encoder=Stored(judged.index(new).vectors(torch.arange(len(judged.snapshot)))),
            source=ByRow(judged.snapshot, max_tokens),
            out=out,
            base=judged.places[old],
            order_N=order_N,
            share=SHARE,
            facts={"encoder": "stored", "step": new},
            max_tokens=max_tokens,
            batch_tokens=1 << 20,
            carry=carry,
        ).run()
        return {
            round(part * SHARE, 2): recalls(ExactIndex.open(folder), live_BD, judged.judging, best_BK)
            for _, part, folder in partials(Path(name))
        }
