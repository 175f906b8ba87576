"""Results in the formats that other tools read: predictions, retrieved passages, judgements, runs, questions.

Every file is written whole or not at all. Ids in the columns of TREC's files can't hold white space; there it is
written as in a URL (%20), and read back so.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from realm.errors import DataError, UsageError
from realm.files import staged_file
from realm.knowledge.formats.opening import byte_lines
from realm.knowledge.questions.formats import refuse
from realm.types import Question

Run = Mapping[str, Sequence[tuple[str, float]]]
"""Question id to (passage id, score), best first."""


class Context(NamedTuple):
    """A retrieved passage, as DPR's result files have it."""

    id: str
    title: str
    text: str
    score: float
    has_answer: bool


def write_predictions(path: Path, predictions: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line with question and prediction, as NQ-open's evaluation reads it; further keys may follow.

    UsageError for a line without the two.
    """

    def lines() -> Iterator[str]:
        for number, prediction in enumerate(predictions, 1):
            for key in ("question", "prediction"):
                if not isinstance(prediction.get(key), str):
                    raise UsageError(f"prediction {number}: found no string {key!r}, expected question and prediction")
            yield _line(prediction)

    _write(Path(path), lines())


def read_predictions(path: Path) -> dict[str, str]:
    """Question to prediction, from NQ-open's lines. DataError for a question that comes with two predictions."""
    found: dict[str, str] = {}
    for where, value in _objects(Path(path)):
        question, prediction = value.get("question"), value.get("prediction")
        if not isinstance(question, str) or not isinstance(prediction, str):
            refuse(where, "no question or no prediction", '{"question": ..., "prediction": ...}', "correct the line")
        if found.setdefault(question, prediction) != prediction:
            refuse(where, f"another prediction for {question[:60]!r}", "one a question", "remove one of the two")
    return found


def write_dpr_results(path: Path, questions: Sequence[Question], contexts: Iterable[Sequence[Context]]) -> None:
    """DPR's and FiD's list of {id, question, answers, ctxs}, best passage first; one question at a time in memory."""

    def pieces() -> Iterator[str]:
        yield "["
        for number, (question, found) in enumerate(zip(questions, contexts, strict=True)):
            ctxs = [{**context._asdict(), "score": repr(float(context.score))} for context in found]
            entry = {"id": question.id, "question": question.text, "answers": list(question.answers), "ctxs": ctxs}
            yield ("," if number else "") + "\n" + json.dumps(entry, ensure_ascii=False)
        yield "\n]\n"

    _write(Path(path), pieces())


def write_run(path: Path, run: Run, tag: str = "realm") -> None:
    """TREC's run: question Q0 passage rank score tag. Ranks count from 1. UsageError for a score that is no number."""

    def lines() -> Iterator[str]:
        for question, hits in run.items():
            for rank, (passage, score) in enumerate(hits, 1):
                if not math.isfinite(score):
                    raise UsageError(f"found the score {score} of {passage!r}: expected a finite number")
                yield f"{_column(question)} Q0 {_column(passage)} {rank} {score!r} {_column(tag)}\n"

    _write(Path(path), lines())


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """TREC's run, sorted by score as its tools do (rank is passed over); among equals, in the order of the file."""
    found: dict[str, list[tuple[str, float]]] = {}
    for number, line in _texts(Path(path)):
        cells = line.split()
        if not cells:
            continue
        score = _number(cells[4]) if len(cells) == 6 else None
        if score is None:
            refuse(f"{path}:{number}", repr(line.strip()[:60]), "question Q0 passage rank score tag", "correct it")
        found.setdefault(unquote(cells[0]), []).append((unquote(cells[2]), score))
    return {question: sorted(hits, key=lambda hit: -hit[1]) for question, hits in found.items()}


def write_qrels(path: Path, questions: Iterable[Question]) -> None:
    """BEIR's judgements (header query-id, corpus-id, score), 1 for every gold id."""
    rows = (f"{_cell(q.id)}\t{_cell(gold)}\t1\n" for q in questions for gold in q.gold)
    _write(Path(path), _headed("query-id\tcorpus-id\tscore\n", rows))


def write_trec_qrels(path: Path, questions: Iterable[Question]) -> None:
    """TREC's judgements, four columns: question 0 passage 1."""
    _write(Path(path), (f"{_column(q.id)} 0 {_column(gold)} 1\n" for q in questions for gold in q.gold))


def write_questions(path: Path, questions: Iterable[Question], format: str = "realm") -> None:
    """Questions as lines of `format`: realm, nq-open, atlas, flashrag, kilt, dpr-qa or beir (its queries.jsonl).

    Only `realm` keeps everything. UsageError for another format.
    """
    if format == "dpr-qa":
        _write(Path(path), (_dpr_line(q) for q in questions))
        return
    if format not in _RECORDS:
        raise UsageError(f"found format={format!r}: expected one of {', '.join((*_RECORDS, 'dpr-qa'))}")
    _write(Path(path), (_line(_RECORDS[format](q)) for q in questions))


def _write(path: Path, pieces: Iterable[str]) -> None:
    """Text that comes piece by piece, so that it never is in memory whole."""
    with staged_file(path) as staged, open(staged, "w", encoding="utf-8", newline="") as stream:
        stream.writelines(pieces)


def _ours(question: Question) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "gold_ids": list(question.gold),
        "answerable": question.answerable,
    }
    record |= {"lang": question.lang} if question.lang else {}
    record |= {"answer_regex": True} if question.patterns else {}
    record |= {"date": question.date.isoformat()} if question.date else {}
    return record | ({"silver_ids": list(question.silver)} if question.silver else {})


