"""Cost of a REALM step: arithmetic rate beside plain transformers, and the share of everything that is no arithmetic.

    python benchmarks/bench_step.py [--layers 3] [--batch 8] [--candidates 8] [--tokens 128] [--steps 4] [--threads 2]

Prints, from one process and one run: (1) the rate of forward and backward of a REALM step over its real tokens
divided by the rate of a plain `transformers` encoder, forward and backward, over as many tokens in even batches;
(2) the share of a step that is search, fetching and host work, with 10,000 and with 1,000,000 passages (synthetic
vectors). Floating-point operations are counted by one formula for both sides: matrix products only, padding not.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from realm.knowledge.base import KnowledgeBase
from realm.knowledge.fetching import resolve_model
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text.passages import SentenceSplitter
from realm.knowledge.text.spans import find_spans
from realm.methods.proposing import Proposer
from realm.methods.realm import RealmPretraining
from realm.models.backbone import load_tokenizer
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.training.batches import MaskedSentences
from realm.types import NO_ROW, Document, Tokens

WORDS = 4000


def documents(count: int, words: int) -> list[Document]:
    """Synthetic documents of varied length with names to mask."""
    rng = np.random.default_rng(0)
    vocabulary = ["".join(rng.choice(list("abdegiklmnoprstu"), rng.integers(2, 8))) for _ in range(WORDS)]
    found = []
    for number in range(count):
        length = int(np.clip(rng.lognormal(np.log(words), 0.5), 12, 2 * words))
        text = []
        while len(text) < length:
            sentence = [vocabulary[int(i)] for i in np.minimum(rng.zipf(1.3, rng.integers(6, 20)), WORDS) - 1]
            sentence[rng.integers(1, len(sentence))] = vocabulary[rng.integers(WORDS)].capitalize()
            text += [*sentence[:-1], sentence[-1] + "."]
        found.append(Document(id=str(number), title=f"Title {number}", text=" ".join(text)))
    return found


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


class Repeated:
    """A snapshot whose rows stand for any number of rows."""

    def __init__(self, snapshot: Snapshot, clock: Clock) -> None:
        self.snapshot = snapshot
        self.lengths: list[np.ndarray] = []
        self.passages = clock.wrap("fetch", self._passages)
        self.bodies = clock.wrap("fetch", self._bodies)

    def _row(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows < 0, rows, rows % len(self.snapshot))

    def _passages(self, rows: torch.Tensor, max_tokens: int) -> Tokens:
        return self.snapshot.passages(self._row(rows), max_tokens)

    def _bodies(self, rows: torch.Tensor, max_tokens: int, with_title: bool = False) -> Tokens:
        return self.snapshot.bodies(self._row(rows), max_tokens, with_title)


def layer_flops(lengths: np.ndarray, layers: int, hidden: int, inner: int) -> float:
    """Forward: four attention projections and two of the feed-forward, and the two attention products."""
    tokens = lengths.sum(dtype=np.float64)
    products = 2 * tokens * (4 * hidden * hidden + 2 * hidden * inner)
    return float(layers * (products + 4 * hidden * (lengths.astype(float) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 3), ("batch", 8), ("candidates", 8), ("tokens", 128), ("steps", 4), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    source = resolve_model(args.model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(source)
        kb = KnowledgeBase.create(Path(folder) / "kb", split=SentenceSplitter(tokenizer, args.tokens))
        kb.add(documents(3000, int(args.tokens * 0.45)))
        snapshot = Snapshot.build(kb, tokenizer, Path(folder) / "snapshot")
        spans = find_spans(snapshot, Path(folder) / "spans", pipeline="pattern")
        encoder = DenseEncoder.from_pretrained(source, layers=args.layers, dropout=0.0, backbone_dropout=0.0)
        reader = ClozeReader.from_pretrained(
            source, layers=args.layers, copy=True, backbone_dropout=0.0, max_length=2 * args.tokens
        )
        config = encoder.query_tower.backbone.config
        batches = MaskedSentences(snapshot, spans, batch_size=args.batch, max_query_tokens=64, exclude="passage")
        get_batch = clock.wrap("batch", batches.batch)
        report: dict[str, Any] = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **vars(args),
        }
        for rows in (10_000, 1_000_000):
            vectors = torch.randn(rows, encoder.dim)
            index = ExactIndex(vectors)
            for name in ("search", "vectors"):
                setattr(index, name, clock.wrap("search", getattr(index, name)))
            text = Repeated(snapshot, clock)
            proposer = Proposer(encoder, text, index, num_passages=args.candidates - 1, max_passage_tokens=args.tokens)
            method = RealmPretraining(
                encoder, reader, text, proposer, max_passage_tokens=args.tokens, max_reader_tokens=args.tokens
            )
            total, flops, plain_seconds, plain_flops = 0.0, 0.0, 0.0, 0.0
            for step in range(args.steps + 1):
                if step == 1:  # the first warms up
                    clock.seconds.clear()
                    total = flops = plain_seconds = plain_flops = 0.0
                started = time.perf_counter()
                batch = get_batch(step)
                reading_rows: list[torch.Tensor] = []

                def candidates(*a: Any, _propose: Any = proposer, _rows: Any = reading_rows) -> Any:
                    found = _propose(*a)
                    _rows.append(torch.nn.functional.pad(found.rows_BK, (1, 0), value=NO_ROW))
                    return found

                method.proposer = candidates  # type: ignore[assignment]
                loss = method.loss(batch)
                loss.total.backward()
                total += time.perf_counter() - started
                for module in (encoder, reader):
                    module.zero_grad(set_to_none=True)
                # ---- the same work, counted
                rows_BK = reading_rows[0]
                real = Repeated(snapshot, Clock())
                passage = real._passages(rows_BK.unique(), args.tokens).lengths.numpy()
                query = batch.query.lengths.numpy()
                bodies = real._bodies(rows_BK.flatten(), args.tokens).lengths.numpy()
                joint = bodies + np.repeat(query, args.candidates) + 1
                masks = int(batch.target.mask.sum()) * args.candidates
                lengths = np.concatenate([passage, query, joint])
                head = 2.0 * masks * config.hidden_size * (config.vocab_size + config.hidden_size)
                layers = layer_flops(lengths, args.layers, config.hidden_size, config.intermediate_size)
                flops += 3 * (layers + head)
                # ---- plain transformers over as many tokens, in even batches
                seconds, work = plain(encoder, int(lengths.sum()), args, config)
                plain_seconds, plain_flops = plain_seconds + seconds, plain_flops + work
            rest = sum(clock.seconds.values())
            ours, theirs = flops / (total - rest), plain_flops / plain_seconds
            report[f"{rows:,} passages"] = {
                "step_seconds": round(total / args.steps, 3),
                "realm_gflops_per_second": round(ours / 1e9, 1),
                "plain_gflops_per_second": round(theirs / 1e9, 1),
                "ratio": round(ours / theirs, 3),
                "rest_of_the_step": round(rest / total, 4),
                "rest": {name: round(value / total, 4) for name, value in clock.seconds.items()},
            }
        print(json.dumps(report, indent=1))


def plain(encoder: DenseEncoder, tokens: int, args: argparse.Namespace, config: Any) -> tuple[float, float]:
    """Seconds and operations of `transformers` forward and backward over `tokens` tokens, no padding."""
    backbone = encoder.query_tower.backbone
    size = max(1, 4096 // args.tokens)
    count = max(1, round(tokens / (size * args.tokens)))
    ids = torch.randint(1000, 20000, (size, args.tokens))
    started = time.perf_counter()
    for _ in range(count):
        backbone(input_ids=ids).last_hidden_state.sum().backward()
    seconds = time.perf_counter() - started
    backbone.zero_grad(set_to_none=True)
    work = layer_flops(np.full(size, args.tokens), args.layers, config.hidden_size, config.intermediate_size)
    return seconds, 3 * work * count


if __name__ == "__main__":
    main()
