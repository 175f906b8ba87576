"""Search and ask, from paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realm.answering.ask import Realm
from realm.answering.conflicts import ConflictRule
from realm.answering.constraints import Constraints
from realm.answering.early import EarlyExit
from realm.answering.questions import QuestionAnswering, open_model
from realm.answering.retrieving import search_words
from realm.answering.tokens import BLANK
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.questions.asked import read_asked
from realm.knowledge.table.times import AsOf
from realm.types import Answer, Question
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.store import open_knowledge_base
from realm.workflows.values import hits_json


def search_passages(
    query: str,
    kb_path: Path,
    *,
    model: Path | None = None,
    k: int = 5,
    where: str | None = None,
    as_of: AsOf | None = None,
    constraints: Constraints | None = None,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """The k best passages as JSON values: by BM25, or by a model's vectors (and BM25 where it was trained so)."""
    kb = open_knowledge_base(kb_path)
    if model is None:
        (matches,) = search_words(query, kb, k, where, as_of, constraints).matches
    else:
        opened = open_model(model)
        if as_of is None:
            embed_missing(opened, kb, reporter or Silent())
        matches = opened.retrieval.search(query, kb, k, where, as_of, constraints)
    return hits_json(matches)


def ask_question(
    question: str,
    kb_path: Path,
    *,
    model: Path,
    k: int | None = None,
    where: str | None = None,
    as_of: AsOf | None = None,
    aggregate: str | None = None,
    conflicts: ConflictRule | None = None,
    constraints: Constraints | None = None,
    early_exit: EarlyExit | None = None,
    bf16: bool | None = None,
    reporter: Reporter | None = None,
) -> Answer:
    """Fill one blank, or answer one question, from a knowledge base; see `Realm.ask` and `QuestionAnswering.ask`.

    k: as in training when None; of a pre-trained model 5.
    """
    if not question.strip():  # before anything is opened, or embedded
        raise UsageError("found an empty question: expected some words")
    kb, opened = _opened(kb_path, model, as_of, reporter, bf16)
    k = passages_to_read(opened, k, reporter)
    if reporter is not None and (remark := _remark(opened, question)):
        reporter.note(remark)
    more: dict[str, Any] = {"aggregate": aggregate, "conflicts": conflicts, "constraints": constraints}
    more["early_exit"] = early_exit
    return opened.ask(question, kb, k=k, where=where, as_of=as_of, **more)


def ask_questions(
    questions: Path,
    kb_path: Path,
    *,
    model: Path,
    k: int | None = None,
    where: str | None = None,
    as_of: AsOf | None = None,
    aggregate: str | None = None,
    conflicts: ConflictRule | None = None,
    constraints: Constraints | None = None,
    early_exit: EarlyExit | None = None,
    bf16: bool | None = None,
    batch: int = 64,
    reporter: Reporter | None = None,
) -> Iterator[tuple[Question, Answer]]:
    """The questions of a file with their answers, as they come, `batch` at a time. Raises what `read_asked` and
    `ask_question` raise."""
    asked = read_asked(questions)
    kb, opened = _opened(kb_path, model, as_of, reporter, bf16)
    answers = opened.ask_many(
        [question.text for question in asked],
        kb,
        passages_to_read(opened, k, reporter),
        where,
        as_of,
        aggregate=aggregate,
        conflicts=conflicts,
        constraints=constraints,
        early_exit=early_exit,
        batch=batch,
    )
    yield from zip(asked, answers, strict=True)


def _opened(
    kb_path: Path, model: Path, as_of: AsOf | None, reporter: Reporter | None, bf16: bool | None
) -> tuple[KnowledgeBase, Realm | QuestionAnswering]:
    kb = open_knowledge_base(kb_path)
    opened = open_model(model, bf16=bf16)
    if as_of is None:
        embed_missing(opened, kb, reporter or Silent())
    return kb, opened


def _remark(model: Realm | QuestionAnswering, question: str) -> str:
    if isinstance(model, QuestionAnswering) and BLANK.search(question):
        return "a fine-tuned model answers plain questions; a pre-trained one fills blanks, for example vital-small"
    return model.retrieval.remark(question)


def passages_to_read(model: Realm | QuestionAnswering, k: int | None, reporter: Reporter | None = None) -> int:
    """k, or what the model reads without one: of a pre-trained model 5."""
    if not isinstance(model, QuestionAnswering):
        return 5 if k is None else k
    k, fitted = k or model.num_passages, model.confidence.passages
    if reporter is not None and fitted not in (None, k):
        reporter.note(f"the confidence was fitted for {fitted} passages, {k} are read: calibrate again with --k {k}")
    return k


def embed_missing(model: Realm | QuestionAnswering, kb: KnowledgeBase, reporter: Reporter) -> None:
    """Give new passages their vectors, with a bar when there are many (the first question to a fresh model)."""
    encoder = model.passage_encoder
    if encoder.fingerprint in kb.encoders():
        kb.embed_missing(encoder)
        return
    with reporter.stage("embed the knowledge base for this model", "passages") as progress:
        kb.embed_missing(encoder, progress=progress)
