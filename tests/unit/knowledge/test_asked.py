"""Questions to be answered: text, lines of JSON, any file of questions; what is none is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from realm.errors import DataError
from realm.knowledge.questions.asked import read_asked

READ = {
    "a.txt": ("who ?\n\n  {what} ? \n", [("1", "who ?"), ("3", "{what} ?")]),
    "b.jsonl": ('{"question": "who ?"}\n{"question": "what ?", "id": "x"}\n', [("1", "who ?"), ("x", "what ?")]),
    "c.jsonl": ('{"id": 7, "question": "who ?", "answers": ["I"]}\n', [("7", "who ?")]),
    "d.tsv": ("id\tquestion\tanswer\nq\twho ?\tI\n", [("q", "who ?")]),
}
WRONG = {
    "a.txt": ("\n \n", "found no question"),
    "b.jsonl": ('{"question": "who ?"}\n[]\n', r"b.jsonl:2: found '\[\]', expected a JSON object"),
    "c.jsonl": ('{"question": " "}\n', "question"),
    "d.jsonl": ('{"question": "a", "id": "x"}\n{"question": "b", "id": "x"}\n', "the id 'x' again"),
    "e.jsonl": ('{"text": "who ?"}\n', "a record of text"),
    "f.txt": (b"\xff\xfe", "not UTF-8"),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_asked_is_read(tmp_path: Path, name: str) -> None:
    text, expected = READ[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [(question.id, question.text) for question in read_asked(tmp_path / name)] == expected


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_question_is_named(tmp_path: Path, name: str) -> None:
    content, message = WRONG[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_asked(tmp_path / name)
    with pytest.raises(DataError, match="no file"):
        read_asked(tmp_path / "missing.txt")
