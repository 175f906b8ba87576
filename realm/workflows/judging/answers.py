"""A fine-tuned model, or BM25 alone, on questions with known answers: from paths to a report folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from realm import files
from realm.addresses import address_or_path
from realm.answering.answerer import answerer_folder, model_fingerprint, open_answerer, open_reader
from realm.answering.confidence import Confidence, open_confidence
from realm.evaluation.answers import NORMALIZERS
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.methods.fused import FusedRetriever
from realm.methods.open_qa import OpenQA
from realm.methods.retrievers import DenseRetriever, QuestionRetriever, WordRetriever
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.settings_finetune import FinetuneConfig
from realm.types import Answer, Hits, Question
from realm.workflows import parts
from realm.workflows.judging.evaluate import bm25_search, evaluate, open_suite, search_snapshot
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.store import open_knowledge_base


def judge_answers(
    suite: str,
    kb_path: Path,
    out: Path,
    *,
    model: Path | None = None,
    benchmark: Path | None = None,
    k: int | None = None,
    depth: int = 100,
    limit: int = 0,
    batch_size: int = 16,
    raw: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write `out`: report.json, predictions.jsonl, retrieval.run; returns the report.

    suite: nq, webq, trec, squad, trivia or entity with the folder of the standing benchmark, or a file of questions.
    model: what `realm finetune` wrote; None judges the search of BM25. k: passages to read; when None as many as the
    model's confidence was fitted on, else as in training. raw: as the model was before it was calibrated.
    depth: passages that recall is judged over. limit: so many questions, spread evenly; 0 for all. Raises what
    `open_suite`, `open_answerer` and `evaluate` raise.
    """
    reporter = reporter or Silent()
    asked = open_suite(suite, benchmark, limit=limit)
    kb = open_knowledge_base(kb_path)
    common: dict[str, Any] = {
        "suite": asked.name,
        "parts": asked.parts,
        "depth": depth,
        "batch_size": batch_size,
        "reporter": reporter,
    }
    facts: dict[str, Any] = {"knowledge_base": address_or_path(kb_path), "knowledge_base_version": kb.version}
    if model is None:
        with reporter.stage("BM25 over the knowledge base"):
            search = bm25_search(kb.passages())
        return evaluate(None, asked.questions, out, search=search, facts={**facts, "model": "BM25"}, **common)
    confidence = Confidence() if raw else open_confidence(answerer_folder(model))
    on = parts.choose_device(device)
    method, snapshot = open_method(model, kb, on, reporter)

    def answer(questions: list[Question], number: int) -> list[Answer]:
        texts = [question.text for question in questions]
        return [confidence(found) for found in method.answer(texts, number, batch=batch_size)]

    def retrieve(queries: Sequence[str], k: int) -> Hits:
        hits: Hits = method.search(queries, k)
        return hits

    with torch.inference_mode():
        return evaluate(
            answer,
            asked.questions,
            out,
            search=search_snapshot(retrieve, snapshot),
            k=k or confidence.passages or method.num_passages,
            facts={
                **facts,
                "model": str(model),
                "model_fingerprint": model_fingerprint(model),
                "snapshot": snapshot.fingerprint,
            },
            **common,
        )


def open_method(model: Path, kb: KnowledgeBase, device: torch.device, reporter: Reporter) -> tuple[OpenQA, Snapshot]:
    """A fine-tuned model over a snapshot of the knowledge base's present version, whose vectors are kept beside it."""
    reader, config = open_reader(model, str(device))
    snapshot = parts.prepare_snapshot(kb, reader.tokenizer, reporter)
    retriever: QuestionRetriever
    if config.qa.retriever == "bm25":
        retriever = WordRetriever(parts.open_postings(snapshot, reporter), temperature=config.qa.bm25_temperature)
    else:
        encoder, _, _ = open_answerer(model, str(device))
        tokens = config.questions.max_passage_tokens
        index = _vectors(model, encoder, config, snapshot, device, reporter)
        dense = retriever = DenseRetriever(encoder, snapshot, index, max_passage_tokens=tokens)
        if config.qa.retriever == "fused":
            words = parts.open_postings(snapshot, reporter)
            retriever = FusedRetriever(dense, words, temperature=config.qa.bm25_temperature)
    method = OpenQA(
        retriever,
        reader,
        snapshot,
        normalize=NORMALIZERS[config.questions.convention],
        num_passages=config.qa.num_passages,
        level=config.qa.level,
        aggregate=config.qa.aggregate,
        max_query_tokens=config.questions.max_query_tokens,
        max_reader_tokens=config.reader.max_tokens - 3,
        reader_title=config.reader.with_title,
    )
    return method, snapshot


def _vectors(
    model: Path,
    encoder: DenseEncoder,
    config: FinetuneConfig,
    snapshot: Snapshot,
    device: torch.device,
    reporter: Reporter,
) -> ExactIndex:
    """The passages by the model's encoder: those of its run, if they were frozen and are the same, else embedded beside
    the snapshot."""
    tokens = config.questions.max_passage_tokens
    folder = Path(model) / "index" / "step-000000"
    manifest = files.read_json(folder / files.MANIFEST) if (folder / files.MANIFEST).exists() else {}
    if config.qa.documents == "frozen" and manifest.get("snapshot") == snapshot.fingerprint:
        return ExactIndex.open(folder, snapshot=snapshot.fingerprint, device=device)
    return parts.embed_beside(encoder, snapshot, tokens, bf16=config.loop.bf16, device=device, reporter=reporter)
