"""Reading documents: every format, and everything that can be wrong with a record."""

from __future__ import annotations

import bz2
import gzip
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realm.errors import DataError, MissingLibraryError, UnavailableError, UsageError
from realm.knowledge.formats.choosing import FORMATS, detect
from realm.knowledge.formats.records import Record, column_name, parse_date, to_document
from realm.knowledge.formats.sources import SourceReport, read_documents
from realm.knowledge.table.columns import new_columns
from realm.knowledge.table.schema import CORE
from realm.types import Document

GUERNICA = {"id": "g", "title": "Guernica", "text": "Guernica was painted by Pablo Picasso."}
DANUBE = {"id": "d", "title": "Danube", "text": "The Danube flows through Vienna."}


def jsonl(path: Path, *records: Any) -> Path:
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    data = b"".join(line + b"\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        gzip.compress(data) if path.suffix == ".gz" else bz2.compress(data) if path.suffix == ".bz2" else data
    )
    return path


def read(source: Path | str, **options: Any) -> tuple[list[Document], SourceReport]:
    report = SourceReport()
    return list(read_documents(source, report=report, **options)), report


def one(source: Path | str, **options: Any) -> Document:
    (document,), report = read(source, **options)
    assert report.num_problems == 0
    return document


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.jsonl.bz2", "c.ndjson"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    full = {
        **GUERNICA, "source": "museum", "date": "1937-06-04", "lang": "en", "url": "https://example.org/g", "room": 206,
        "shown": True, "height": 3.49, "aliases": ["Gernika", "G"], "owner": {"name": "Reina Sofía"}, "none": None,
    }  # fmt: skip
    documents, report = read(jsonl(tmp_path / name, full, b"", DANUBE))
    assert documents[0] == Document(
        id="g", title="Guernica", text=str(GUERNICA["text"]), source="museum", date=date(1937, 6, 4), lang="en",
        url="https://example.org/g",
        metadata={
            "room": 206, "shown": True, "height": 3.49, "aliases": "Gernika; G", "owner": '{"name": "Reina Sofía"}'
        },
    )  # fmt: skip
    assert documents[1] == Document(id="d", title="Danube", text=str(DANUBE["text"]))
    assert (report.documents, report.num_problems) == (2, 0)


@pytest.mark.parametrize(
    "record",
    [{"_id": 7, "contents": "t"}, {"doc_id": "7", "body": "t"}, {"id": "7", "text": "t", "title": None}],
)
def test_the_usual_names_of_keys(tmp_path: Path, record: dict[str, Any]) -> None:
    assert one(jsonl(tmp_path / "c.jsonl", record)) == Document(id="7", title="", text="t")


def test_keys_and_defaults_can_be_given(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", {"pmid": 5, "abstract": "words", "text": "not this"})
    options: dict[str, Any] = {"fields": {"id": "pmid", "text": "abstract"}, "defaults": {"lang": "ko", "team": "a"}}
    assert one(path, **options) == Document("5", "", "words", lang="ko", metadata={"text_": "not this", "team": "a"})


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("level", "level"),
        ("First Name", "First_Name"),
        (" my-key (x) ", "my_key_x"),
        ("_private", "private"),
        ("2020", "field_2020"),
        ("Number", "Number_"),
        ("start", "start_"),
        ("vector_a", "field_vector_a"),
        ("%", "field_"),
    ],
)
def test_keys_become_names_that_a_predicate_can_use(key: str, name: str) -> None:
    assert column_name(key) == name


def test_keys_of_other_scripts_stay_apart() -> None:
    names = [column_name(key) for key in ("가격 (KRW)", "수량 (KRW)", "날짜", "제목")]
    assert len(set(names)) == 4
    assert names[0].startswith("KRW_")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_any_keys_fit_a_knowledge_base(keys: list[str]) -> None:
    record = Record("a:1", {"text": "words", "metadata": dict.fromkeys(keys, 1)})
    document, _ = to_document(record, {}, {})
    assert document is not None
    folded = {name.lower() for name in document.metadata}
    assume(len(folded) == len(document.metadata))
    assert {field.name for field in new_columns([document], CORE)} == set(document.metadata)


