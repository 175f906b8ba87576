"""Question files to `Question`s: this project's lines, and the formats that people bring.

Which format a file has is found from its contents, never from a guess about the text: what a folder holds, the first
record's keys, the columns of a table. One file has one format; a record that can't be read is an error, not a skip,
because a score over fewer questions than the file has would be another score.
"""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from realm.errors import DataError, UsageError
from realm.files import fingerprint
from realm.knowledge.formats.opening import byte_lines
from realm.knowledge.formats.records import Record
from realm.knowledge.questions.formats import (
    SHAPES,
    answer_list,
    flag,
    json_name,
    parse_record,
    python_list,
    refuse,
    shape_of,
    squad_questions,
    text,
)
from realm.types import Question

QUESTION_FORMATS: Mapping[str, str] = {
    **{name: shape.what for name, shape in SHAPES.items()},
    "squad": "SQuAD json (1.1, 2.0, KorQuAD)",
    "dpr-qa": "DPR's lines: question TAB python-list of answers",
    "table": "csv or tsv with a header that names question and answer (or answers)",
    "trec": "CuratedTREC: [id TAB kind TAB] question TAB pattern, or DrQA's lines of question, answer",
    "beir": "BEIR's folder, or one of its qrels/SPLIT.tsv",
}
"""What `format` may name, with what it means."""

_Found = Iterator[tuple[str, Question]]


def read_questions(path: Path, *, format: str | None = None) -> list[Question]:
    """The questions of a file (or a BEIR folder), in its order.

    A question without an id gets one from its text, so that it has the same in every file. CuratedTREC in DrQA's
    lines looks like NQ-open: it is taken for patterns only if the file's name holds "CuratedTrec" (in any case), or
    `format` is "trec".

    Args:
        path: a file, compressed or not (.gz, .bz2).
        format: one of `QUESTION_FORMATS`; None finds it out.

    Raises:
        UsageError: an unknown format.
        DataError: no such file, no question in it, a missing field, mixed formats, an id that comes twice, with the
            line, what was found, what was expected and what to do.
    """
    path = Path(path).expanduser()
    if format is not None and format not in QUESTION_FORMATS:
        raise UsageError(f"found format={format!r}: expected one of {', '.join(QUESTION_FORMATS)}")
    if not path.exists():
        raise DataError(f"no file or folder {path}: expected questions, as lines of id, question, answers")
    try:
        return _checked(path, _read(path, format))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: found a file that can't be read ({error}): give a whole file") from error


def read_flag(path: Path, name: str) -> frozenset[str]:
    """Ids of the questions in this project's lines whose field `name` is true: a part of the set.

    DataError when a record lacks the field, so that a part is never empty for want of it.
    """
    found = []
    for record in _json_lines(Path(path).expanduser()):
        if name not in record.fields:
            refuse(record.where, f"no {name!r}", "true or false in every record", "make the file with the flag")
        if flag(record, name, False):
            found.append(text(record, "id"))
    return frozenset(found)


def _checked(path: Path, found: _Found) -> list[Question]:
    questions: list[Question] = []
    places: dict[str, str] = {}
    repeats: dict[str, int] = {}
    for where, question in found:
        if not question.id:
            identity = fingerprint(question.text)
            repeats[identity] = repeats.get(identity, 0) + 1
            # The same text again is another question of the file: dropping it would change the number asked.
            identity = identity if repeats[identity] == 1 else f"{identity}-{repeats[identity]}"
            question = replace(question, id=identity)
        if question.id in places:
            refuse(
                where,
                f"the id {question.id!r} of {places[question.id]} again",
                "each id once",
                "remove or rename one of the two",
            )
        places[question.id] = where
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: found no question, expected at least one; the file is empty")
    return questions


