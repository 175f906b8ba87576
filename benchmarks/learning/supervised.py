"""A supervised dual encoder as an upper line: questions, gold passages, in-batch softmax (DPR, Karpukhin et al. 2020).

The same architecture and starting point as the legs, trained on SQuAD's questions with the recipe's ICT settings and
judged on the masked sentences of the common probe. Hard negatives, which DPR adds, are left out: a batch of 256 with
distinct passages is what ICT has, too.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from realm import files
from realm.errors import DataError
from realm.methods.ict import InverseCloze
from realm.models.encoders import DenseEncoder
from realm.training.batches import pad_tokens
from realm.training.loop import Hooks, train
from realm.training.metrics import Metrics, read_metrics
from realm.training.state import latest_checkpoint, read_facts, restore
from realm.types import PairBatch
from realm.workflows.parts import Text
from realm.workflows.reporting import Silent
from realm.workflows.run import Run
from realm.workflows.workbench import Workbench, retriever_rates

from .cost import Cost, optimizer_step
from .judging import FORMAT, JUDGED, effort_at
from .legs import config_of
from .probe import CommonProbe

STREAM = 11
"""Sets these draws apart from others of the same seed."""


class QuestionPairs:
    """Batches of questions and gold passages; a passage stands in a batch once."""

    def __init__(self, folder: Path, text: Text, *, batch_size: int, max_query: int, max_passage: int, seed: int):
        """folder: corpus.jsonl.gz (id, title, text) and questions.train.jsonl.gz (question, gold_ids).

        DataError when there are fewer passages with questions than a batch needs.
        """
        self.tokenizer, self.snapshot = text.snapshot.tokenizer, text.snapshot
        self.max_query, self.max_passage, self.batch_size, self.seed = max_query, max_passage, batch_size, seed
        passages = {str(record["id"]): record for record in _records(folder / "corpus.jsonl.gz")}
        questions: dict[str, list[str]] = defaultdict(list)
        for record in _records(folder / "questions.train.jsonl.gz"):
            if record["gold_ids"] and record["gold_ids"][0] in passages:
                questions[record["gold_ids"][0]].append(record["question"])
        self.pairs = [(passages[name], asked) for name, asked in questions.items()]
        if len(self.pairs) < batch_size:
            raise DataError(
                f"found {len(self.pairs)} passages with questions in {folder}: expected at least batch_size="
                f"{batch_size}; give other data or lower ict.batch_size"
            )

    def batch(self, step: int) -> PairBatch:
        """Batch of a step: an epoch goes over all passages, with one of its questions each."""
        epoch, place = divmod(step, len(self.pairs) // self.batch_size)
        order = np.random.default_rng((self.seed, STREAM, epoch)).permutation(len(self.pairs))
        rng = np.random.default_rng((self.seed, STREAM, epoch, step))
        chosen = [self.pairs[i] for i in order[place * self.batch_size : (place + 1) * self.batch_size]]
        source, pad = self.snapshot, self.snapshot.pad_id
        queries, passages, heads = [], [], []
        for record, asked in chosen:
            query = self._ids(asked[int(rng.integers(len(asked)))])[: self.max_query - 2]
            title = self._ids(record["title"])[: self.max_passage - 3]
            body = self._ids(record["text"])[: self.max_passage - 3 - len(title)]
            queries.append(np.array([source.cls_id, *query, source.sep_id]))
            passages.append(np.array([source.cls_id, *title, source.sep_id, *body, source.sep_id]))
            heads.append(len(title) + 2)
        return PairBatch(query=pad_tokens(queries, pad), passage=pad_tokens(passages, pad, heads))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except FileNotFoundError:
        raise DataError(f"no file {path}: expected questions with gold passages, one JSON object a line") from None


def supervised(out: Path, text: Text, settings: list[str], seed: int, data: Path, *, steps: int, points: int) -> None:
    """Train and judge; ``out/supervised-sSEED/judged.json`` is like that of a leg. Goes on where it was stopped."""
    ict = [f"ict-only:ict.steps={steps}", f"ict-only:loop.checkpoint_every={max(1, steps // points)}"]
    config = config_of("ict-only", seed, [*settings, *ict, "loop.keep_checkpoints=1"])
    run = Run(out / f"supervised-s{seed}")
    path = run.path / JUDGED
    if path.exists() and files.read_json(path)["complete"]:
        return
    common = CommonProbe(out, text, config)
    pairs = QuestionPairs(
        data,
        text,
        batch_size=config.ict.batch_size,
        max_query=config.data.max_query_tokens,
        max_passage=config.data.max_passage_tokens,
        seed=seed,
    )
    cost = Cost(config, text, common.probe)
    found = latest_checkpoint(run.path / "checkpoints")
    start = int(read_facts(found)["step"]) if found else 0
    judged: list[dict[str, Any]] = files.read_json(path)["points"] if path.exists() else []
    with Metrics(run.path) as metrics:
        bench = Workbench(run, config, text, text, metrics, Silent(), None)
        encoder = bench.encoder(found)
        method = InverseCloze(encoder, chunk_tokens=config.ict.chunk_tokens)
        optimizer = bench.optimizer(method.parameter_groups(), retriever_rates(config.ict))
        if found:
            restore(found, optimizer)
            metrics.rewind("ict", start)

        def judge(checkpoint: Path) -> None:
            facts = read_facts(checkpoint)
            step = int(facts["step"])
            saved = DenseEncoder.from_pretrained(checkpoint / "encoder").eval()
            events = read_metrics(metrics.path)
            effort = effort_at("ict", step, config, cost, events, optimizer_step(facts), 0.0)
            figures = common.judge_encoder(saved, config.data.max_passage_tokens)
            judged[:] = [point for point in judged if point["step"] != step]
            judged.append({"stage": "supervised", "step": step, **effort._asdict(), **figures})
            header = {"format": FORMAT, "leg": "supervised", "seed": seed, "probe": common.facts()}
            files.write_json(path, {**header, "complete": step == steps, "points": judged})

        if found and start not in {point["step"] for point in judged}:  # stopped between the two
            judge(found)
        train(
            method,
            pairs,
            optimizer,
            bench.schedule(steps),
            stage="ict",
            folder=run.path,
            metrics=metrics,
            start_step=start,
            autocast=bench.autocast,
            hooks=Hooks(after_checkpoint=judge),
        )