def test_a_record_without_id_keeps_the_same_one_wherever_it_stands(tmp_path: Path) -> None:
    nameless = {"title": "T", "text": "some text"}
    first = one(jsonl(tmp_path / "a.jsonl", nameless)).id
    documents, _ = read(jsonl(tmp_path / "b.jsonl", DANUBE, nameless))
    assert documents[1].id == first != one(jsonl(tmp_path / "c.jsonl", {"title": "T", "text": "some text."})).id


BAD_LINES: list[tuple[str, Any, str, str]] = [
    ("json", b'{"id": "x", "text": "cut of', '2: found \'{"id": "x", "text": "cut of\'', "expected a JSON object"),
    ("json", b"[1, 2]", "2: found a JSON list", "expected a JSON object"),
    ("json", b"[" * 100_000, "2: found ", "expected a JSON object"),
    ("encoding", b'{"id": "x", "text": "caf\xe9"}', "2: found byte 0xe9 at 24", "expected utf-8 text"),
    (
        "encoding",
        b'{"id": "x", "text": "\\ud83d"}',
        "2: found half a character (U+D83D) at position 0",
        "expected UTF-8",
    ),
    ("encoding", b'{"id": "x", "text": "t", "k": "\\ud83d"}', "2: found half a character", "of k, expected UTF-8"),
    (
        "character",
        b'{"id": "x", "text": "a\\u0000b"}',
        "2: found a NUL character at position 1 of text",
        "expected text",
    ),
    ("character", b'{"id": "x\\u0000", "text": "ab"}', "2: found a NUL character at position 1 of id", "expected text"),
    ("missing", {"id": "x", "title": "no text"}, "2: found no text among id, title", "expected a key 'text'"),
    ("missing", {"id": "x", "text": None}, "2: found no text among id, text", "expected a key 'text'"),
    ("empty", {"id": "x", "text": " \n"}, "2: found an empty text", "expected text to read"),
    ("empty", {"id": "x", "text": ""}, "2: found an empty text", "expected text to read"),
    ("type", {"id": "x", "text": ["a", "b"]}, "2: found list as text", "expected a string"),
    ("type", {"id": "x", "text": 5}, "2: found int as text", "expected a string"),
    ("type", {"id": ["x"], "text": "t"}, "2: found list as id", "expected a string"),
    ("type", {"id": "x", "title": True, "text": "t"}, "2: found bool as title", "expected a string"),
    ("duplicate", {"id": "g", "text": "again"}, "2: found id 'g' again", "expected each id once"),
]


@pytest.mark.parametrize(("kind", "line", "found", "expected"), BAD_LINES)
def test_a_malformed_record_is_reported_with_its_line(
    tmp_path: Path, kind: str, line: Any, found: str, expected: str
) -> None:
    path = jsonl(tmp_path / "c.jsonl", GUERNICA, line, DANUBE)
    documents, report = read(path)
    assert [document.id for document in documents] == ["g", "d"]
    assert documents[0].text == GUERNICA["text"]
    assert report.kinds == {kind: 1} and report.num_skipped == 1
    text = str(report.problems[0])
    assert text.startswith(f"{path}:{found}") and expected in text and "\n" not in text
    with pytest.raises(DataError, match="on_error=skip") as error:
        list(read_documents(path, on_error="refuse"))
    assert text in str(error.value)


def test_a_date_that_cannot_be_read_does_not_cost_the_document(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", {**GUERNICA, "date": "last spring"})
    (document,), report = read(path)
    assert document.date is None and document.metadata == {"date_text": "last spring"}
    assert report.kinds == {"date": 1} and report.num_skipped == 0
    assert str(report.problems[0]).startswith(f"{path}:1: found date 'last spring', expected YYYY-MM-DD")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-05-17", date(2024, 5, 17)),
        ("2024-05-17T23:59:59Z", date(2024, 5, 17)),
        ("2024-05-17 23:59:59+09:00", date(2024, 5, 17)),
        (" 2024-05 ", date(2024, 5, 1)),
        ("1994", date(1994, 1, 1)),
        (1994, date(1994, 1, 1)),
        (800, date(800, 1, 1)),
        ("2024-13-01", None),
        ("17.5.2024", None),
        (1715990400, None),
        (True, None),
        ("", None),
        (["2024"], None),
    ],
)
def test_dates(value: Any, expected: date | None) -> None:
    assert parse_date(value) == expected


