"""Evaluate anything that answers or retrieves: questions in, a report folder out.

The caller gives what answers (`Callable[[list[Question], int], list[Answer]]`) and, where it is known apart from the
answers, what retrieves. Neither has to be a model: BM25 alone is evaluated here, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from realm.errors import MismatchError, MissingLibraryError, UsageError
from realm.evaluation import scores
from realm.evaluation.gains import ndcg
from realm.evaluation.judging import Judged, Ranked, evidence_ranking, judge, units
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.retrieval import holds_answer
from realm.knowledge.catalog import CATALOG
from realm.knowledge.fetching import fetch
from realm.knowledge.questions.files import read_flag, read_questions
from realm.knowledge.questions.results import Context, write_dpr_results
from realm.knowledge.snapshot import Snapshot
from realm.search.postings import Bm25
from realm.types import NO_ROW, Answer, Passage, Question, Retriever
from realm.workflows.reporting import Reporter, Silent

AnswerMany = Callable[[list[Question], int], list[Answer]]
"""(questions, k) to an answer each, in order, from k passages each."""
Search = Callable[[list[str], int], list[list[Ranked]]]
"""(queries, k) to at most k passages each, best first."""

SUITES: Mapping[str, tuple[str, str]] = {
    "nq": ("nq_open", "test"),
    "webq": ("webquestions", "test"),
    "trec": ("curatedtrec", "test"),
    "squad": ("squad", "dev"),
    "trivia": ("triviaqa", "test"),
    "entity": ("entityquestions", "test"),
}
"""Name to (set, split) in the folder of a standing benchmark."""
PUBLIC: Mapping[str, str] = {
    "nq": "nq-open-dev",
    "webq": "webquestions-test",
    "trec": "curatedtrec-test",
    "squad": "squad-dev",
}
"""Name to the catalogue's entry, for a suite without a folder."""
FLAG = "in_kb"
"""The field of a standing benchmark's questions that says whether its knowledge base can answer them."""
GAIN = 10


class Suite(NamedTuple):
    """What is asked, and the parts of it that are reported for themselves."""

    name: str
    questions: list[Question]
    parts: dict[str, frozenset[str]]


