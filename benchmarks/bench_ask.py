"""How long an answer takes: embed, search and read a question, alone and by 64, and beside the Hugging Face port.

    python benchmarks/bench_ask.py --kb KB --wiki204k FOLDER [--model MODEL | --layers 6] [--peer hfrealm/bin/python]

Asks the test questions of nq_open through `QuestionAnswering.ask` and `ask_many` over the passages of KB (the knowledge
base of benchmarks/wiki204k). Prints median and 95th percentile of one question, the shares of embedding the question,
searching and reading, with the reader's products in float32 and in bfloat16, and the rate of batches. --peer is the
Python of an environment with transformers 4.40.2 (see peers/hf_realm.py); then both systems answer each question in
turn, over the same passages, and the ratio is printed.

--model is a folder that `realm finetune` wrote; its encoder embeds KB's passages first. Without it, a retriever and a
reader are made on the spot from the first --layers layers of all-MiniLM-L6-v2, the span network is random, and so are
the passages' vectors, as the time of a search does not depend on them. Only those of the passages that BM25 found for a
question (`silver_ids` of the set; as many others as are missing) are the question's own vector, so that what is read
has the length of what is retrieved. KB is copied to --work first, which a later run takes up again: it is not written.

The port has random weights of equal size: as many layers, 384 wide, vectors of as many numbers, k passages of at most
320 tokens, spans of up to 10. It finds the same passages as we did, by the same means. Both run under
`torch.inference_mode`, in processes of their own that wait for each other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import realm
from realm import KnowledgeBase, QuestionAnswering
from realm.knowledge.base import PassageEncoder
from realm.knowledge.fetching import resolve_model
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanReader
from realm.settings_finetune import FinetuneConfig
from realm.types import Answer, Passage

PEER = Path(__file__).parent / "peers" / "hf_realm.py"
MODEL = "all-MiniLM-L6-v2"
Key = tuple[str, int]
"""Document and number of a passage."""


def questions(folder: Path, count: int) -> list[dict[str, Any]]:
    """Test questions of nq_open, spread over the file, no two alike."""
    path = folder / "questions" / "nq_open.test.jsonl"
    found = {row["question"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    listed = list(found.values())
    if len(listed) < count:
        raise SystemExit(f"found {len(listed)} questions in {path}: expected at least {count}; lower --questions")
    return [listed[i * len(listed) // count] for i in range(count)]


# ---------------------------------------------------------------- what answers


def make(layers: int) -> QuestionAnswering:
    """A model of the default settings that learnt nothing."""
    torch.manual_seed(0)
    source = resolve_model(MODEL)
    config = FinetuneConfig()
    encoder = DenseEncoder.from_pretrained(source, layers=layers, dim=config.encoder.dim)
    return QuestionAnswering(encoder, SpanReader.from_pretrained(source, layers=layers), config)


def plan(kb: KnowledgeBase, rows: Sequence[dict[str, Any]], k: int) -> list[list[Key]]:
    """k passages for each question to find: those that BM25 found, and others; none for two questions."""
    everything = [
        (document, number)
        for batch in kb.batches(["document_id", "number"])
        for document, number in zip(batch["document_id"].to_pylist(), batch["number"].to_pylist(), strict=True)
    ]
    there, used, draw = set(everything), set(), random.Random(0)
    found = []
    for row in rows:
        mine = [(name, 0) for name in row.get("silver_ids") or [] if (name, 0) in there and (name, 0) not in used][:k]
        while len(mine) < k:
            other = draw.choice(everything)
            if other not in used and other not in mine:
                mine.append(other)
        used.update(mine)
        found.append(mine)
    return found


def planted(model: QuestionAnswering, texts: Sequence[str], wanted: Sequence[Sequence[Key]]) -> PassageEncoder:
    """Random vectors as long as those of the questions, but for the wanted passages: the vector of their question."""
    vectors = [model.retrieval.query_vectors(text)[0].float().numpy() for text in texts]
    of = {key: vector for keys, vector in zip(wanted, vectors, strict=True) for key in keys}
    longest = max(float(np.linalg.norm(vector)) for vector in vectors)
    draw = np.random.default_rng(0)

    def encode(passages: Sequence[Passage]) -> np.ndarray:
        vector_ND = draw.standard_normal((len(passages), len(vectors[0])), dtype=np.float32)
        vector_ND *= longest / np.linalg.norm(vector_ND, axis=1, keepdims=True)
        for n, passage in enumerate(passages):
            vector_ND[n] = of.get((passage.document_id, passage.number), vector_ND[n])
        return vector_ND

    return PassageEncoder(model.passage_encoder.fingerprint, encode)


def readers_of(model: QuestionAnswering) -> dict[str, SpanReader]:
    return {"float32": model.reader, "bfloat16": model.reader.in_bfloat16()}


class Clock:
    """Seconds spent in the parts of a question."""

    def __init__(self, model: QuestionAnswering) -> None:
        self.seconds = {"embed": 0.0, "search": 0.0, "read": 0.0}
        retrieval: Any = model.retrieval
        retrieval.query_vectors = self._timed("embed", retrieval.query_vectors)
        retrieval.search_many = self._timed("search", retrieval.search_many, inside="embed")
        reading: Any = model
        reading.read = self._timed("read", model.read)

    def _timed(self, name: str, call: Callable[..., Any], inside: str | None = None) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            before, begun = self.seconds.get(inside or "", 0.0), time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                other = self.seconds.get(inside or "", 0.0) - before
                self.seconds[name] += time.perf_counter() - begun - other

        return timed

    def take(self) -> dict[str, float]:
        taken = dict(self.seconds)
        self.seconds.update(dict.fromkeys(taken, 0.0))
        return taken


# ---------------------------------------------------------------- what it is measured beside


class Peer:
    """The port's process."""

    def __init__(self, python: str, facts: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [python, "-W", "ignore", str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._say(facts)

    def ask(self, number: int) -> tuple[float, int, int]:
        """Seconds, and the tokens that were read, padding counted and not."""
        told = self._say({"ask": number})
        return told["seconds"], told["padded"], told["tokens"]

    def _say(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{PEER.name} ended with {self.process.wait()}: expected an answer; see what it wrote")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def peer(
    python: str | None, model: QuestionAnswering, kb: KnowledgeBase, texts: list[str], keys: list[list[Key]], args: Any
) -> Iterator[Peer | None]:
    """The port over the same passages, finding for each question those of `keys`; None without a Python for it."""
    if python is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        row_of: dict[Key, int] = {}
        with open(Path(folder) / "blocks.jsonl", "w", encoding="utf-8") as blocks:
            for passage in kb.passages():
                row_of[passage.document_id, passage.number] = len(row_of)
                blocks.write(json.dumps(passage.text) + "\n")
        tokenizer = Path(folder) / "tokenizer"
        model.retrieval.tokenizer.save_pretrained(tokenizer)
        size = model.reader.model.config
        facts = {
            "vocabulary": str(tokenizer), "blocks": str(Path(folder) / "blocks.jsonl"), "questions": texts,
            "rows": [[row_of[key] for key in mine] for mine in keys], "threads": args.threads, "k": args.k,
            "layers": size.num_hidden_layers, "hidden_size": size.hidden_size, "heads": size.num_attention_heads,
            "intermediate_size": size.intermediate_size, "vocab_size": size.vocab_size,
            "dim": model.retrieval.encoder.dim, "max_tokens": model.config.reader.max_tokens,
            "max_width": model.config.reader.max_width, "span_size": model.config.reader.span_size,
        }  # fmt: skip
        port = Peer(python, facts)
        try:
            yield port
        finally:
            port.close()


# ---------------------------------------------------------------- measuring


def spread(seconds: Sequence[float], count: int) -> dict[str, float]:
    """Of all rounds; and of each question's best round, the one that neighbours on the machine disturbed least."""
    ordered = sorted(seconds)
    return {
        "median_ms": round(1e3 * statistics.median(ordered), 1),
        "p95_ms": round(1e3 * ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)], 1),
        "median_of_best_rounds_ms": round(1e3 * statistics.median(best(seconds, count)), 1),
    }