@given(st.dates())
def test_every_date_is_read_back(day: date) -> None:
    assert parse_date(day.isoformat()) == day == parse_date(f"{day.isoformat()}T12:00:00")


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
            st.fixed_dictionaries(
                {
                    "id": st.text("ab\0\ud800", max_size=2),
                    "text": st.one_of(st.text(max_size=8), st.none(), st.integers()),
                },
                optional={"date": st.text("0123456789-T", max_size=10), "k": st.recursive(st.floats(), st.lists)},
            ),
        ),
        max_size=12,
    )
)
def test_whatever_the_lines_every_record_is_a_document_or_a_problem(tmp_path_factory: Any, lines: list[Any]) -> None:
    path = jsonl(tmp_path_factory.mktemp("lines") / "c.jsonl", GUERNICA, *lines)
    documents, report = read(path)
    records = 1 + sum(1 for line in lines if not isinstance(line, bytes) or line.strip())
    assert len(documents) + report.num_skipped == records
    assert len({document.id for document in documents}) == len(documents) == report.documents
    for document in documents:
        assert document.text.strip() and "\0" not in document.text + document.id
        (document.text + document.id).encode()


def test_problems_are_counted_beyond_those_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", GUERNICA, *[b"no"] * 9, *[{"id": "x"}] * 5)
    report = SourceReport(keep=3)
    list(read_documents(path, report=report))
    assert len(report.problems) == 3 and report.num_problems == 14
    assert str(report) == "1 documents; 14 records skipped; problems: 9 json, 5 missing"


