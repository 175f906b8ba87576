"""What the training steps of `step` are made of: text, networks, batches, and how much arithmetic is in them.

Legend: B queries, K candidates, L tokens, D vector size.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.core import limits, made
from realm.answering.tokens import pad
from realm.evaluation.answers import normalize_orqa
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text.passages import SentenceSplitter
from realm.knowledge.text.spans import find_spans
from realm.methods.ict import InverseCloze
from realm.methods.open_qa import OpenQA
from realm.methods.proposing import Proposer
from realm.methods.realm import RealmPretraining
from realm.methods.retrievers import DenseRetriever
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.freezing import with_frozen_passages
from realm.models.span import SpanReader
from realm.search.exact import ExactIndex
from realm.training import pairs
from realm.training.batches import MaskedSentences
from realm.training.questions import QuestionBatches
from realm.types import NO_ROW, Question, Tokens

MAX_QUERY, MAX_WIDTH, SPAN_SIZE, READ = 64, 10, 256, 5


class Clock:
    """Adds up the time spent in wrapped calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return fn(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        return timed


@dataclass
class Work:
    """One step."""

    run: Callable[[], None]
    flops: float
    tokens: int
    clock: Clock = field(default_factory=Clock)

    def facts(self) -> dict[str, Any]:
        """Real tokens, and the shares of one step that are no arithmetic of the networks."""
        self.run()
        self.clock.seconds.clear()
        began = time.perf_counter()
        self.run()
        total = time.perf_counter() - began
        shares = {f"share of {name}": round(value / total, 4) for name, value in self.clock.seconds.items()}
        return {"tokens": self.tokens, **shares}


class Repeated:
    """A snapshot whose rows stand for any number of rows."""

    def __init__(self, snapshot: Snapshot, clock: Clock) -> None:
        self.snapshot, self.fingerprint = snapshot, snapshot.fingerprint
        self.passages = clock.wrap("fetch", self._passages)
        self.bodies = clock.wrap("fetch", self._bodies)

    def __len__(self) -> int:
        return len(self.snapshot)

    def _row(self, rows: Tensor) -> Tensor:
        return torch.where(rows < 0, rows, rows % len(self.snapshot))

    def _passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        return self.snapshot.passages(self._row(rows), max_tokens)

    def _bodies(self, rows: Tensor, max_tokens: int, with_title: bool = False) -> Tokens:
        return self.snapshot.bodies(self._row(rows), max_tokens, with_title)


class Steps:
    """Everything that the three steps share."""

    def __init__(self, folder: Path, options: Namespace) -> None:
        self.folder, self.options = folder, options
        source = made.model(folder / "model", layers=options.layers, hidden=options.hidden)
        tokenizer = made.tokenizer()
        kb = KnowledgeBase.create(folder / "kb", split=SentenceSplitter(tokenizer, options.tokens))
        kb.add(made.documents(options.documents, int(options.tokens * 0.45)))
        self.snapshot = Snapshot.build(kb, tokenizer, folder / "snapshot")
        bare = {"dropout": 0.0, "backbone_dropout": 0.0}
        self.encoder = DenseEncoder.from_pretrained(source, **bare)
        joint = 2 * options.tokens + MAX_QUERY
        self.reader = ClozeReader.from_pretrained(source, copy=True, backbone_dropout=0.0, max_length=joint)
        span = {"span_size": SPAN_SIZE, "max_width": MAX_WIDTH, "max_length": joint, "backbone_dropout": 0.0}
        self.span_reader = SpanReader.from_pretrained(source, **span)
        self.shape = self.encoder.query_tower.backbone.config
        self.layer_sizes = {
            "layers": self.shape.num_hidden_layers,
            "hidden": self.shape.hidden_size,
            "inner": self.shape.intermediate_size,
        }
        spans = find_spans(self.snapshot, folder / "spans", pipeline="pattern")
        self.masked = MaskedSentences(
            self.snapshot, spans, batch_size=options.batch, max_query_tokens=MAX_QUERY, exclude="passage"
        )
        self.cloze = pairs.InverseCloze(
            self.snapshot, batch_size=options.pairs, max_query_tokens=MAX_QUERY, max_passage_tokens=options.tokens
        )
        self.question, self.gold = self._question()

    def _backward(self, loss: Callable[[], Any], modules: tuple[nn.Module, ...]) -> Callable[[], None]:
        def step() -> None:
            loss().total.backward()
            for module in modules:
                module.zero_grad(set_to_none=True)

        return step

    def _forward_flops(self, *lengths: Tensor) -> float:
        return limits.layer_flops(torch.cat([one.flatten() for one in lengths]), **self.layer_sizes)

    # ------------------------------------------------------------ the three

    def ict(self) -> Work:
        clock = Clock()
        get = clock.wrap("making the batch", self.cloze.batch)
        batch = self.cloze.batch(0)
        lengths = torch.cat([batch.query.lengths, batch.passage.lengths])
        method = InverseCloze(self.encoder)
        run = self._backward(lambda: method.loss(get(0)), (self.encoder,))
        return Work(run, 3 * self._forward_flops(lengths), int(lengths.sum()), clock)

    def realm(self, rows: int) -> Work:
        options, clock = self.options, Clock()
        index = ExactIndex(torch.randn(rows, self.encoder.dim))
        for name in ("search", "vectors"):
            setattr(index, name, clock.wrap("search", getattr(index, name)))
        corpus = Repeated(self.snapshot, clock)
        proposer = Proposer(
            self.encoder, corpus, index, num_passages=options.candidates - 1, max_passage_tokens=options.tokens
        )
        method = RealmPretraining(
            self.encoder,
            self.reader,
            corpus,
            proposer,
            max_passage_tokens=options.tokens,
            max_reader_tokens=options.tokens,
        )
        get = clock.wrap("making the batch", self.masked.batch)
        batch = self.masked.batch(0)
        with torch.no_grad():
            rows_BK = method.read(batch).rows_BK
        passage, query = corpus.passages(rows_BK.unique(), options.tokens), batch.query.lengths
        body = corpus.bodies(rows_BK.flatten(), options.tokens)
        joint = body.lengths + query.repeat_interleave(rows_BK.shape[1]) + 1
        hidden, masked = self.shape.hidden_size, int(batch.target.mask.sum()) * rows_BK.shape[1]
        head = 2.0 * masked * hidden * (self.shape.vocab_size + hidden)
        # The query is encoded a second time, by the index's parameters and without gradients.
        flops = 3 * (self._forward_flops(passage.lengths, query, joint) + head) + self._forward_flops(query)
        run = self._backward(lambda: method.loss(get(0)), (self.encoder, self.reader))
        return Work(run, flops, int(passage.lengths.sum() + query.sum() + joint.sum()), clock)

    def tune(self) -> Work:
        clock = Clock()
        encoder = with_frozen_passages(self.encoder)
        batches = QuestionBatches(self.snapshot, [self.question], batch_size=1, drop_unmatched=False)
        get = clock.wrap("making the batch", batches.batch)
        batch = batches.batch(0)
        vector_ND = torch.randn(len(self.snapshot), encoder.dim)
        with torch.no_grad():
            vector_ND[self.gold] = 10 * encoder.encode_queries(batch.query)[0]
        index = ExactIndex(vector_ND)
        for name in ("search", "vectors"):
            setattr(index, name, clock.wrap("search", getattr(index, name)))
        limit = self.options.tokens
        method = OpenQA(
            DenseRetriever(encoder, self.snapshot, index, max_passage_tokens=limit),
            self.span_reader,
            self.snapshot,
            normalize=normalize_orqa,
            num_passages=READ,
            num_early=self.options.early,
            max_reader_tokens=limit,
        )
        query = batch.query.lengths
        joint = self.snapshot.bodies(torch.tensor(self.gold), limit).lengths + query + 1
        hidden = self.shape.hidden_size
        head = 2.0 * int(joint.sum()) * (hidden * 2 * SPAN_SIZE + MAX_WIDTH * SPAN_SIZE)
        flops = 3 * (self._forward_flops(query, joint) + head)
        run = self._backward(lambda: method.loss(get(0)), (encoder, self.span_reader))
        return Work(run, flops, int(query.sum() + joint.sum()), clock)

    def _question(self) -> tuple[Question, list[int]]:
        """A question whose answer, a word with a capital, stands in the first of the passages that it finds."""
        row = next(row for row in range(len(self.snapshot)) if len(self.snapshot.body_ids(row)) > 12)
        words = self.snapshot.passage(row).text.split()
        answer = next(word.strip(".") for word in words if word[0].isupper())
        text = " ".join(words[:8]) + " ?"
        others = [other for other in range(len(self.snapshot)) if other != row][: READ - 1]
        return Question("0", text, (answer,)), [row, *others]

    # ------------------------------------------------------------ for the port

    def for_the_port(self) -> dict[str, Any]:
        """Facts for peers/hf_steps.py; writes the tokens and texts it names. Candidates are drawn: ours come later."""
        options = self.options
        ict, masked = self.cloze.batch(0), self.masked.batch(0)
        draw = torch.Generator().manual_seed(0)
        count = options.candidates
        rows_BK = torch.randint(len(self.snapshot), (options.batch, count), generator=draw)
        rows_BK[:, 0] = NO_ROW
        passage = self.snapshot.passages(rows_BK.flatten(), options.tokens)
        body = self.snapshot.bodies(rows_BK.flatten(), options.tokens)
        joint = self._joint(masked.query, body, count)
        labels_BL = torch.full((options.batch, joint.ids.shape[1]), -100)
        target = masked.target
        for b in range(options.batch):
            there = target.mask[b]
            labels_BL[b, target.positions[b][there]] = target.ids[b][there]
        arrays: dict[str, Tensor] = {"labels": labels_BL}
        for name, tokens, wide in (
            ("ict_query", ict.query, 1),
            ("ict_passage", ict.passage, 1),
            ("query", masked.query, 1),
            ("passage", passage, count),
            ("joint", joint, count),
        ):
            parts = {"ids": tokens.ids, "types": tokens.types, "mask": tokens.mask.long()}
            for part, value in parts.items():
                arrays[f"{name}_{part}"] = value.view(-1, wide, value.shape[1]) if wide > 1 else value
        place = self.folder / "tokens.npz"
        np.savez(place, **{name: value.long().numpy() for name, value in arrays.items()})
        blocks = self.folder / "blocks.jsonl"
        with open(blocks, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(self.snapshot.passage(row).text) + "\n" for row in range(len(self.snapshot)))
        return {
            "threads": options.threads, "tokens": str(place), "vocabulary": str(self.folder / "model"),
            "blocks": str(blocks), "layers": options.layers, "dim": self.encoder.dim, "candidates": count,
            "vocab_size": self.shape.vocab_size, "hidden_size": self.shape.hidden_size,
            "intermediate_size": self.shape.intermediate_size, "heads": self.shape.num_attention_heads,
            "early": options.early, "k": READ, "max_tokens": options.tokens + 3, "max_width": MAX_WIDTH,
            "span_size": SPAN_SIZE, "question": self.question.text, "answer": self.question.answers[0],
            "rows": self.gold,
        }  # fmt: skip

    def _joint(self, query: Tokens, body: Tokens, count: int) -> Tokens:
        """[CLS] query [SEP] body [SEP] of every pair."""
        rows, starts, separator = [], [], self.snapshot.sep_id
        for number in range(len(body)):
            asked = query.ids[number // count, : query.lengths[number // count]].tolist()
            starts.append(len(asked))
            rows.append([*asked, *body.ids[number, : body.lengths[number]].tolist(), separator])
        return pad(rows, 0, starts)