def best(seconds: Sequence[float], count: int) -> list[float]:
    """The least of each of `count` questions, which were asked round by round."""
    return [min(seconds[number::count]) for number in range(count)]


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def single(
    model: QuestionAnswering, kb: KnowledgeBase, texts: Sequence[str], port: Peer | None, args: Any
) -> dict[str, Any]:
    """One question after the other: each in float32, in bfloat16 and by the port before the next; round by round."""
    clock, readers = Clock(model), readers_of(model)
    own: dict[str, list[float]] = {name: [] for name in args.products}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in args.products}
    theirs: list[float] = []
    padded = tokens = 0
    for turn in range(-1, args.rounds):  # the first warms up
        for number, text in enumerate(texts if turn >= 0 else texts[:3]):
            for name in args.products[:: -1 if number % 2 else 1]:
                model.reader = readers[name]
                clock.take()
                spent, _ = seconds_of(lambda text=text: model.ask(text, kb, args.k))
                if turn >= 0:
                    own[name].append(spent)
                    parts[name].append(clock.take())
            if port is not None:
                spent, wide, real = port.ask(number)
                if turn >= 0:
                    theirs.append(spent)
                    padded, tokens = padded + wide, tokens + real
    found: dict[str, Any] = {}
    for name in args.products:
        total = statistics.median(own[name])
        middle = {part: statistics.median(one[part] for one in parts[name]) for part in parts[name][0]}
        mine: dict[str, Any] = spread(own[name], len(texts))
        mine["parts_ms"] = {part: round(1e3 * value, 1) for part, value in middle.items()}
        mine["shares"] = {part: round(value / total, 3) for part, value in middle.items()}
        if theirs:
            mine["RATIO port : ours, of the medians"] = round(statistics.median(theirs) / total, 2)
            pairs = zip(best(own[name], len(texts)), best(theirs, len(texts)), strict=True)
            mine["RATIO port : ours, of the best rounds"] = round(statistics.median(b / a for a, b in pairs), 2)
        found[f"reader in {name}"] = mine
    if theirs:
        found["port"] = spread(theirs, len(texts))
        found["port"]["tokens_read"] = round(tokens / len(theirs))
        found["port"]["with_padding"] = round(padded / len(theirs))
    model.reader = readers[args.products[-1]]
    return found


