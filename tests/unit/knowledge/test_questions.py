"""Question files: the formats people bring, and what is said of a file that is none of them."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import DataError, UsageError
from realm.knowledge.formats.sources import read_documents
from realm.knowledge.questions import results as result_files
from realm.knowledge.questions.files import read_flag, read_questions
from realm.knowledge.questions.results import Context
from realm.types import Question

OURS = {"id": "a:1", "question": "who wrote Dracula", "answers": ["Bram Stoker", "Stoker"]}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def test_our_own_lines_keep_everything(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    full = {
        **OURS,
        "gold_ids": ["wiki:1"],
        "silver_ids": ["wiki:2"],
        "answerable": True,
        "answer_regex": True,
        "date": "2020-02-01",
        "lang": "en",
        "hops": 1,
    }
    path.write_bytes(gzip.compress((json.dumps(full) + "\n\n").encode()))
    assert read_questions(path) == [
        Question(
            "a:1",
            "who wrote Dracula",
            ("Bram Stoker", "Stoker"),
            patterns=True,
            gold=("wiki:1",),
            silver=("wiki:2",),
            date=date(2020, 2, 1),
            lang="en",
        )
    ]


FOREIGN: dict[str, tuple[str, Any]] = {
    "nq-open": ("q.jsonl", [{"question": "who?", "answer": ["Ada", "Ada L."]}]),
    "atlas": ("q.jsonl", [{"question": "who?", "answers": ["Ada", "Ada L."], "target": "Ada"}]),
    "flashrag": ("q.jsonl", [{"id": "7", "question": "who?", "golden_answers": ["Ada", "Ada L."], "metadata": {}}]),
    "kilt": (
        "q.jsonl",
        [
            {
                "id": "7",
                "input": "who?",
                "output": [
                    {"answer": "Ada", "provenance": [{"wikipedia_id": "12"}, {"wikipedia_id": "12"}]},
                    {"answer": "Ada L."},
                    {"provenance": [{"wikipedia_id": 13}]},
                ],
            }
        ],
    ),
    "dpr-results": (
        "q.json",
        [
            {
                "question": "who?",
                "answers": ["Ada", "Ada L."],
                "ctxs": [{"id": "1", "has_answer": False}, {"id": "2", "has_answer": True}],
            }
        ],
    ),
    "dpr-training": (
        "q.json",
        [{"question": "who?", "answers": ["Ada", "Ada L."], "positive_ctxs": [{"passage_id": "5"}]}],
    ),
    "datasets": ("q.jsonl", [{"id": "7", "question": "who?", "answers": {"text": ["Ada", "Ada", "Ada L."]}}]),
}


def test_web_questions(tmp_path: Path) -> None:
    record = {
        "url": "http://x",
        "targetValue": r'(list (description "Ada \"L.\" (1815)") (description Ada) (description "Ada"))',
        "utterance": "who?",
    }
    path = tmp_path / "test.json"
    path.write_text(json.dumps([record]))
    (question,) = read_questions(path)
    assert (question.text, question.answers) == ("who?", ('Ada "L." (1815)', "Ada"))
    path.write_text(json.dumps([{**record, "targetValue": "Ada"}]))
    with pytest.raises(DataError, match=r"\[1\]: found another 'targetValue'"):
        read_questions(path)


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_records_are_told_apart_by_their_keys(tmp_path: Path, name: str) -> None:
    file, records = FOREIGN[name]
    path = tmp_path / file
    if file.endswith(".json"):
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    else:
        lines(path, *records)
    (question,) = read_questions(path)
    assert (question.text, question.answers, question.patterns) == ("who?", ("Ada", "Ada L."), False)
    assert question.id == "7" or len(question.id) == 16
    gold = {"kilt": ("12", "13"), "dpr-training": ("5",)}
    assert question.gold == gold.get(name, ())
    assert question.silver == (("2",) if name == "dpr-results" else ())  # found by a search: never gold


def test_dpr_lines_quoted_or_not_and_nothing_is_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "nq-test.csv"
    path.write_text(
        "who is it\t['Ada', \"O'Brien\"]\n"
        '"who said ""hi"""\t"[""Bob"", \'say ""x""\']"\n'
        '"Help" is a song by?\t["The Beatles"]\n',
        encoding="utf-8",
    )
    assert [(q.text, q.answers) for q in read_questions(path)] == [
        ("who is it", ("Ada", "O'Brien")),
        ('who said "hi"', ("Bob", 'say "x"')),
        ('"Help" is a song by?', ("The Beatles",)),
    ]
    touched = tmp_path / "touched"
    path.write_text(f"who\t[__import__('pathlib').Path({str(touched)!r}).touch()]\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected question TAB"):
        read_questions(path, format="dpr-qa")
    assert not touched.exists()