def test_a_file_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    import random

    noise = random.Random(0)
    whole = jsonl(tmp_path / "c.jsonl.gz", *({"id": n, "text": f"{noise.random()}"} for n in range(20_000)))
    whole.write_bytes(whole.read_bytes()[:-20_000])
    documents, report = read(whole)
    assert 1000 < len(documents) < 20_000
    assert report.kinds["file"] == 1 and str(report.problems[-1]).startswith(
        f"{whole}: found a file that can't be read"
    )
    with pytest.raises(DataError, match="a whole file"):
        list(read_documents(whole, on_error="refuse"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    path = jsonl(tmp_path / "c.jsonl", *({"id": n, "text": "words " * 2000} for n in range(500)))
    stream = read_documents(path)
    next(stream)
    tracemalloc.start()
    assert sum(1 for _ in stream) == 499
    assert tracemalloc.get_traced_memory()[1] < 2_000_000 < path.stat().st_size // 2
    tracemalloc.stop()


# ---------------------------------------------------------------- nothing to read


def test_what_is_missing_or_unknown_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*nowhere.*hf:NAME"):
        read_documents(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no file or folder"):
        read_documents(tmp_path / "nowhere", format="csv")
    (tmp_path / "x.exe").write_bytes(b"MZ")
    for source in (tmp_path / "x.exe", tmp_path):
        with pytest.raises(DataError) as error:
            read_documents(source)
        assert all(name in str(error.value) for name in FORMATS) and "\n" not in str(error.value)
    jsonl(tmp_path / "c.jsonl", GUERNICA)
    for wrong in ({"format": "docx"}, {"on_error": "ignore"}, {"colour": 1}, {"encoding": "utf-16"}, {"unit": "page"}):
        with pytest.raises(UsageError, match="expected"):
            read_documents(tmp_path / "c.jsonl", **wrong)  # type: ignore[arg-type]


def test_a_source_without_a_document_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no document"):
        list(read_documents(jsonl(tmp_path / "empty.jsonl")))
    path = jsonl(tmp_path / "questions.jsonl", {"question": "who?"})
    with pytest.raises(DataError, match=r"first problem: .*questions.jsonl:1: found no text among question"):
        list(read_documents(path))


@pytest.mark.parametrize("format", ["squad", "summaries", "json"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, {"data": 1}, "x", None], ids=str)
def test_json_of_another_kind_is_one_line(tmp_path: Path, format: str, value: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"found no document.*first problem: .*x\.json"):
        list(read_documents(tmp_path / "x.json", format=format))


@pytest.mark.parametrize(("file", "content"), [("state.json", "{"), ("state.json", "[]"), ("dataset_dict.json", "{}")])
def test_a_torn_dataset_is_one_line(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match="save_to_disk"):
        list(read_documents(tmp_path))


# ---------------------------------------------------------------- folders of texts


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffPlain text.\r\nSecond line.".encode())
    (tmp_path / "sub" / "b.md").write_text(
        "---\ntitle: Rivers\ndate: 2024-05-17\ntags: [water, map]\n---\n# Heading\n\nThe **Danube** [flows](https://x.org).\n\n"
        "- one\n- two\n"
    )
    (tmp_path / "sub" / "c.html").write_text(
        "<!doctype html><html lang=en><head><title>Pont &amp; Quai</title>"
        "<link rel=canonical href='https://example.org/p'>"
        "<meta property='article:published_time' content='2023-02-01T10:00:00Z'><style>p {}</style></head><body>"
        "<nav>Home <a href=/>About</a></nav><h1>Pont</h1><p>First&nbsp;<b>par</b>agraph.</p><p>Second<br>line.</p>"
        "<table><tr><td>a</td><td>b</td></tr></table><script>var x = '<p>no</p>'</script><footer>Imprint</footer>"
    )
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.txt").write_text("not read")
    jsonl(tmp_path / "z.jsonl", GUERNICA)
    documents, report = read(tmp_path)
    assert documents == [
        Document("a.txt", "a", "Plain text.\r\nSecond line."),
        Document("sub/b.md", "Rivers", "Heading\nThe Danube flows.\none\ntwo",
            date=date(2024, 5, 17), metadata={"tags": "water; map"}),
        Document(
            "sub/c.html", "Pont & Quai", "Pont\nFirst paragraph.\nSecond\nline.\na b", lang="en", url="https://example.org/p",
            date=date(2023, 2, 1),
        ),
        Document("g", "Guernica", str(GUERNICA["text"])),
    ]  # fmt: skip
    assert report.num_ignored_files == 1 and report.num_problems == 0
    assert one(tmp_path / "a.txt").id == "a.txt"
    assert one(tmp_path / "sub" / "b.md", raw=True).text.startswith("# Heading\n\nThe **Danube**")
    assert [d.id for d in read(tmp_path, format="markdown")[0]] == ["sub/b.md"]


def test_texts_that_are_not_what_they_seem(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Fine.")
    (tmp_path / "latin.txt").write_bytes("line\ncafé".encode("latin-1"))
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "blank.md").write_text("\n\n")
    (tmp_path / "front.md").write_text("---\n: [\n---\nStill text.")
    documents, report = read(tmp_path)
    assert [d.id for d in documents] == ["front.md", "good.txt"]
    assert report.kinds == {"encoding": 1, "character": 1, "empty": 1, "front matter": 1} and report.num_skipped == 3
    assert any(str(p).startswith(f"{tmp_path / 'latin.txt'}:2: found byte 0xe9 at 8") for p in report.problems)
    assert one(tmp_path / "latin.txt", encoding="latin-1").text == "line\ncafé"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One<p>Two", "One\nTwo"),
        ("<nav><a>only a menu</a></nav>", "only a menu"),
        ("<form><p>all in a form that never ends", "all in a form that never ends"),
        ("<title>T</title><p>no head", "no head"),
        ("<head><body><p>head never closed", "head never closed"),
        ("plain &lt;text&gt; &#x1F600;", "plain <text> 😀"),
        ("<p>a<!-- comment --><b>b</b>c</p></p></div>", "abc"),
    ],
)
def test_html_as_people_write_it(tmp_path: Path, page: str, text: str) -> None:
    (tmp_path / "p.html").write_text(page)
    assert one(tmp_path / "p.html").text == text


def test_html_in_its_own_charset(tmp_path: Path) -> None:
    page = "<html><meta charset='euc-kr'><title>한국</title><body><p>서울은 한국의 수도이다.</p></body></html>"
    (tmp_path / "k.html").write_bytes(page.encode("euc-kr"))
    document = one(tmp_path / "k.html")
    assert (document.title, document.text) == ("한국", "서울은 한국의 수도이다.")


# ---------------------------------------------------------------- tables


def test_csv_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('ID,Title,Text,Room\n1,A,"two\nlines, ""quoted""",5\n\n2,B,"plain",\n')
    documents, _ = read(tmp_path / "c.csv")
    assert documents == [
        Document("1", "A", 'two\nlines, "quoted"', metadata={"Room": "5"}),
        Document("2", "B", "plain"),
    ]
    (tmp_path / "psgs_w100.tsv").write_text('id\ttext\ttitle\n1\t"Aaron ""Moses"" went."\tAaron\n2\tplain\tB "C"\n')
    documents, _ = read(tmp_path / "psgs_w100.tsv")
    assert documents == [Document("1", "Aaron", 'Aaron "Moses" went.'), Document("2", 'B "C"', "plain")]
    (tmp_path / "collection.tsv").write_text('0\t"Quote that never ends.\n1\tNext.\n')
    documents, _ = read(tmp_path / "collection.tsv", columns=("id", "text"), quote=None)
    assert [d.text for d in documents] == ['"Quote that never ends.', "Next."]


def test_bad_rows_of_a_table(tmp_path: Path) -> None:
    rows = b'id,text\n1,good\n2\n3,caf\xe9\n4,"a"b\n5,\n6,"two\nlines"\n6,again\n7,a\0b\n8,"never ends\n9,lost\n'
    (tmp_path / "c.csv").write_bytes(rows)
    documents, report = read(tmp_path / "c.csv")
    assert [(d.id, d.text) for d in documents] == [("1", "good"), ("6", "two\nlines")]
    lines = [str(problem).removeprefix(f"{tmp_path / 'c.csv'}:") for problem in report.problems]
    assert [line.partition(", ")[0] for line in lines] == [
        "3: found 1 fields",
        "4: found bytes that are not UTF-8 at position 3 of text",
        "5: found a row that can't be read (',' expected after '\"')",
        "6: found an empty text",
        "9: found id '6' again",
        "10: found a NUL character at position 1 of text",
        "11: found a row that can't be read (unexpected end of data)",
    ]


def test_a_field_of_any_length(tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit()
    (tmp_path / "c.csv").write_text("id,text\n1," + "word " * 100_000 + "\n")
    assert len(one(tmp_path / "c.csv").text) == 500_000
    assert csv.field_size_limit() == before


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "id": [1, 2, 3],
        "title": ["A", None, "C"],
        "text": ["one", "two", None],
        "date": pa.array([1_700_000_000_123_456_789, None, 0], pa.timestamp("ns")),
        "tags": [["x", "y"], [], None],
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "train-00000.parquet")
    expected = [Document("1", "A", "one", date=date(2023, 11, 14), metadata={"tags": "x; y"}), Document("2", "", "two")]
    for source in (tmp_path / "data" / "train-00000.parquet", tmp_path):
        documents, report = read(source)
        assert documents == expected and report.kinds == {"missing": 1}
        assert str(report.problems[0]).startswith(f"{tmp_path / 'data' / 'train-00000.parquet'}:3: found no text")
    (tmp_path / "data" / "train-00001.parquet").write_bytes(b"PAR1 and then nothing")
    documents, report = read(tmp_path)
    assert documents == expected and report.kinds == {"missing": 1, "file": 1}


def test_parquet_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"caf\xe9", b"also good"], pa.binary())
    text = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": text}), tmp_path / "c.parquet")
    documents, report = read(tmp_path / "c.parquet")
    assert [d.text for d in documents] == ["good", "also good"]
    assert str(report.problems[0]).startswith(f"{tmp_path / 'c.parquet'}:2: found byte 0xe9 at 3")