def _read(path: Path, format: str | None) -> _Found:
    if path.is_dir() or format == "beir" or (path.parent.name == "qrels" and path.name.endswith(".tsv")):
        return _beir(path)
    first = next(((number, line) for number, line in _lines(path) if line.strip()), None)
    if first is None:
        raise DataError(f"{path}: found no question, expected at least one; the file is empty")
    patterns = format == "trec" or (format is None and re.search("curated[-_ ]?trec", path.name.lower()) is not None)
    if first[1].lstrip().startswith("{"):
        value = _json(first[1])
        whole = value is None or (isinstance(value, dict) and isinstance(value.get("data"), list))
        if whole and format in (None, "squad") and (document := _whole(path, strict=value is not None)) is not None:
            return _document(path, document, format)
        return _records(_json_lines(path), format, patterns)
    if first[1].lstrip().startswith("[") and "\t" not in first[1].strip():
        return _document(path, _whole(path, strict=True), format)
    return _table(path, first[1], format, patterns)


def _records(records: Iterator[Record], format: str | None, patterns: bool = False) -> _Found:
    shape = "nq-open" if format == "trec" else format
    for record in records:
        shape = shape or shape_of(record.fields)
        if shape is None or shape not in SHAPES:
            keys = ", ".join(sorted(map(str, record.fields))[:8]) or "nothing"
            known = "; ".join(shape.what for shape in SHAPES.values())
            refuse(record.where, f"a record of {keys}", f"one of: {known}", "rename the fields")
        question = parse_record(record, shape, named=format is not None)
        yield record.where, replace(question, patterns=True) if patterns and shape in ("nq-open", "atlas") else question


def _document(path: Path, value: Any, format: str | None) -> _Found:
    """A file that is one JSON value: SQuAD, or a list of records."""
    if isinstance(value, dict) and isinstance(value.get("data"), list) and format in (None, "squad"):
        return squad_questions(str(path), value["data"])
    entries = value.get("data") if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise DataError(f"{path}: found {json_name(value)}, expected lines or a list of records; convert the file")
    if format == "squad":
        raise DataError(f"{path}: found {json_name(value)}, expected SQuAD's object with a list 'data'; check format")

    def records() -> Iterator[Record]:
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                refuse(f"{path}:[{number}]", json_name(entry), "an object", "keep one format in a file")
            yield Record(f"{path}:[{number}]", entry)

    return _records(records(), format, format == "trec")


def _table(path: Path, head: str, format: str | None, patterns: bool) -> _Found:
    names = {cell.strip().strip('"').lower() for cell in head.replace(",", "\t").split("\t")}
    if format in (None, "table") and "question" in names and names & {"answer", "answers"}:
        return _headed(path, "\t" if "\t" in head else ",", patterns)
    if format == "table":
        raise DataError(f"{path}:1: found {head[:60]!r}, expected a header with question and answer; add one")
    if format in SHAPES or format == "squad":
        raise DataError(f"{path}:1: found {head[:60]!r}, expected JSON as of format {format}; check the format")
    cells = _cells(head)
    curated = (patterns and len(cells) == 2 and python_list(cells[-1]) is None) or cells[1:2] == ["factoid"]
    if format == "trec" or (format is None and curated):
        return _trec(path)
    if format is None and (len(cells) != 2 or python_list(cells[1]) is None):
        known = "; ".join(f"{name}: {what}" for name, what in QUESTION_FORMATS.items())
        raise DataError(f"{path}:1: found {head[:60]!r}, expected one of {known}; convert the file or name its format")
    return _dpr(path, patterns)


def _dpr(path: Path, patterns: bool) -> _Found:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        cells = _cells(line)
        answers = python_list(cells[1]) if len(cells) == 2 else None
        if answers is None:
            refuse(where, repr(line.strip()[:60]), "question TAB ['answer', ...]", "correct the line")
        record = Record(where, {"question": cells[0]})
        yield where, Question("", text(record, "question"), answer_list(record, list(answers)), patterns)


def _trec(path: Path) -> _Found:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        cells = _cells(line)
        if len(cells) != 2 or python_list(cells[-1]) is None:  # DPR's lists are quoted, bare patterns never are
            cells = line.rstrip("\r\n").split("\t")
        if len(cells) not in (2, 4):
            refuse(where, f"{len(cells)} columns", "question TAB pattern, or id TAB kind TAB both", "correct the line")
        record = Record(where, {"question": cells[-2], "id": cells[0]})
        identity = text(record, "id") if len(cells) == 4 else ""
        listed = python_list(cells[-1]) if len(cells) == 2 else None
        answers = answer_list(record, list(listed) if listed else cells[-1])
        yield where, Question(identity, text(record, "question"), answers, patterns=True)