def test_tables_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('id,question,answer\n1,"who, then?",Ada\n2,"two\nlines",["x"]\n', encoding="utf-8")
    assert [(q.id, q.text, q.answers) for q in read_questions(path)] == [
        ("1", "who, then?", ("Ada",)),
        ("2", "two\nlines", ("x",)),
    ]
    path.write_text("question,answer\nonly one\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"mine\.csv:2: found 1 fields"):
        read_questions(path)


@pytest.mark.parametrize(
    ("name", "content", "identity"),
    [
        ("curatedtrec.tsv", "How high?\t29,?029\\s*('|f(ee|oo)?t)\n", None),
        ("large2470-train.tsv", "1669\tfactoid\tHow high?\t29,?029\\s*('|f(ee|oo)?t)\n", "1669"),
        ("curatedtrec.csv", 'How high?\t["29,?029\\\\s*(\'|f(ee|oo)?t)"]\n', None),
        ("curatedtrec-test.csv", 'How high?\t"[""29,?029\\\\s*(\'|f(ee|oo)?t)""]"\n', None),
        ("CuratedTrec-test.jsonl", '{"question": "How high?", "answer": ["29,?029\\\\s*(\'|f(ee|oo)?t)"]}\n', None),
    ],
)
def test_curated_trec_holds_patterns(tmp_path: Path, name: str, content: str, identity: str | None) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    (question,) = read_questions(path)
    assert question.patterns and question.text == "How high?"
    assert question.answers == ("29,?029\\s*('|f(ee|oo)?t)",)
    assert identity is None or question.id == identity
    plain = path.rename(tmp_path / f"plain{path.suffix}")
    assert read_questions(plain, format="trec")[0].patterns


def test_another_trec_is_no_curated_one(tmp_path: Path) -> None:
    assert not read_questions(lines(tmp_path / "trec-covid.jsonl", {"question": "who?", "answer": ["Ada"]}))[0].patterns


def test_squad_names_the_paragraph_that_its_reader_makes(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    answered = {"id": "q1", "question": "where?", "answers": [{"text": "Paris", "answer_start": 3}, {"text": "Paris"}]}
    impossible = {
        "id": "q2",
        "question": "why?",
        "answers": [],
        "is_impossible": True,
        "plausible_answers": [{"text": "in"}],
    }
    paragraphs = [{"context": "Nothing here.", "qas": []}, {"context": "In Paris.", "qas": [answered, impossible]}]
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "The_City", "paragraphs": paragraphs}]}))
    where, why = read_questions(path)
    assert (where.id, where.answers, where.answerable) == ("q1", ("Paris",), True)
    assert (why.answers, why.gold, why.answerable) == ((), (), False)
    texts = {document.id: document.text for document in read_documents(path)}
    assert texts[where.gold[0]] == "In Paris."
    path.write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}, indent=2))
    assert len(read_questions(path)) == 2


