"""The records of question files, and which format each is; `realm.knowledge.questions.files` reads whole files.

A record knows where it stands ("file:line"), so that what is wrong with it can be named.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from realm.errors import DataError
from realm.knowledge.formats.records import Record, parse_date
from realm.types import Question

Answered = tuple[str, ...]


class Shape(NamedTuple):
    """A format of one record for each question."""

    required: tuple[str, ...]
    parse: Callable[[Record], Question]
    what: str
    """For people."""


def refuse(where: str, found: str, expected: str, todo: str) -> NoReturn:
    raise DataError(f"{where}: found {found}, expected {expected}; {todo}")


def shape_of(fields: Mapping[str, Any]) -> str | None:
    """The format of a record, by its keys; the first that has all it requires."""
    return next((name for name, shape in SHAPES.items() if all(key in fields for key in shape.required)), None)


def parse_record(record: Record, format: str, *, named: bool = False) -> Question:
    """The question of a record that must be of `format`. DataError names what is missing, or the format it has.

    named: whether a person named the format; then what more a record has is passed over.
    """
    shape, other = SHAPES[format], shape_of(record.fields)
    missing = [key for key in shape.required if key not in record.fields]
    keys = ", ".join(sorted(map(str, record.fields))[:8]) or "nothing"
    if missing and (named or other is None or set(SHAPES[other].required) < set(shape.required)):
        todo = f"add the field, or name another format than {format}"
        refuse(record.where, f"no {missing[0]!r} (only {keys})", shape.what, todo)
    if missing or (other != format and not named):
        refuse(
            record.where,
            f"a record of format {other} ({keys}) in a file of format {format}",
            f"{shape.what} in every record",
            "keep one format in a file",
        )
    return shape.parse(record)


def parse_ours(record: Record) -> Question:
    fields = record.fields
    answerable = flag(record, "answerable", True)
    gold = strings(record, "gold_ids")
    answers = answer_list(record, fields["answers"], needed=answerable and not gold)
    date = parse_date(fields.get("date"))
    if date is None and fields.get("date") not in (None, ""):
        refuse(record.where, f"date {str(fields['date'])[:40]!r}", "YYYY-MM-DD", "correct it or leave it out")
    lang = fields.get("lang")
    return Question(
        id=text(record, "id"),
        text=text(record, "question"),
        answers=answers,
        patterns=flag(record, "answer_regex", False),
        gold=gold,
        silver=strings(record, "silver_ids"),
        answerable=answerable,
        date=date,
        lang=lang if isinstance(lang, str) and lang else None,
    )


def parse_nq(record: Record) -> Question:
    identity = text(record, "id") if "id" in record.fields else ""
    return Question(identity, text(record, "question"), answer_list(record, record.fields["answer"]))


def parse_answers(record: Record) -> Question:
    return Question("", text(record, "question"), answer_list(record, record.fields["answers"]))


def parse_webquestions(record: Record) -> Question:
    """`targetValue` is a list of descriptions as in Lisp: (list (description "Jazmyn Bieber") (description Jaxon))."""
    value = record.fields["targetValue"]
    if not isinstance(value, str) or not value.startswith("(list"):
        refuse(record.where, "another 'targetValue'", "(list (description ...) ...)", "correct the record")
    pairs = _DESCRIPTION.findall(value)
    answers = [quoted.replace('\\"', '"').replace("\\\\", "\\") if quoted else bare for quoted, bare in pairs]
    return Question("", text(record, "utterance"), answer_list(record, answers))


_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]*))\)')


def parse_flashrag(record: Record) -> Question:
    answers = answer_list(record, record.fields["golden_answers"])
    return Question(text(record, "id"), text(record, "question"), answers)


def parse_kilt(record: Record) -> Question:
    """Each output has an answer, a provenance, or both (Petroni et al. 2021)."""
    outputs = record.fields["output"]
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        refuse(record.where, f"an 'output' that is {json_name(outputs)}", "a list of objects", "correct the record")
    found = [output["answer"] for output in outputs if output.get("answer") not in (None, "")]
    pages = [page for output in outputs for page in output.get("provenance") or [] if isinstance(page, dict)]
    gold = [str(page["wikipedia_id"]) for page in pages if page.get("wikipedia_id") not in (None, "")]
    return Question(
        text(record, "id"),
        text(record, "input"),
        answer_list(record, found, needed=not gold),
        gold=tuple(dict.fromkeys(gold)),
    )


def parse_dpr_training(record: Record) -> Question:
    gold = passage_ids(record, "positive_ctxs")
    return Question(
        "", text(record, "question"), answer_list(record, record.fields["answers"], needed=not gold), gold=gold
    )


def parse_dpr_results(record: Record) -> Question:
    """Contexts that a search found and that hold an answer are weak labels, no more."""
    identity = text(record, "id") if record.fields.get("id") not in (None, "") else ""
    return Question(
        identity,
        text(record, "question"),
        answer_list(record, record.fields["answers"]),
        silver=passage_ids(record, "ctxs", holding=True),
    )


SHAPES: Mapping[str, Shape] = {
    "kilt": Shape(("input", "output", "id"), parse_kilt, "KILT's id, input, output"),
    "flashrag": Shape(("golden_answers", "id", "question"), parse_flashrag, "FlashRAG's id, question, golden_answers"),
    "dpr-results": Shape(("ctxs", "question", "answers"), parse_dpr_results, "DPR's and FiD's question, answers, ctxs"),
    "dpr-training": Shape(
        ("positive_ctxs", "question", "answers"), parse_dpr_training, "DPR's question, answers, positive_ctxs"
    ),
    "realm": Shape(("answers", "id", "question"), parse_ours, "id, question, answers"),
    "atlas": Shape(("answers", "question"), parse_answers, "Atlas' question, answers"),
    "webquestions": Shape(("utterance", "targetValue"), parse_webquestions, "WebQuestions' utterance, targetValue"),
    "nq-open": Shape(("answer", "question"), parse_nq, "NQ-open's question, answer"),
}
"""By name, most particular first. `flashrag` and `kilt` are found in lists as well as in lines."""


def squad_questions(path: str, articles: Sequence[Any]) -> Iterator[tuple[str, Question]]:
    """(where, question) of SQuAD 1.1 and 2.0, KorQuAD and those after them.

    The gold id is the id that `read_documents` gives to the paragraph. Plausible answers to impossible questions
    are no answers.
    """
    seen: dict[str, int] = {}
    for number, article in enumerate(articles, 1):
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs", []), list):
            refuse(f"{path}:data[{number}]", json_name(article), "an article with 'paragraphs'", "correct the file")
        title = str(article.get("title") or "").replace("_", " ")
        for index, paragraph in enumerate(article.get("paragraphs", [article]), 1):
            where = f"{path}:data[{number}].paragraphs[{index}]"
            seen[title] = seen.get(title, 0) + 1
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
                refuse(where, "no list 'qas'", "questions in every paragraph", "give the question file, not a corpus")
            for place, entry in enumerate(paragraph["qas"], 1):
                record = Record(f"{where}.qas[{place}]", entry if isinstance(entry, dict) else {})
                for key in ("id", "question"):
                    if key not in record.fields:
                        refuse(record.where, f"no {key!r}", "id, question, answers", "add the field")
                impossible = flag(record, "is_impossible", False)
                answers = record.fields.get("answers", record.fields.get("answer", []))
                yield (
                    record.where,
                    Question(
                        text(record, "id"),
                        text(record, "question"),
                        () if impossible else answer_list(record, answers),
                        gold=() if impossible or not title else (f"{title}/{seen[title]}",),
                        answerable=not impossible,
                    ),
                )


# ---------------------------------------------------------------- parts of a record


def text(record: Record, key: str) -> str:
    """A field that must be a string with something in it; a number is written as one."""
    value = record.fields.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        refuse(record.where, f"{key!r} that is {json_name(value)}", "a string", "correct the record")
    if not value.strip():
        refuse(record.where, f"an empty {key!r}", "text", "fill it or take the record out")
    usable(record.where, key, value)
    return value if key != "question" else value.strip()


def strings(record: Record, key: str) -> Answered:
    value = record.fields.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, (str, int)) for item in value):
        refuse(record.where, f"{key!r} that is {json_name(value)}", "a list of strings", "correct the record")
    return tuple(str(item) for item in value)


def flag(record: Record, key: str, default: bool) -> bool:
    value = record.fields.get(key, default)
    if not isinstance(value, bool):
        refuse(record.where, f"{key!r} that is {json_name(value)}", "true or false", "correct the record")
    return value


def answer_list(record: Record, value: Any, needed: bool = True) -> Answered:
    """Answers without repetition: a list of strings or of {text}, one string, or datasets' {"text": [...]}."""
    if isinstance(value, dict):
        value = value.get("text")
    items = value if isinstance(value, (list, tuple)) else [value]
    found: list[str] = []
    for item in items:
        item = item.get("text") if isinstance(item, dict) else item
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            item = str(item)
        if not isinstance(item, str):
            refuse(
                record.where, f"an answer that is {json_name(item)}", "a string or a list of them", "correct the record"
            )
        usable(record.where, "answers", item)
        if item.strip():
            found.append(item)
    if needed and not found:
        refuse(
            record.where,
            "no answer",
            "at least one",
            'add one, or say that the question has none with "answerable": false (format realm)',
        )
    return tuple(dict.fromkeys(found))


def passage_ids(record: Record, key: str, holding: bool = False) -> Answered:
    """Ids of the passages listed under `key`; with `holding`, only of those marked as holding an answer."""
    value = record.fields[key]
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        refuse(record.where, f"{key!r} that is {json_name(value)}", "a list of passages", "correct the record")
    kept = [entry for entry in value if not holding or entry.get("has_answer") is True]
    ids = (next((entry[name] for name in ("passage_id", "psg_id", "id") if name in entry), None) for entry in kept)
    return tuple(dict.fromkeys(str(identity) for identity in ids if identity not in (None, "")))


def python_list(cell: str) -> Answered | None:
    """The strings of a Python (or JSON) list, read as a literal and never evaluated; None when it is something else."""
    if not cell.lstrip().startswith("["):
        return None
    for parse in (ast.literal_eval, json.loads):
        try:
            value = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
            return tuple(str(item) for item in value)
    return None


def usable(where: str, key: str, value: str) -> None:
    """DataError for characters that mean a damaged or misread file: NUL, bytes that are not UTF-8."""
    if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
        refuse(where, f"a NUL or half a character in {key!r}", "UTF-8 text", "correct the file's encoding")


def json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "missing or null")
