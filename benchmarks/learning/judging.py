"""Every checkpoint of a run on the common probe: ``judged.json`` in the run's folder.

    points      one for each checkpoint: stage, step, examples, seconds, flops, recalls, RU, log-likelihood, found
    complete    all checkpoints are judged and the training is finished

`seconds` are those of the training steps, refreshes counted, from metrics.jsonl, and of the first index; `flops` are
counted by `cost`. `examples` are pairs of ICT and masked sentences of REALM together.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from realm import files
from realm.config import PretrainConfig
from realm.evaluation.probe import probe_reading
from realm.files import read_json
from realm.search.embed import embed
from realm.search.jobs import steps
from realm.training.metrics import read_metrics
from realm.training.state import list_checkpoints, read_facts
from realm.workflows.reporting import Silent
from realm.workflows.run import Run
from realm.workflows.workbench import Workbench

from .cost import Cost, optimizer_step
from .probe import BATCH, CommonProbe

JUDGED = "judged.json"
FORMAT = "realm learning, judged run"
READ_SENTENCES = 512
"""Sentences of the probe that are read under every candidate for RU and the likelihoods."""
READING = (
    "retrieval_utility", "retrieval_utility_top1", "retrieval_utility_marginal",
    "log_likelihood", "log_likelihood_null", "null_prior", "prior_entropy",
)  # fmt: skip


class Effort(NamedTuple):
    """What a checkpoint took, from the beginning of the run."""

    examples: int
    seconds: float
    flops: float


def judge_run(run: Run, common: CommonProbe, *, leg: str, complete: bool) -> dict[str, Any]:
    """Judge the checkpoints that are not judged yet; the content of ``judged.json``."""
    config, path = run.config(), run.path / JUDGED
    points = list(read_json(path)["points"]) if path.exists() else []
    known = {(point["stage"], point["step"]) for point in points}
    bench = Workbench(run, config, common.text, common.text, None, Silent(), None)  # type: ignore[arg-type]
    cost = Cost(config, common.text, common.probe)
    metrics = read_metrics(run.path / "metrics.jsonl")
    header = {"format": FORMAT, "leg": leg, "seed": common.seed, "probe": common.facts()}

    def save(done: bool) -> dict[str, Any]:
        points.sort(key=lambda point: (point["stage"], point["step"]))
        result = {**header, "complete": done, "read_sentences": READ_SENTENCES, "points": points}
        files.write_json(path, result)
        return result

    for stage, folder in (("ict", run.warm_start / "checkpoints"), ("realm", run.checkpoints)):
        for checkpoint in list_checkpoints(folder):
            facts = read_facts(checkpoint)
            step = int(facts["step"])
            if (stage, step) in known or (stage == "realm" and not config.realm.steps):
                continue
            figures, embedding = _judge(bench, common, checkpoint, reads=stage == "realm")
            effort = effort_at(stage, step, config, cost, metrics, optimizer_step(facts), embedding)
            points.append({"stage": stage, "step": step, **effort._asdict(), **figures})
            save(False)
    return save(complete)


def _judge(bench: Workbench, common: CommonProbe, checkpoint: Path, *, reads: bool) -> tuple[dict[str, Any], float]:
    """Figures, and the seconds that embedding all passages took."""
    encoder = bench.encoder(checkpoint, training=False)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        limit = bench.config.data.max_passage_tokens
        folder = embed(encoder, common.text.snapshot, Path(scratch) / "index", max_tokens=limit, facts={})
        embedding = time.perf_counter() - started
        figures = common.judge(common.search(encoder, bench.open_index(folder)))
        if reads:
            method = bench.method(encoder, bench.reader(checkpoint).eval(), folder)
            reading = probe_reading(method, common.batches[: READ_SENTENCES // BATCH])
            figures |= {name: reading[name] for name in READING if name in reading}
    return figures, embedding


def effort_at(
    stage: str,
    step: int,
    config: PretrainConfig,
    cost: Cost,
    metrics: Sequence[dict[str, Any]],
    optimizer: float,
    embedding: float,
) -> Effort:
    """Examples, seconds and operations up to a step.

    optimizer: operations of one update. embedding: seconds of one index, for the one before the first step.
    """
    ict_steps = step if stage == "ict" else config.ict.steps
    examples = ict_steps * config.ict.batch_size
    seconds = _seconds(metrics, "ict", ict_steps)
    flops = ict_steps * (cost.ict_step() + optimizer)
    if stage == "realm":
        refreshes = [e["index_step"] for e in metrics if e["kind"] == "refresh" and e["step"] < max(step, 1)]
        train = [e for e in metrics if e["kind"] == "train" and e["stage"] == "realm"]
        shares = [e["duplicates"] for e in train if e["step"] <= max(step, 1) and "duplicates" in e]
        duplicates = sum(shares) / len(shares) if shares else 0.0
        examples += step * config.realm.batch_size * config.realm.accumulation
        seconds += embedding + _seconds(metrics, "realm", step)
        flops += len(set(refreshes) | {0}) * cost.refresh() + step * (cost.realm_step(duplicates) + optimizer)
    return Effort(examples, round(seconds, 2), flops)


def _seconds(metrics: Sequence[dict[str, Any]], stage: str, step: int) -> float:
    """Of the steps up to `step`. An event holds the mean since the one before."""
    total, last = 0.0, 0
    for event in metrics:
        if event["kind"] == "train" and event["stage"] == stage and last < step:
            total += float(event["seconds"]) * (min(event["step"], step) - last)
            last = event["step"]
    return total


def prune(run: Run) -> None:
    """Drop all but the last checkpoint of each stage and the indexes that none of these names: they are judged."""
    used = {0}
    for folder in (run.warm_start / "checkpoints", run.checkpoints):
        kept = list_checkpoints(folder)
        for checkpoint in kept[:-1]:
            shutil.rmtree(checkpoint)
        if kept:
            facts = read_facts(kept[-1])
            used |= {int(facts["step"]), int(facts.get("index_step", 0))}
    for step, index in steps(run.index, files.MANIFEST):
        if step not in used:
            shutil.rmtree(index)