def open_suite(
    suite: str, folder: Path | None = None, *, split: str | None = None, format: str | None = None, limit: int = 0
) -> Suite:
    """Questions by the name of a suite in a standing benchmark's `folder`, else of the public file that the catalogue
    fetches, or from a file.

    limit: so many questions, spread evenly over the file, 0 for all. UsageError for a name that is neither.
    """
    parts: dict[str, frozenset[str]] = {}
    if suite in SUITES and folder is not None:
        name, usual = SUITES[suite]
        path = Path(folder) / "questions" / f"{name}.{split or usual}.jsonl"
        if not path.exists():
            raise UsageError(
                f"found no {path}: expected the folder of a standing benchmark; make it with benchmarks/wiki204k"
            )
        parts["answerable"] = read_flag(path, FLAG)
    elif Path(suite).exists():
        path = Path(suite)
    elif suite in PUBLIC:
        path, format = fetch(PUBLIC[suite]), CATALOG[PUBLIC[suite]].format
    else:
        known = f"one of {', '.join(SUITES)} with the folder of the benchmark ({', '.join(PUBLIC)} without), or a file"
        raise UsageError(f"found suite={suite!r} and folder={str(folder)!r}: expected {known}")
    questions = read_questions(path, format=format)
    if 0 < limit < len(questions):
        questions = [questions[i * len(questions) // limit] for i in range(limit)]
        asked = {question.id for question in questions}
        parts = {name: ids & asked for name, ids in parts.items()}
    return Suite(suite if suite in SUITES else path.name, questions, parts)


def evaluate(
    model_answer: AnswerMany | None,
    questions: Sequence[Question],
    out: Path,
    *,
    suite: str,
    search: Search | None = None,
    k: int = 5,
    depth: int = 100,
    batch_size: int = 1,
    parts: Mapping[str, Collection[str]] | None = None,
    facts: Mapping[str, Any] | None = None,
    dpr_results: bool = False,
    tag: str = "realm",
    pattern_seconds: float = 1.0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Answer and retrieve for every question, judge, write the folder `out`; returns the report.

    model_answer: what answers; None evaluates `search` alone.
    search: what retrieves; None takes the evidence of the answers, so recall is known up to k only.
    k: passages an answer is made from. depth: passages that `search` is asked for.
    batch_size: questions at a time. Latency is a batch's time over its questions, without judging; the report says
        how large the batches were. With both callables it is that of answering.
    parts: names to ids of questions that are reported for themselves, too.
    dpr_results: also write ``retrieval.json`` as DPR and FiD have it.
    pattern_seconds: processor time that one pattern may take on one text.

    Raises:
        UsageError: no question, nothing to evaluate, or a size below 1.
        MismatchError: the callable gave another number of answers, or answers to other questions.
    """
    if model_answer is None and search is None:
        raise UsageError("found nothing to evaluate: expected what answers, what retrieves, or both")
    if not questions:
        raise UsageError("found no questions: expected at least one")
    if min(k, depth, batch_size) < 1:
        raise UsageError(f"found k={k}, depth={depth}, batch_size={batch_size}: expected each of at least 1")
    reporter = reporter or Silent()
    matcher = PatternMatcher(pattern_seconds)
    judged: list[Judged] = []
    run: dict[str, list[tuple[str, float]]] = {}
    named: dict[str, list[str]] = {}
    contexts: list[list[Context]] = []
    with reporter.stage(f"evaluate {suite}", "questions") as progress:
        for batch in _batches(questions, batch_size):
            answers, rankings, seconds = _work(model_answer, search, batch, k, depth)
            for i, question in enumerate(batch):
                answer, ranking = (answers[i] if answers else None), (rankings[i] if rankings else None)
                wide = k if search is None else depth
                one = judge(question, matcher, answer=answer, ranking=ranking, depth=wide, seconds=seconds)
                judged.append(one)
                shown = ranking if ranking is not None else evidence_ranking(answer) if answer is not None else []
                run[question.id] = [(hit.id, hit.score) for hit in shown if math.isfinite(hit.score)]
                named[question.id] = units(question, shown)
                if dpr_results:
                    contexts.append(_contexts(question, shown, matcher))
            progress(len(judged), len(questions))
    gains, note = _gains(named, questions)
    report = scores.build_report(
        judged,
        suite=suite,
        parts=parts,
        ndcg=gains,
        facts={
            "k": k if model_answer is not None else None,
            "depth": depth if search is not None else k,
            "batch_size": batch_size,
            "patterns": {"invalid": sorted(matcher.invalid), "timed_out": sorted(matcher.timed_out)},
            "notes": note,
            **dict(facts or {}),
        },
    )
    if dpr_results:
        write_dpr_results(Path(out) / "retrieval.json", questions, contexts)
    scores.write_report(out, report, judged, run, tag)
    for pattern in sorted(matcher.timed_out):
        reporter.note(f"a pattern took over {pattern_seconds:g} s and was given up: {pattern[:60]}")
    return report


def compare(before: Path, after: Path, *, samples: int = 10_000) -> dict[str, dict[str, dict[str, float]]]:
    """after - before as JSON values: {part: {figure: {difference, low, high}}}; see `scores.compare_reports`."""
    found = scores.compare_reports(scores.read_report(before), scores.read_report(after), samples=samples)
    return {part: {name: value._asdict() for name, value in figures.items()} for part, figures in found.items()}


# ---------------------------------------------------------------- what retrieves


def search_snapshot(retriever: Retriever, snapshot: Snapshot) -> Search:
    """A retriever over a snapshot's rows as a `Search`."""

    def search(queries: list[str], k: int) -> list[list[Ranked]]:
        hits = retriever(queries, k)
        return [
            [_of_row(snapshot, row, score) for row, score in zip(rows, values, strict=True) if row != NO_ROW]
            for rows, values in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
        ]

    return search


def bm25_search(passages: Iterable[Passage]) -> Search:
    """BM25 over passages (of a knowledge base, say), which are held in memory."""
    kept = list(passages)
    engine = Bm25.build((passage.title, passage.text) for passage in kept)

    def search(queries: list[str], k: int) -> list[list[Ranked]]:
        hits = engine(queries, k)
        return [
            [_of_passage(kept[row], score) for row, score in zip(rows, values, strict=True) if row != NO_ROW]
            for rows, values in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
        ]

    return search


def _of_row(snapshot: Snapshot, row: int, score: float) -> Ranked:
    return _of_passage(snapshot.passage(row), score)


def _of_passage(passage: Passage, score: float) -> Ranked:
    return Ranked(passage.id, passage.document_id, passage.title, passage.text, score)


# ---------------------------------------------------------------- inside


def _work(
    model_answer: AnswerMany | None, search: Search | None, batch: list[Question], k: int, depth: int
) -> tuple[list[Answer] | None, list[list[Ranked]] | None, float]:
    """Answers and rankings of a batch, and the seconds a question."""
    answers = rankings = None
    seconds = 0.0
    if search is not None:
        begun = time.perf_counter()
        rankings = search([question.text for question in batch], depth)
        seconds = time.perf_counter() - begun
        if len(rankings) != len(batch):
            raise MismatchError(
                f"the search gave {len(rankings)} rankings to {len(batch)} questions: expected one each"
            )
    if model_answer is not None:
        begun = time.perf_counter()
        answers = model_answer(batch, k)
        seconds = time.perf_counter() - begun
        given = [answer.question for answer in answers]
        if given != [question.text for question in batch]:
            raise MismatchError(
                f"the model gave {len(given)} answers, not to the {len(batch)} questions in their order: expected one "
                "each; `Answer.question` says to which"
            )
    return answers, rankings, seconds / len(batch)


def _gains(named: dict[str, list[str]], questions: Sequence[Question]) -> tuple[dict[str, float], list[str]]:
    with suppress(MissingLibraryError):
        return ndcg(named, {question.id: question.gold for question in questions}, GAIN), []
    return {}, ["no nDCG: ir_measures is not installed (pip install 'realm-lm[eval]')"]


def _contexts(question: Question, shown: Sequence[Ranked], matcher: PatternMatcher) -> list[Context]:
    return [Context(hit.id, hit.title, hit.text, hit.score, holds_answer(question, hit.text, matcher)) for hit in shown]


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    for start in range(0, len(questions), size):
        yield list(questions[start : start + size])