def _kilt(question: Question) -> dict[str, Any]:
    pages = [{"provenance": [{"wikipedia_id": gold} for gold in question.gold]}] if question.gold else []
    return {
        "id": question.id,
        "input": question.text,
        "output": [*({"answer": answer} for answer in question.answers), *pages],
    }


_RECORDS: Mapping[str, Callable[[Question], dict[str, Any]]] = {
    "realm": _ours,
    "nq-open": lambda q: {"question": q.text, "answer": list(q.answers)},
    "atlas": lambda q: {"question": q.text, "answers": list(q.answers), "target": next(iter(q.answers), "")},
    "flashrag": lambda q: {"id": q.id, "question": q.text, "golden_answers": list(q.answers), "metadata": {}},
    "kilt": _kilt,
    "beir": lambda q: {"_id": q.id, "text": q.text},
}


def _dpr_line(question: Question) -> str:
    line = io.StringIO()
    text = re.sub(r"[\t\r\n]+", " ", question.text)  # a question is one line there
    csv.writer(line, delimiter="\t", lineterminator="\n").writerow([text, repr(list(question.answers))])
    return line.getvalue()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _headed(head: str, rows: Iterable[str]) -> Iterator[str]:
    yield head
    yield from rows


def _column(name: str) -> str:
    """An id that may stand between blanks."""
    return re.sub(r"[\s%]", lambda found: quote(found[0], safe=""), name) or "%"


def _cell(name: str) -> str:
    if re.search(r"[\t\r\n]", name):
        raise UsageError(f"found the id {name!r}: expected one without tabs and line ends; rename it")
    return name


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _texts(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            refuse(f"{path}:{number}", repr(line.strip()[:60]), "a JSON object on every line", "correct it")
        yield f"{path}:{number}", value


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise DataError(f"no file {path}: expected one to read; check the path")
    for number, line in byte_lines(path):
        try:
            yield number, (line or b"").decode("utf-8")
        except UnicodeDecodeError:
            refuse(f"{path}:{number}", "bytes that are not UTF-8", "UTF-8 text", "convert the file")