def batches(model: QuestionAnswering, kb: KnowledgeBase, texts: Sequence[str], args: Any) -> dict[str, Any]:
    """A batch, then a quarter of its questions one by one, in turn."""
    many, alone = [], []
    waiting = iter(texts * (1 + args.batch * args.batches // len(texts)))
    for _ in range(args.batches):
        part = list(islice(waiting, args.batch))
        many.append(seconds_of(lambda part=part: list(model.ask_many(part, kb, args.k, batch=args.batch)))[0])
        some = part[: max(8, args.batch // 4)]
        alone.append(seconds_of(lambda some=some: [model.ask(text, kb, args.k) for text in some])[0] / len(some))
    rate, single_rate = args.batch / statistics.median(many), 1 / statistics.median(alone)
    return {
        "reader_in": str(next(model.reader.model.parameters()).dtype).removeprefix("torch."),
        "questions_per_second": round(rate, 2),
        "one_by_one": round(single_rate, 2),
        f"RATIO batches of {args.batch} : one by one": round(rate / single_rate, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=Path, required=True)
    parser.add_argument("--wiki204k", type=Path, required=True, help="the folder that benchmarks/wiki204k made")
    parser.add_argument("--model", type=Path, help="a fine-tuned model; made on the spot when left out")
    parser.add_argument("--work", type=Path, help="where the copy of the knowledge base is kept; a temporary folder")
    parser.add_argument("--peer", help="the Python of an environment with transformers 4.40.2")
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    for name, value in (("layers", 6), ("k", 5), ("questions", 60), ("rounds", 2), ("batch", 64), ("batches", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--products", nargs="+", default=["float32", "bfloat16"], help="the reader's, each in turn")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = [os.getloadavg()[0]]
    rows = questions(args.wiki204k, args.questions)
    texts = [row["question"] for row in rows]
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary) / "kb"
        if not work.exists():
            shutil.copytree(args.kb, work)
        kb = KnowledgeBase.open(work)
        model = make(args.layers) if args.model is None else QuestionAnswering.from_pretrained(args.model)
        if args.model is None:
            wanted = plan(kb, rows, args.k)
            kb.embed_missing(planted(model, texts, wanted), progress=shown)
        else:
            kb.embed_missing(model.passage_encoder, progress=shown)
        answers = [model.ask(text, kb, args.k) for text in texts]
        keys = [read_by(answer) for answer in answers]
        if args.model is None and any(set(mine) != set(theirs) for mine, theirs in zip(wanted, keys, strict=True)):
            raise SystemExit(f"{work} holds the vectors of other questions: give another --work, or remove it")
        with peer(args.peer, model, kb, texts, keys, args) as port:
            alone = single(model, kb, texts, port, args)
        together = batches(model, kb, texts, args) if args.batches else None
        load.append(os.getloadavg()[0])
        report = {
            "machine": {
                "processor": processor(), "cores": len(os.sched_getaffinity(0)), "threads": args.threads,
                "load_before_and_after": [round(value, 1) for value in load],
            },
            "versions": {
                "realm": realm.__version__, "python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "port": port.versions if port is not None else None,
            },
            "what": {
                "passages": kb.num_passages(), "k": args.k, "questions": len(texts), "rounds": args.rounds,
                "model": str(args.model or f"{MODEL}, {args.layers} layers, random span network, planted vectors"),
                "retriever_layers": model.retrieval.encoder.query_tower.backbone.config.num_hidden_layers,
                "reader_layers": model.reader.model.config.num_hidden_layers, "dim": model.retrieval.encoder.dim,
            },
            "one question": alone,
            "batches": together,
        }  # fmt: skip
    told = json.dumps(report, indent=1)
    print(told)
    if args.out is not None:
        args.out.write_text(told + "\n", encoding="utf-8")


def read_by(answer: Answer) -> list[Key]:
    return [(evidence.passage.document_id, evidence.passage.number) for evidence in answer.evidence]


def shown(done: int, total: int | None) -> None:
    print(f"\rembedding {done:,} of {total or 0:,}", end="", file=sys.stderr, flush=True)


def processor() -> str:
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
