"""The standing benchmark on a toy folder: the same bytes, the rule, the flags."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wiki204k import holding, make
from benchmarks.wiki204k.holding import Patterns, Strings
from realm.errors import DataError
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.retrieval import answer_in_text
from realm.knowledge.questions.files import read_flag, read_questions

CORPORA = {
    "ottqa_wiki": [("ottqa_wiki:1", "Dracula", "Dracula is a novel by Bram Stoker (1897).", "en")],
    "squad": [("squad:1", "Han", "The river Han runs through Seoul.", "en")],
    "vital": [("vital:en:1", "Radium", "Marie Curie", "en"), ("vital:fr:1", "Paris", "Paris est la capitale.", "fr")],
    "nq_open": [("nq_open:1", "Emma", "Emma, a novel of 1815.", "en")],
}
QUESTIONS: dict[str, list[dict[str, Any]]] = {
    "nq_open.test": [
        {"id": "1", "question": "who wrote Dracula", "answers": ["Abraham", "bram stoker"], "gold_ids": []},
        {"id": "2", "question": "which capital", "answers": ["Paris"], "gold_ids": [], "silver_ids": ["squad:1"]},
        {"id": "3", "question": "what is it", "answers": ["a story"], "gold_ids": ["nq_open:1"]},
    ],
    "webquestions.test": [{"id": "1", "question": "who", "answers": ["Stoke"], "gold_ids": ["elsewhere:1"]}],
    "curatedtrec.test": [
        {"id": "1", "question": "when", "answers": ["18[0-9]{2}"], "answer_regex": True},
        {"id": "2", "question": "when", "answers": ["19[0-9]{2}|xyz"], "answer_regex": True},
        {"id": "3", "question": "how", "answers": ["(broken"], "answer_regex": True},
    ],
    "squad.dev": [{"id": "1", "question": "nothing", "answers": [], "gold_ids": [], "answerable": False}],
    "triviaqa.test": [{"id": "1", "question": "where", "answers": ["SEOUL!"]}],
    "entityquestions.test": [{"id": "1", "question": "title only", "answers": ["Radium"]}],
}


def packed(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, documents in CORPORA.items():
        rows = [{"id": i, "title": title, "text": text, "lang": lang} for i, title, text, lang in documents]
        packed(tmp_path / "data" / name / "corpus.jsonl.gz", rows)
    for name, questions in QUESTIONS.items():
        folder, split = name.split(".")
        packed(tmp_path / "data" / folder / f"questions.{split}.jsonl.gz", questions)
    return tmp_path / "data"


def test_the_flags(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = make.make(data, out)
    assert manifest["documents"] == {"ottqa_wiki": 1, "squad": 1, "vital": 1, "nq_open": 1}
    flags = {
        name: {flag: read_flag(out / "questions" / f"{name}.jsonl", flag) for flag in ("in_kb_gold", "in_kb_string")}
        for name in QUESTIONS
    }
    # Paris stands only in the French passage, and silver ids say nothing; "a story" is vouched for by its gold
    assert flags["nq_open.test"] == {"in_kb_gold": {"3"}, "in_kb_string": {"1"}}
    assert flags["webquestions.test"] == {"in_kb_gold": set(), "in_kb_string": set()}  # "Stoke" is no whole token
    assert flags["curatedtrec.test"]["in_kb_string"] == {"1"}
    assert flags["squad.dev"]["in_kb_string"] == set()
    assert flags["triviaqa.test"]["in_kb_string"] == {"1"}
    assert flags["entityquestions.test"]["in_kb_string"] == set()  # a title is no text
    assert read_flag(out / "questions" / "nq_open.test.jsonl", "in_kb") == {"1", "3"}
    assert manifest["questions"]["nq_open.test"] == {"questions": 3, "in_kb_gold": 1, "in_kb_string": 1, "in_kb": 2}
    assert manifest["patterns"] == {"invalid": ["(broken"], "timed_out": []}
    whole = read_questions(out / "questions" / "nq_open.test.jsonl")
    assert whole == read_questions(data / "nq_open" / "questions.test.jsonl.gz")
    ids = [json.loads(line)["id"] for line in (out / "corpus.jsonl").read_text().splitlines()]
    assert ids == ["ottqa_wiki:1", "squad:1", "vital:en:1", "nq_open:1"]


def test_the_same_bytes_each_time(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.make(data, tmp_path / "one")
    monkeypatch.setattr(holding, "BLOCK", 2)  # where a block ends has no part in the result
    make.make(data, tmp_path / "two")
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 8
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_missing_and_repeated(data: Path, tmp_path: Path) -> None:
    packed(data / "squad" / "corpus.jsonl.gz", [{"id": "ottqa_wiki:1", "title": "", "text": "x"}])
    with pytest.raises(DataError, match="the id 'ottqa_wiki:1' again"):
        make.make(data, tmp_path / "out")
    (data / "squad" / "corpus.jsonl.gz").unlink()
    with pytest.raises(DataError, match="corpus of squad"):
        make.make(data, tmp_path / "out")
    (data / "triviaqa" / "questions.test.jsonl.gz").unlink()
    with pytest.raises(DataError, match="no questions of triviaqa"):
        make.make(data, tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.jsonl").exists() and not (tmp_path / "out" / "manifest.json").exists()


WORDS = st.lists(st.sampled_from(["a", "b", "the", "B.", "c++", "é", "東京", "x-y", "1,0"]), max_size=6).map(" ".join)


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=4))
def test_the_index_is_the_containment_test(answers: list[str], texts: list[str]) -> None:
    strings = Strings(answers)
    for text in texts:
        strings.read(text)
    assert strings.found == {a for a in answers if any(answer_in_text(a, text) for text in texts)}


PATTERNS = st.sampled_from(["ab", "a|cd", "b?c", r"\bd\b", "x+", "(ab)+c", "A. B", "no|way", "(bad"])


@given(st.lists(PATTERNS, max_size=4), st.lists(st.text("abcdABx ", max_size=8), max_size=9), st.integers(1, 4))
def test_blocks_and_literals_change_nothing(patterns: list[str], texts: list[str], block: int) -> None:
    search = Patterns(patterns)
    for number, text in enumerate(texts, 1):
        search.read(text)
        if number % block == 0:
            search.finish()
    search.finish()
    matcher = PatternMatcher()
    assert search.found == {p for p in patterns if any(matcher.stands_in(text, [p]) for text in texts)}
