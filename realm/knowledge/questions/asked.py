"""Questions to be answered, whose answers nobody needs to know: text, lines of JSON, or any file of questions."""

from __future__ import annotations

import json
from pathlib import Path

from realm.errors import DataError
from realm.knowledge.formats.opening import byte_lines
from realm.knowledge.formats.records import Record
from realm.knowledge.questions.files import read_questions
from realm.knowledge.questions.formats import refuse, shape_of, text
from realm.types import Question


def read_asked(path: Path) -> list[Question]:
    """The questions of a file, in its order: one a line in a .txt file (blank lines are passed over, the id is the
    line's number), lines of JSON with `question` and perhaps `id`, or what `read_questions` reads.

    DataError: no such file, no question in it, a line that is none, an id that comes twice; with the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        return read_questions(path)
    if path.suffix == ".txt":
        found = [Question(str(number), line, ()) for number, line in _lines(path)]
    else:
        first = next((line for _, line in _lines(path)), "")
        fields = _object(first)
        if fields is None or "question" not in fields or shape_of(fields) is not None:
            return read_questions(path)
        found = []
        for number, line in _lines(path):
            where = f"{path}:{number}"
            record = Record(where, _object(line) or {})
            if "question" not in record.fields:
                refuse(where, repr(line[:60]), "a JSON object with 'question'", "keep one format in a file")
            identity = text(record, "id") if "id" in record.fields else str(number)
            found.append(Question(identity, text(record, "question"), ()))
    if not found:
        raise DataError(f"{path}: found no question, expected at least one; the file is empty")
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            refuse(str(path), f"the id {question.id!r} again", "each id once", "remove or rename one of the two")
        seen.add(question.id)
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    found = []
    for number, line in byte_lines(path):
        try:
            decoded = (line or b"").decode("utf-8").strip()
        except UnicodeDecodeError:
            refuse(f"{path}:{number}", "bytes that are not UTF-8", "UTF-8 text", "convert the file to UTF-8")
        if decoded:
            found.append((number, decoded))
    return found


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