def test_beir_asks_what_its_judgements_name(tmp_path: Path) -> None:
    lines(tmp_path / "queries.jsonl", {"_id": "1", "text": "who?"}, {"_id": "2", "text": "other"})
    (tmp_path / "qrels").mkdir()
    qrels = tmp_path / "qrels" / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\td 9\t1\n1\td8\t0\n")
    for path in (tmp_path, qrels):
        assert read_questions(path) == [Question("1", "who?", (), gold=("d 9",))]
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n2\td1\t1\n")
    with pytest.raises(DataError, match=r"dev\.tsv, test\.tsv in qrels, expected one"):
        read_questions(tmp_path)
    assert [q.id for q in read_questions(tmp_path / "qrels" / "dev.tsv")] == ["2"]
    qrels.write_text("3\td9\t1\n")
    with pytest.raises(DataError, match="found 1 query ids that"):
        read_questions(qrels)


BAD: dict[str, tuple[list[Any], str]] = {
    "no id": ([OURS, {"question": "q", "answers": ["x"]}], r":2: found no 'id' \(only answers, question\)"),
    "no question": ([OURS, {"id": "2", "answers": ["x"]}], ":2: found no 'question'"),
    "mixed": ([OURS, {"question": "q", "answer": ["x"]}], ":2: found a record of format nq-open"),
    "mixed, more keys": ([{"question": "q", "answers": ["x"]}, OURS], ":2: found a record of format realm"),
    "duplicate": ([OURS, OURS], ":2: found the id 'a:1' of .*:1 again, expected each id once; remove"),
    "empty question": ([{**OURS, "question": "  "}], ":1: found an empty 'question'"),
    "no answers": ([{**OURS, "answers": []}], ':1: found no answer, expected at least one; .*"answerable": false'),
    "number": ([{**OURS, "answers": [{"a": 1}]}], ":1: found an answer that is missing or null"),
    "flag": ([{**OURS, "answerable": "no"}], ":1: found 'answerable' that is a string, expected true or false"),
    "date": ([{**OURS, "date": "soon"}], ":1: found date 'soon', expected YYYY-MM-DD"),
    "NUL": ([{**OURS, "question": "a\0b"}], ":1: found a NUL"),
    "unknown": ([{"q": 1, "a": 2}], ":1: found a record of a, q, expected one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    records, message = BAD[name]
    with pytest.raises(DataError, match=message) as error:
        read_questions(lines(tmp_path / "q.jsonl", *records))
    assert "\n" not in str(error.value) and "expected" in str(error.value) and ";" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"just some words\n", ":1: found 'just some words"),
        (json.dumps(OURS).encode() + b"\n[1]\n", ":2: found a list, expected a JSON object on every line"),
        (json.dumps(OURS).encode() + b"\n{torn\n", ":2: found '{torn', expected a JSON object"),
        (b'[{"question": "q", "answers"', "JSON that can't be read"),
        (b"who\t['a']\nwhat\n", r":2: found 'what', expected question TAB"),
        (b'{"id": "1", "question": "\xff", "answers": ["x"]}\n', ":1: found byte 0xff"),
        (b"[]", "the file is empty"),
        (b"[1]", r"\[1\]: found a number, expected an object"),
    ],
)
def test_a_file_that_is_no_question_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.any"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_questions(path)


def test_missing_torn_and_misnamed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_questions(tmp_path / "none.jsonl")
    torn = tmp_path / "q.jsonl.gz"
    torn.write_bytes(gzip.compress(json.dumps(OURS).encode() * 50)[:60])
    with pytest.raises(DataError, match="can't be read"):
        read_questions(torn)
    with pytest.raises(UsageError, match="expected one of kilt"):
        read_questions(torn, format="nq")
    with pytest.raises(DataError, match=":1: found no 'ctxs'"):
        read_questions(lines(tmp_path / "q.jsonl", OURS), format="dpr-results")