# ---------------------------------------------------------------- known collections


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_beir(tmp_path: Path, suffix: str) -> None:
    jsonl(
        tmp_path / f"corpus.jsonl{suffix}",
        {"_id": "1", "title": "T", "text": "t", "metadata": {"url": "u", "year": 1999}},
    )
    jsonl(tmp_path / "queries.jsonl", {"_id": "q", "text": "not a document"})
    assert detect(tmp_path) == "beir"
    assert one(tmp_path) == Document("1", "T", "t", metadata={"year": 1999}, url="u")


def test_wikiextractor(tmp_path: Path) -> None:
    page = {"id": "12", "revid": "1", "url": "https://en.wikipedia.org/wiki?curid=12"}
    pages = [
        {**page, "title": "AT&amp;T", "text": "AT&amp;T\n\nAT&amp;T is a company &lt;since 1885&gt;."},
        {**page, "id": "13", "title": "List of rivers", "text": "rivers"},
        {**page, "id": "14", "title": "Mercury (disambiguation)", "text": "planets"},
        {**page, "id": "15", "title": "Listing", "text": "kept"},
        {**page, "id": "16", "title": "Redirect", "text": ""},
    ]
    jsonl(tmp_path / "AA" / "wiki_00", *pages[:2])
    jsonl(tmp_path / "AB" / "wiki_01.bz2", *pages[2:])
    documents, report = read(tmp_path)
    assert [(d.id, d.title, d.text) for d in documents] == [
        ("12", "AT&T", "AT&T is a company <since 1885>."),
        ("15", "Listing", "kept"),
    ]
    assert documents[0].source == "Wikipedia" and documents[0].url == page["url"]
    assert report.num_left_out == 2 and report.kinds == {"empty": 1}
    assert [d.id for d in read(tmp_path, drop_lists=False)[0]] == ["12", "13", "14", "15"]
    assert one(tmp_path / "AA" / "wiki_00").id == "12"


