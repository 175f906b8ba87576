"""What `ask` is made of: questions, a model with random weights, the passages that each question shall find."""

from __future__ import annotations

import json
import random
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm import KnowledgeBase, QuestionAnswering
from realm.knowledge.base import PassageEncoder
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanReader
from realm.settings_finetune import FinetuneConfig
from realm.types import Answer, Passage

Key = tuple[str, int]
"""Document and number of a passage."""


def nq_open(folder: Path, wanted: int) -> list[dict[str, Any]]:
    """Test questions, spread over the file, no two alike."""
    path = folder / "questions" / "nq_open.test.jsonl"
    found = {row["question"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    listed = list(found.values())
    if len(listed) < wanted:
        raise SystemExit(f"found {len(listed)} questions in {path}: expected at least {wanted}; lower --questions")
    return [listed[i * len(listed) // wanted] for i in range(wanted)]


def with_random_weights(source: Path) -> QuestionAnswering:
    """A model of the default settings that learnt nothing."""
    config = FinetuneConfig()
    encoder = DenseEncoder.from_pretrained(source, dim=config.encoder.dim)
    return QuestionAnswering(encoder, SpanReader.from_pretrained(source), config)


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


def read_by(answer: Answer) -> list[Key]:
    return [(evidence.passage.document_id, evidence.passage.number) for evidence in answer.evidence]


def parts(model: QuestionAnswering, ask: Callable[[], object], times: int = 5) -> dict[str, Any]:
    """Shares of embedding, searching and reading in the time of a question."""
    spent = {"embed": 0.0, "search": 0.0, "read": 0.0}
    retrieval: Any = model.retrieval
    reading: Any = model
    inner, outer, read = retrieval.query_vectors, retrieval.search_many, model.read

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - began

        return wrapped

    ask()
    retrieval.query_vectors, retrieval.search_many = timed("embed", inner), timed("search", outer)
    reading.read = timed("read", read)
    try:
        began = time.perf_counter()
        for _ in range(times):
            ask()
        total = time.perf_counter() - began
    finally:
        for thing, name in ((retrieval, "query_vectors"), (retrieval, "search_many"), (reading, "read")):
            delattr(thing, name)  # the class's own are seen again
    spent["search"] -= spent["embed"]
    return {f"share of {name}": round(seconds / total, 3) for name, seconds in spent.items()}


def for_the_port(
    model: QuestionAnswering,
    kb: KnowledgeBase,
    texts: list[str],
    keys: list[list[Key]],
    options: Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Facts for peers/hf_realm.py: the same passages, and for each question those of `keys` to be found."""
    row_of: dict[Key, int] = {}
    with open(folder / "blocks.jsonl", "w", encoding="utf-8") as blocks:
        for passage in kb.passages():
            row_of[passage.document_id, passage.number] = len(row_of)
            blocks.write(json.dumps(passage.text) + "\n")
    model.retrieval.tokenizer.save_pretrained(folder / "tokenizer")
    size = model.reader.model.config
    return {
        "vocabulary": str(folder / "tokenizer"), "blocks": str(folder / "blocks.jsonl"), "questions": texts,
        "rows": [[row_of[key] for key in mine] for mine in keys], "threads": torch.get_num_threads(), "k": options.k,
        "layers": size.num_hidden_layers, "hidden_size": size.hidden_size, "heads": size.num_attention_heads,
        "intermediate_size": size.intermediate_size, "vocab_size": size.vocab_size,
        "dim": model.retrieval.encoder.dim, "max_tokens": model.config.reader.max_tokens,
        "max_width": model.config.reader.max_width, "span_size": model.config.reader.span_size,
    }  # fmt: skip