def test_the_same_text_twice_is_two_questions_with_lasting_ids(tmp_path: Path) -> None:
    one, two = {"question": "who?", "answer": ["a"]}, {"question": "when?", "answer": ["b"]}
    first = read_questions(lines(tmp_path / "a.jsonl", one, two, one))
    second = read_questions(lines(tmp_path / "b.jsonl", two, one))
    assert len({q.id for q in first}) == 3
    assert {q.id for q in second} == {first[0].id, first[1].id}


def test_flags_are_a_part_of_the_set(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {**OURS, "in_kb": True}, {**OURS, "id": "2", "in_kb": False})
    assert read_flag(path, "in_kb") == {"a:1"}
    with pytest.raises(DataError, match=":1: found no 'other'"):
        read_flag(path, "other")


WORDS = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\u2028\u2029\x85"), min_size=1, max_size=12
).filter(lambda word: word.strip() == word)
QUESTIONS = st.lists(
    st.builds(
        Question,
        id=WORDS,
        text=WORDS,
        answers=st.lists(WORDS, min_size=1, max_size=3, unique=True).map(tuple),
        patterns=st.booleans(),
        gold=st.lists(WORDS, max_size=2, unique=True).map(tuple),
        silver=st.lists(WORDS, max_size=2, unique=True).map(tuple),
        date=st.none() | st.dates(date(1000, 1, 1)),
        lang=st.none() | st.just("ko"),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda question: question.id,
)


@settings(max_examples=8)
@given(questions=QUESTIONS)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, questions: list[Question]) -> None:
    folder = tmp_path_factory.mktemp("round")
    result_files.write_questions(folder / "q.jsonl", questions)
    assert read_questions(folder / "q.jsonl") == questions
    for format in ("nq-open", "atlas", "flashrag", "kilt", "dpr-qa"):
        result_files.write_questions(folder / "x.any", questions, format)
        again = read_questions(folder / "x.any", format=format)
        assert [(q.text, q.answers) for q in again] == [(q.text, q.answers) for q in questions], format
    with_gold = [question for question in questions if question.gold]
    result_files.write_questions(folder / "queries.jsonl", questions, "beir")
    result_files.write_qrels(folder / "qrels" / "test.tsv", questions)
    if with_gold:
        again = read_questions(folder)
        assert [(q.id, q.text, q.gold) for q in again] == [(q.id, q.text, q.gold) for q in with_gold]


@settings(max_examples=15)
@given(st.dictionaries(WORDS, st.lists(st.tuples(WORDS, st.floats(-1e6, 1e6)), min_size=1, max_size=3), max_size=3))
def test_a_run_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, run: dict[str, list[tuple[str, float]]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "x.run"
    run = {question: sorted(hits, key=lambda hit: -hit[1]) for question, hits in run.items()}
    result_files.write_run(path, run)
    assert result_files.read_run(path) == run


def test_dpr_results_and_predictions(tmp_path: Path) -> None:
    question = Question("7", "who?", ("Ada",))
    found = [Context("p1", "T", "Ada here", 1.5, True), Context("p2", "T", "none", 0.5, False)]
    result_files.write_dpr_results(tmp_path / "r.json", [question], [found])
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    assert [ctx["id"] for ctx in entry["ctxs"]] == ["p1", "p2"] and entry["ctxs"][0]["score"] == "1.5"
    assert read_questions(tmp_path / "r.json")[0].silver == ("p1",)
    result_files.write_predictions(tmp_path / "p.jsonl", [{"question": "who?", "prediction": "Ada", "confidence": 0.5}])
    assert result_files.read_predictions(tmp_path / "p.jsonl") == {"who?": "Ada"}
    with pytest.raises(UsageError, match="prediction 1: found no string 'prediction'"):
        result_files.write_predictions(tmp_path / "p.jsonl", [{"question": "who?"}])
    assert result_files.read_predictions(tmp_path / "p.jsonl") == {"who?": "Ada"}  # the old file stands
    with pytest.raises(UsageError, match="finite"):
        result_files.write_run(tmp_path / "x.run", {"q": [("p", float("nan"))]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl", "r.json"]