def _headed(path: Path, delimiter: str, patterns: bool) -> _Found:
    rows = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        first = rows.line_num + 1
        where = f"{path}:{first}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            refuse(where, f"a row that can't be read ({error})", "fields quoted as in CSV", "correct the row")
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if not header:
            header = [name.strip().lower() for name in row]
            continue
        if len(row) != len(header):
            refuse(where, f"{len(row)} fields", f"{len(header)}: {', '.join(header)}", "correct the row")
        fields = dict(zip(header, row, strict=True))
        record = Record(where, fields)
        cell = fields["answers"] if "answers" in fields else fields["answer"]
        listed = python_list(cell)
        answers = answer_list(record, list(listed) if listed is not None else cell)
        identity = text(record, "id") if "id" in fields else ""
        yield where, Question(identity, text(record, "question"), answers, patterns)


def _beir(path: Path) -> _Found:
    """Queries that a qrels file names, with the passages it calls relevant."""
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "qrels" else path.parent
    queries = next((file for end in ("", ".gz") if (file := folder / f"queries.jsonl{end}").exists()), None)
    splits = [path] if path.is_file() and path.parent.name == "qrels" else sorted(folder.glob("qrels/*.tsv"))
    if queries is None or not splits:
        missing = "no queries.jsonl" if queries is None else "no qrels/SPLIT.tsv"
        raise DataError(f"{folder}: found {missing}, expected BEIR's queries.jsonl and qrels/SPLIT.tsv; add the file")
    if len(splits) > 1:
        names = ", ".join(split.name for split in splits)
        raise DataError(f"{folder}: found {names} in qrels, expected one; give the path of the one you mean")
    relevant: dict[str, list[str]] = {}
    for number, line in _lines(splits[0]):
        cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and not cells[-1].lstrip("-").isdigit()):
            continue
        if len(cells) not in (3, 4) or not cells[-1].lstrip("-").isdigit():
            refuse(f"{splits[0]}:{number}", repr(line.strip()[:60]), "query-id TAB corpus-id TAB score", "correct it")
        listed = relevant.setdefault(cells[0], [])
        if int(cells[-1]) > 0:
            listed.append(cells[-2])
    for record in _json_lines(queries):
        identity = text(record, "_id")
        if identity in relevant:
            yield record.where, Question(identity, text(record, "text"), (), gold=tuple(relevant.pop(identity)))
    if relevant:
        raise DataError(
            f"{splits[0]}: found {len(relevant)} query ids that {queries.name} lacks (first {next(iter(relevant))!r}), "
            "expected every query; give the two files of one data set"
        )


def _cells(line: str) -> list[str]:
    """The fields of a line between tabs, quoted as in CSV or not at all: both are found in DPR's files."""
    line = line.rstrip("\r\n")
    try:
        (quoted,) = csv.reader([line], delimiter="\t", strict=True)
    except (csv.Error, ValueError):
        return line.split("\t")
    return quoted


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        value = _json(line)
        if not isinstance(value, dict):
            found = repr(line.strip()[:60]) if value is None else json_name(value)
            refuse(f"{path}:{number}", found, "a JSON object on every line", "keep one format in a file")
        yield Record(f"{path}:{number}", value)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _whole(path: Path, strict: bool) -> Any:
    """The JSON value of a file; None when it is not one, unless that is an error."""
    try:
        return json.loads("".join(line for _, line in _lines(path)))
    except (ValueError, RecursionError) as error:
        if not strict:
            return None
        raise DataError(
            f"{path}: found JSON that can't be read ({error}), expected a whole file; make it again"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in byte_lines(path):
        if line is None:
            refuse(f"{path}:{number}", "a line of over 256 MiB", "one question a line", "split the file")
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
            refuse(f"{path}:{number}", byte, "UTF-8 text", "convert the file to UTF-8")