def test_squad_and_korquad(tmp_path: Path) -> None:
    def article(title: str, *texts: str) -> dict[str, Any]:
        return {"title": title, "paragraphs": [{"context": text, "qas": []} for text in texts]}

    value = {
        "version": "1.1",
        "data": [article("Super_Bowl", "First.", "Second."), article("서울", "수도."), article("Super_Bowl", "Third.")],
    }
    (tmp_path / "train-v1.1.json").write_text(json.dumps(value))
    assert detect(tmp_path / "train-v1.1.json") == "squad"
    documents, report = read(tmp_path / "train-v1.1.json")
    assert [(d.id, d.title, d.text) for d in documents] == [
        ("Super Bowl/1", "Super Bowl", "First."),
        ("Super Bowl/2", "Super Bowl", "Second."),
        ("서울/1", "서울", "수도."),
        ("Super Bowl/3", "Super Bowl", "Third."),
    ]
    assert report.num_problems == 0
    (tmp_path / "v2.json").write_text(
        json.dumps(
            {
                "version": "KorQuAD_2.0",
                "data": [{"title": "한강", "context": "<html><body><p>강이다.</p></body></html>", "qas": []}],
            }
        )
    )
    documents, _ = read(tmp_path / "v2.json", unit="article")
    assert [(d.id, d.text) for d in documents] == [("한강", "강이다.")]


def test_summaries_of_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "summaries_es-es.json"
    path.write_text(
        json.dumps({"Danubio (río)": {"title": "Danubio", "extract": "Es un río.", "topic": "Geografía"}, "x": 3})
    )
    assert detect(path) == "summaries"
    (document,), report = read(path)
    assert document == Document(
        "Danubio (río)", "Danubio", "Es un río.", "Wikipedia", lang="es", metadata={"topic": "Geografía"}
    )
    assert str(report.problems[0]) == f"{path}:'x': found a JSON number, expected an object with 'title' and 'extract'"


def test_json_files(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([GUERNICA, 5, DANUBE]))
    documents, report = read(tmp_path / "list.json")
    assert [d.id for d in documents] == ["g", "d"] and "list.json:[2]: found a JSON number" in str(report.problems[0])
    (tmp_path / "torn.json").write_text('[{"id": 1,\n "text"')
    with pytest.raises(DataError, match=r"torn.json:2: found .*expected JSON"):
        list(read_documents(tmp_path / "torn.json"))


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_dataset_saved_to_disk(tmp_path: Path, dictionary: bool) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([GUERNICA, DANUBE])
    saved = datasets.DatasetDict({"train": data, "test": datasets.Dataset.from_list([{**GUERNICA, "id": "h"}])})
    (saved if dictionary else data).save_to_disk(str(tmp_path / "saved"))
    assert detect(tmp_path / "saved") == "dataset"
    documents, report = read(tmp_path / "saved")
    assert [d.id for d in documents] == (["g", "d", "h"] if dictionary else ["g", "d"]) and report.num_problems == 0
    if dictionary:
        assert [d.id for d in read(tmp_path / "saved", split="test")[0]] == ["h"]
        with pytest.raises(UsageError, match="expected one of train, test"):
            read(tmp_path / "saved", split="dev")


def test_a_dataset_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'realm-lm\[ingest\]'"):
        read("hf:someone/something")


def test_a_dataset_out_of_reach_is_one_line() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(UnavailableError, match="hf:someone/something") as error:
        read("hf:someone/something")
    assert "\n" not in str(error.value)


def test_a_dataset_by_name(tmp_path: Path) -> None:
    """The loader of `datasets` itself, given a local folder where the hub's name would stand."""
    pytest.importorskip("datasets")
    pq.write_table(pa.Table.from_pylist([GUERNICA, DANUBE]), tmp_path / "train.parquet")
    assert [d.title for d in read(f"hf:{tmp_path}", split="train")[0]] == ["Guernica", "Danube"]
