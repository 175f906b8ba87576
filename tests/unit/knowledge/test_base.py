"""The knowledge base: what goes in comes out, edits are whole, the past stays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import dots
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import DataError, KnowledgeBaseError, MismatchError, UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.table import housekeeping, writing
from realm.types import Document, Passage

FRANCE = Document(
    "fr",
    "France",
    "Paris is the capital. The Seine flows there. ",
    source="atlas",
    date=date(2024, 5, 1),
    lang="en",
    url="https://example.org/fr",
    metadata={"population": 68, "area": 551.5, "continent": "Europe", "member": True},
)
KOREA = Document("kr", "Korea", "Seoul is the capital. The Han flows there.", source="news", date=date(2023, 1, 1))


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)


def texts(kb: KnowledgeBase, where: str | None = None) -> list[str]:
    return [passage.text for passage in kb.passages(where)]


class Counting:
    """An encoder that remembers what it was asked for: (length of the text, 1)."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, passages: Sequence[Passage]) -> np.ndarray:
        self.asked += [passage.text for passage in passages]
        return np.array([[len(passage.text), 1.0] for passage in passages])


# ---------------------------------------------------------------- what goes in comes out


def test_documents_come_back_as_they_were_given(kb: KnowledgeBase) -> None:
    awkward = [
        Document('it\'s "quoted"; -- #1', "emoji 😀", "👩‍👩‍👧 is a family. 🇰🇷."),
        Document("عربي", "שלום", "السلام عليكم. שלום עולם."),
        Document("nul", "a\0b", "before\0after. \0."),
        Document("blank", "nothing here", " \n\t "),
        Document("empty", "", ""),
        Document("lines", "", "\n\nno stop\r\n. . .tail  "),
    ]
    kb.add([FRANCE, *awkward, KOREA])
    assert list(kb.documents()) == [FRANCE, *awkward, KOREA]
    assert [kb.get(document.id) for document in awkward] == awkward
    assert len(kb) == 8
    assert kb.num_passages() == sum(len(p) for p in dots.split([FRANCE, *awkward, KOREA]))
    assert list(kb.passages()) == [p for found in dots.split([FRANCE, *awkward, KOREA]) for p in found]
    assert kb.get("nobody") is None
    assert "fr" in kb and "nobody" not in kb and 3 not in kb


def test_an_empty_knowledge_base_answers(kb: KnowledgeBase) -> None:
    assert (len(kb), kb.num_passages(), list(kb.documents()), list(kb.passages())) == (0, 0, [], [])
    assert kb.search_text("anything") == []
    assert kb.history("x") == [] and kb.content_version == 0
    assert kb.upsert([]).added == 0
    assert kb.embed_missing(PassageEncoder("e", Counting())) == 0


def test_a_long_document_is_one_commit(kb: KnowledgeBase) -> None:
    long = Document("long", "", "A sentence of some length here. " * 5_000)
    before = kb.version
    kb.add([long])
    assert kb.version == before + 1
    assert kb.num_passages() == 5_000
    assert kb.get("long") == long


def test_settings_of_the_splitter_stay_with_the_knowledge_base(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    assert KnowledgeBase.splitter_of(kb.path) == dots.SETTINGS
    reader = KnowledgeBase.open(kb.path)
    assert reader.splitter == dots.SETTINGS
    with pytest.raises(UsageError, match="without its splitter"):
        reader.add([KOREA])
    assert reader.upsert([FRANCE]).unchanged == 1


def test_create_and_open_refuse_the_wrong_place(tmp_path: Path, kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    with pytest.raises(KnowledgeBaseError, match="not empty"):
        KnowledgeBase.create(kb.path)
    assert len(kb) == 1
    with pytest.raises(KnowledgeBaseError, match="no knowledge base"):
        KnowledgeBase.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(KnowledgeBaseError, match="not a knowledge base"):
        KnowledgeBase.open(tmp_path / "other")
    (tmp_path / "other" / "kb.json").write_text('{"format": "realm knowledge base", "format_version": 99}')
    with pytest.raises(KnowledgeBaseError, match="version 99"):
        KnowledgeBase.open(tmp_path / "other")
    with pytest.raises(UsageError, match="text_search"):
        KnowledgeBase.create(tmp_path / "new", text_search={"nonsense": 1})
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- edits


def test_add_refuses_what_is_there_and_writes_nothing_of_it(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    before = kb.version
    with pytest.raises(DataError, match="'fr' is there already"):
        kb.add([KOREA, FRANCE])
    assert kb.version == before and kb.get("kr") is None


def test_an_id_twice_in_one_call(kb: KnowledgeBase) -> None:
    assert kb.upsert([FRANCE, KOREA, FRANCE]).added == 2
    other = Document("kr", "Korea", "Busan has a port.")
    with pytest.raises(DataError, match="'kr' comes twice"):
        kb.upsert([KOREA, other])
    assert kb.get("kr") == KOREA
    with pytest.raises(DataError, match="empty id"):
        kb.add([Document("", "t", "x.")])


def test_update_replaces_a_document_in_one_commit(kb: KnowledgeBase) -> None:
    kb.add([FRANCE, KOREA])
    before = kb.version
    shorter = Document("fr", "France", "Lyon is a city.", source="atlas")
    assert kb.update(shorter).updated == 1
    assert kb.version == before + 1
    assert kb.get("fr") == shorter and kb.get("kr") == KOREA
    assert kb.update(shorter).unchanged == 1
    assert kb.version == before + 1
    with pytest.raises(DataError, match="no document 'xx' to update"):
        kb.update(Document("xx", "", "x."))


@pytest.mark.parametrize(
    "edited",
    [
        Document("kr", "Corea", KOREA.text, source="news", date=KOREA.date),
        Document("kr", "Korea", KOREA.text, source=None, date=KOREA.date),
        Document("kr", "Korea", KOREA.text, source="news", date=date(2023, 1, 2)),
        Document("kr", "Korea", KOREA.text, source="news", date=KOREA.date, metadata={"x": 1}),
        Document("kr", "Korea", KOREA.text + " ", source="news", date=KOREA.date),
    ],
)
def test_every_field_counts_as_a_change(kb: KnowledgeBase, edited: Document) -> None:
    kb.add([KOREA])
    assert kb.upsert([edited]).updated == 1
    assert kb.get("kr") == edited


def test_ingesting_again_does_nothing(kb: KnowledgeBase) -> None:
    first = kb.upsert([FRANCE, KOREA])
    assert (first.added, first.updated, first.unchanged, first.version) == (2, 0, 0, kb.version)
    again = kb.upsert([FRANCE, KOREA])
    assert (again.added, again.updated, again.unchanged, again.version) == (0, 0, 2, first.version)
    mixed = kb.upsert([Document("fr", "France", "Nice."), Document("jp", "Japan", "Tokyo."), KOREA])
    assert (mixed.added, mixed.updated, mixed.unchanged) == (1, 1, 1)
    assert [document.id for document in kb.documents()] == ["fr", "kr", "jp"]


def test_a_stream_is_committed_in_batches_and_a_fault_stops_only_its_own(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BATCH_DOCUMENTS", 3)

    def stream() -> Iterator[Document]:
        yield from (Document(f"d{i}", "", f"number {i}.") for i in range(8))
        raise OSError("the source broke off")

    with pytest.raises(OSError, match="broke off"):
        kb.upsert(stream())
    assert [document.id for document in kb.documents()] == [f"d{i}" for i in range(6)]
    shown: list[int] = []
    counts = kb.upsert(
        (Document(f"d{i}", "", f"number {i}.") for i in range(8)), progress=lambda done, total: shown.append(done)
    )
    assert (counts.added, counts.unchanged, shown) == (2, 6, [3, 6, 8])
    monkeypatch.setattr(writing, "BATCH_DOCUMENTS", 1000)
    monkeypatch.setattr(writing, "BATCH_CHARACTERS", 10)
    before = kb.version
    kb.add(Document(f"e{i}", "", "0123456789.") for i in range(4))
    assert kb.version == before + 4


def test_order_is_of_insertion_whatever_is_edited(kb: KnowledgeBase) -> None:
    kb.add([Document(name, "", f"{name}0. {name}1.") for name in "abc"])
    kb.update(Document("b", "", "b0. b1. b2."))
    kb.add([Document("d", "", "d0.")])
    kb.update(Document("a", "", "a9."))
    assert texts(kb) == ["a9", "b0", "b1", "b2", "c0", "c1", "d0"]
    assert [document.id for document in kb.documents()] == list("abcd")
    kb.delete("c")
    kb.add([Document("c", "", "c2.")])
    assert texts(kb) == ["a9", "b0", "b1", "b2", "d0", "c2"]
    rows = [row for batch in kb.batches(["text", "number"]) for row in batch.to_pylist()]
    assert [row["text"] for row in rows] == texts(kb)


def test_delete(kb: KnowledgeBase) -> None:
    kb.add([FRANCE, KOREA, Document("e", "", "")])
    with pytest.raises(DataError, match="no document 'nobody' to delete"):
        kb.delete(["fr", "nobody"])
    assert len(kb) == 3
    before = kb.version
    assert kb.delete(["fr", "e", "fr"]).deleted == 2
    assert kb.version == before + 1
    assert [document.id for document in kb.documents()] == ["kr"]
    assert kb.get("fr") is None and "fr" not in kb
    assert kb.num_passages() == 2
    with pytest.raises(DataError, match="'fr'"):
        kb.delete("fr")
    with pytest.raises(DataError, match="to update"):
        kb.update(FRANCE)


def test_a_faulty_splitter_is_refused(tmp_path: Path) -> None:
    def shifted(documents: Sequence[Document]) -> list[list[Passage]]:
        return [[Passage(d.id, 0, d.title, d.text[:3], 1, 4, ())] for d in documents]

    kb = KnowledgeBase.create(tmp_path / "kb", split=shifted)
    with pytest.raises(DataError, match=r"expected text\[1:4\]"):
        kb.add([FRANCE])
    kb = KnowledgeBase.open(kb.path, split=lambda documents: [])
    with pytest.raises(DataError, match="expected one each"):
        kb.add([FRANCE])
    assert len(kb) == 0


def test_overlapping_passages_give_the_document_back(tmp_path: Path) -> None:
    def windows(documents: Sequence[Document]) -> list[list[Passage]]:
        spans = [range(0, max(1, len(d.text)), 3) for d in documents]
        return [
            [
                Passage(d.id, n, d.title, d.text[a : a + 5], a, a + len(d.text[a : a + 5]), ())
                for n, a in enumerate(span)
            ]
            for d, span in zip(documents, spans, strict=True)
        ]

    kb = KnowledgeBase.create(tmp_path / "kb", split=windows)
    kb.add([FRANCE])
    assert kb.get("fr") == FRANCE


def test_text_that_is_not_unicode_is_refused(kb: KnowledgeBase) -> None:
    with pytest.raises(DataError, match="document 'bad': text is not valid Unicode"):
        kb.add([FRANCE, Document("bad", "", "half a pair \ud800.")])
    assert len(kb) == 0


# ---------------------------------------------------------------- the past


def test_history_and_versions(kb: KnowledgeBase) -> None:
    kb.add([FRANCE, KOREA])
    added = kb.version
    changed = Document("kr", "Korea", "Busan.")
    kb.update(changed)
    updated = kb.version
    kb.delete("kr")
    deleted = kb.version
    kb.add([Document("kr", "Korea again", "Incheon. Daegu.")])
    assert [(r.version, r.revision, r.change, r.num_passages, r.title) for r in kb.history("kr")] == [
        (added, 1, "added", 2, "Korea"),
        (updated, 2, "updated", 1, "Korea"),
        (deleted, 3, "deleted", 0, ""),
        (kb.version, 4, "added", 2, "Korea again"),
    ]
    times = [revision.time for revision in kb.history("kr")]
    assert times == sorted(times)
    assert [revision.version for revision in kb.history("fr")] == [added]
    assert kb.at(added).get("kr") == KOREA
    assert kb.at(updated).get("kr") == changed
    assert kb.at(deleted).get("kr") is None and len(kb.at(deleted)) == 1
    assert [v.version for v in kb.versions()] == list(range(1, kb.version + 1))
    assert [v.version for v in kb.at(updated).versions()] == list(range(1, updated + 1))
    kb.compact()
    assert kb.at(added).get("kr") == KOREA and len(kb.history("kr")) == 4
    last = kb.revision("kr")
    assert last is not None and last.revision == 4
    assert kb.content_version == last.version < kb.version


def test_a_reader_sees_the_next_version_and_a_pinned_one_does_not(kb: KnowledgeBase) -> None:
    kb.add([KOREA])
    reader = KnowledgeBase.open(kb.path)
    pinned = KnowledgeBase.open(kb.path, as_of=kb.version)
    assert len(reader) == 1
    kb.add([FRANCE])
    assert len(reader) == 2 and reader.get("fr") == FRANCE and reader.version == kb.version
    assert len(pinned) == 1 and pinned.get("fr") is None and pinned.search_text("Paris") == []
    for write in (lambda: pinned.add([FRANCE]), lambda: pinned.delete("kr"), pinned.compact):
        with pytest.raises(UsageError, match="as of version"):
            write()
    with pytest.raises(KnowledgeBaseError, match="has no version 999"):
        kb.at(999)


def test_a_scan_stands_on_one_version(kb: KnowledgeBase) -> None:
    kb.add([KOREA, FRANCE])
    scan = kb.documents()
    assert next(scan) == KOREA
    kb.delete("fr")
    assert next(scan) == FRANCE


# ---------------------------------------------------------------- predicates


def test_predicates(kb: KnowledgeBase) -> None:
    kb.add([FRANCE, KOREA])
    assert kb.num_passages("source = 'atlas'") == 2
    assert kb.num_passages("date >= date '2024-01-01' and source != 'news'") == 2
    assert kb.num_passages("date < date '2024-01-01'") == 2
    assert kb.num_passages("population > 60 and continent like 'Eu%' and member") == 2
    assert kb.num_passages("population is null") == 2
    assert texts(kb, "number = 0") == ["Paris is the capital", "Seoul is the capital"]
    assert texts(kb, "lang = 'en' or title = 'nobody'") == texts(kb, "document_id = 'fr'")
    assert kb.num_passages("source = 'a -- comment'") == 0
    assert list(kb.documents("source = 'news'")) == [KOREA]
    assert list(kb.documents("member")) == [FRANCE]
    assert kb.columns()["population"] == "int64" and "gap" not in kb.columns()


@pytest.mark.parametrize(
    "where", ["peple > 3", "source =", "source", "1 = 1) or (1 = 1", "source = 'x", "nothing(source)"]
)
def test_a_bad_predicate_is_one_line_that_names_the_columns(kb: KnowledgeBase, where: str) -> None:
    kb.add([FRANCE, KOREA])
    for ask in (kb.num_passages, lambda w: kb.search_text("x", 3, w), lambda w: list(kb.documents(w))):
        with pytest.raises(UsageError, match="population, area, continent, member") as caught:
            ask(where)
        assert "\n" not in str(caught.value) and "source, date, lang, url" in str(caught.value)


def test_metadata_that_does_not_fit_is_refused_before_anything_is_written(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    before = kb.version
    for metadata, message in [
        ({"population": "many"}, "the column holds int64"),
        ({"population": 1.5}, "the column holds int64"),
        ({"member": 1}, "the column holds bool"),
        ({"two words": 1}, "can't name a column"),
        ({"Population": 1}, "same column as 'population'"),
        ({"text": "x"}, "same column as 'text'"),
        ({"vector_x": 1}, "begins with"),
        ({"fine": [1]}, "is a list"),
        ({"huge": 1 << 70}, "huge"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            kb.add([KOREA, Document("bad", "", "x.", metadata=metadata)])  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert kb.version == before and len(kb) == 1


def test_an_int_goes_into_a_float_column(kb: KnowledgeBase) -> None:
    kb.add([Document("a", "", "x.", metadata={"n": 1}), Document("b", "", "x.", metadata={"n": 1.5})])
    kb.add([Document("c", "", "x.", metadata={"n": 2})])
    assert [document.metadata["n"] for document in kb.documents("n >= 1.5")] == [1.5, 2.0]
    assert kb.upsert([Document("c", "", "x.", metadata={"n": 2})]).unchanged == 1


# ---------------------------------------------------------------- search


def test_text_search_sees_edits_at_once(kb: KnowledgeBase) -> None:
    kb.add([FRANCE, KOREA])
    best = kb.search_text("which river flows in Korea", k=1)[0]
    assert best.passage.text == "The Han flows there"
    assert (best.source, best.date, best.document_version) == ("news", date(2023, 1, 1), kb.version)
    kb.update(Document("kr", "Korea", "Zebras live there."))
    assert [match.passage.text for match in kb.search_text("zebras")] == ["Zebras live there"]
    assert kb.search_text("Han") == []
    kb.compact()
    assert [match.passage.text for match in kb.search_text("zebras")] == ["Zebras live there"]
    kb.delete("kr")
    assert kb.search_text("zebras") == []


def test_text_search_takes_any_query(kb: KnowledgeBase) -> None:
    kb.add([FRANCE, KOREA])
    assert kb.search_text("") == [] and kb.search_text(" \0 ") == []
    assert {match.passage.document_id for match in kb.search_text("capital", k=100)} == {"fr", "kr"}
    assert len(kb.search_text("capital", k=100, where="source = 'news'")) == 1
    assert kb.search_text('(AND "capital:* OR -', k=1)[0].passage.text.endswith("is the capital")
    words = " ".join(f"w{i}" for i in range(10_000))
    assert kb.search_text(f"{words} seine", k=1)[0].passage.text == "The Seine flows there"
    scores = [match.score for match in kb.search_text("the capital Paris", k=10)]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(UsageError, match="k=0"):
        kb.search_text("x", k=0)


# ---------------------------------------------------------------- vectors


def test_vectors_stay_with_their_text(kb: KnowledgeBase) -> None:
    kb.add([Document("d", "t", "one. two. three.")])
    encode = Counting()
    encoder = PassageEncoder("e1", encode)
    assert kb.embed_missing(encoder) == 3 and kb.encoders() == {"e1": 2}
    assert kb.embed_missing(encoder) == 0
    encode.asked.clear()
    before = kb.version
    kb.update(Document("d", "t", "zero. one. three. two."), encoder=encoder)
    assert encode.asked == ["zero"] and kb.version == before + 1
    assert kb.embed_missing(encoder) == 0
    kb.update(Document("d", "t", "one. four."))
    assert kb.embed_missing(encoder) == 1
    assert encode.asked == ["zero", "four"]
    kb.update(Document("d", "another title", "one. four."))
    assert kb.embed_missing(encoder) == 2, "the title is part of what an encoder sees"
    vector = np.array([1.0, 0.0])
    assert [(m.passage.text, m.score) for m in kb.search_vectors(vector)] == [("four", 4.0), ("one", 3.0)]
    assert [m.score for m in kb.at(before).search_vectors(vector)] == [5.0, 3.0, 3.0]


def test_vectors_can_come_with_the_text(kb: KnowledgeBase) -> None:
    encode = Counting()
    kb.upsert([FRANCE, KOREA, Document("copy", "France", "Paris is the capital.")], encoder=PassageEncoder("e", encode))
    assert sorted(encode.asked) == sorted(set(texts(kb))), "equal passages are encoded once"
    best = kb.search_vectors(np.array([1.0, 0.0]), k=2, where="source = 'news'")
    assert [m.passage.document_id for m in best] == ["kr", "kr"] and best[0].score == 20.0
    assert len(kb.search_vectors(np.array([0.0, 1.0]), k=50)) == 5


def test_stored_vectors_and_those_that_are_missing(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    assert kb.stored_vectors("e") == {}
    kb.embed_missing(PassageEncoder("e", Counting()))
    kb.add([KOREA])
    stored = kb.stored_vectors("e")
    assert {key: vector.tolist() for key, vector in stored.items()} == {
        p.text_hash: [float(len(p.text)), 1.0] for p in kb.passages("document_id = 'fr'")
    }
    one, *_ = stored
    assert {key: vector.tolist() for key, vector in kb.stored_vectors("e", [one, "?"]).items()} == {
        one: stored[one].tolist()
    }
    assert kb.stored_vectors("e", []) == {}
    addresses, hashes = kb.unembedded("e")
    (found,) = kb.at(kb.version).matches_at(addresses[None], np.zeros((1, len(addresses))))
    assert [match.passage.text_hash for match in found] == hashes
    assert {match.passage.document_id for match in found} == {"kr"}
    assert len(kb.unembedded("e", "number = 0")[1]) == 1 and len(kb.unembedded("f")[1]) == 4


def test_embedded_vectors_lead_to_their_passages(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    kb.embed_missing(PassageEncoder("e", Counting()))
    kb.add([KOREA])  # has no vectors yet
    now = kb.at(kb.version)
    parts = list(now.embedded("e"))
    address_N, vector_ND = (np.concatenate(column) for column in zip(*parts, strict=True))
    found = now.matches_at(address_N[None], np.arange(len(address_N), dtype=np.float32)[None])[0]
    assert {m.passage.id for m in found} == {p.id for p in now.passages("document_id = 'fr'")}
    assert [[float(len(m.passage.text)), 1.0] for m in found] == vector_ND.tolist()
    assert [m.score for m in found] == list(range(len(found)))
    assert now.matches_at(np.zeros((2, 0), np.uint64), np.zeros((2, 0))) == [[], []]


def test_after_embedding_the_text_index_holds_all_passages(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    kb.add([FRANCE, KOREA])
    kb.compact()
    monkeypatch.setattr(housekeeping, "UNINDEXED", 0)
    kb.embed_missing(PassageEncoder("e", Counting()))
    for name in ("text_idx", "title_idx", "document_id_idx"):
        stats = kb._store.table.index_stats(name)
        assert stats is not None and stats.num_unindexed_rows == 0
    assert kb.search_text("capital", k=1)[0].passage.text.endswith("capital")


def test_two_encoders_live_side_by_side(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    kb.embed_missing(PassageEncoder("old", Counting()))
    kb.embed_missing(PassageEncoder("new", lambda passages: np.ones((len(passages), 3))))
    assert kb.encoders() == {"old": 2, "new": 3}
    assert kb.search_vectors(np.ones(3), k=1, encoder="new")[0].score == 3.0
    with pytest.raises(UsageError, match="old, new"):
        kb.search_vectors(np.ones(3))
    kb.forget_encoder("old")
    assert kb.encoders() == {"new": 3}
    kb.update(Document("fr", "France", "Paris is the capital. Lyon."))
    assert [m.passage.text for m in kb.search_vectors(np.ones(3))] == ["Paris is the capital"]
    with pytest.raises(UsageError, match="no vectors of encoder old"):
        kb.search_vectors(np.ones(2), encoder="old")
    with pytest.raises(UsageError, match=r"shape \(2,\)"):
        kb.search_vectors(np.ones(2))


def test_faulty_encoders_are_refused(kb: KnowledgeBase) -> None:
    kb.add([FRANCE])
    before = kb.version
    for encode, message in [
        (lambda passages: np.ones((1, 2)), "gave shape"),
        (lambda passages: np.full((len(passages), 2), np.nan), "not finite"),
    ]:
        with pytest.raises(DataError, match=message):
            kb.embed_missing(PassageEncoder("e", encode))
    assert kb.version == before and kb.encoders() == {}
    kb.embed_missing(PassageEncoder("e", Counting()))
    kb.add([KOREA])
    with pytest.raises(MismatchError, match="size 3"):
        kb.embed_missing(PassageEncoder("e", lambda passages: np.ones((len(passages), 3))))
    with pytest.raises(UsageError, match="letters"):
        PassageEncoder("a b", Counting())


def test_embedding_goes_on_where_it_stopped(kb: KnowledgeBase) -> None:
    kb.add([Document(f"d{i}", "", f"text {i}.") for i in range(10)])
    encode = Counting()

    def breaks(passages: Sequence[Passage]) -> np.ndarray:
        if len(encode.asked) >= 6:
            raise RuntimeError("out of memory")
        return encode(passages)

    with pytest.raises(RuntimeError, match="out of memory"):
        kb.embed_missing(PassageEncoder("e", breaks), batch=2, commit_every=4)
    assert len(kb.search_vectors(np.array([0.0, 1.0]), k=50)) == 4
    shown: list[tuple[int, int | None]] = []
    done = kb.embed_missing(PassageEncoder("e", encode), batch=4, progress=lambda d, t: shown.append((d, t)))
    assert done == 6 and shown == [(4, 6), (6, 6)]
    assert len(kb.search_vectors(np.array([0.0, 1.0]), k=50)) == 10


def test_a_passage_edited_while_it_is_encoded_gets_no_stale_vector(kb: KnowledgeBase) -> None:
    kb.add([Document("d", "", "short."), Document("e", "", "other.")])
    encode = Counting()

    def edits(passages: Sequence[Passage]) -> np.ndarray:
        if "much longer" not in " ".join(encode.asked) and kb.get("d") == Document("d", "", "short."):
            kb.update(Document("d", "", "much longer."))
        return encode(passages)

    kb.embed_missing(PassageEncoder("e", edits))
    found = {m.passage.text: m.score for m in kb.search_vectors(np.array([1.0, 0.0]), k=9)}
    assert found == {"much longer": 11.0, "other": 5.0}


def test_many_small_edits_are_merged_and_the_past_stays(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    kb.add([FRANCE])
    monkeypatch.setattr(housekeeping, "MANY_FRAGMENTS", 3)
    for number in range(6):
        kb.upsert([Document("d", "", f"text {number}.")])
    assert kb._store.table.stats()["fragment_stats"]["num_fragments"] <= 4
    assert [kb.at(r.version).get("d") for r in kb.history("d")] == [Document("d", "", f"text {n}.") for n in range(6)]
    assert list(kb.documents()) == [FRANCE, Document("d", "", "text 5.")]


# ---------------------------------------------------------------- any sequence of edits

IDS = st.sampled_from(["a", "b'", "ü"])
TEXTS = st.text(alphabet="xyz. \n😀'", max_size=12)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(IDS, TEXTS), min_size=1, max_size=2, unique_by=lambda p: p[0])),
        st.tuples(st.just("delete"), IDS),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=7,
)


@settings(max_examples=12)
@given(EDITS)
def test_any_sequence_of_edits_is_a_dict_with_a_memory(edits: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kb = KnowledgeBase.create(Path(folder) / "kb", split=dots.split)
        now: dict[str, Document] = {}
        past: dict[int, dict[str, Document]] = {}
        changes: dict[str, list[str]] = {}
        for action, what in edits:
            if action == "put":
                documents = [Document(name, "", text) for name, text in what]  # type: ignore[attr-defined]
                kb.upsert(documents)
                for document in documents:
                    if now.get(document.id) != document:
                        changes.setdefault(document.id, []).append("updated" if document.id in now else "added")
                    now[document.id] = document
            elif action == "delete":
                if what in now:
                    kb.delete(str(what))
                    del now[str(what)]
                    changes[str(what)].append("deleted")
                else:
                    with pytest.raises(DataError):
                        kb.delete(str(what))
            else:
                kb.compact()
            past[kb.version] = dict(now)
        assert {document.id: document for document in kb.documents()} == now
        assert len(kb) == len(now)
        expected = [p for document in kb.documents() for p in dots.split([document])[0]]
        assert list(kb.passages()) == expected
        for version, then in past.items():
            assert {document.id: document for document in kb.at(version).documents()} == then
        for name, happened in changes.items():
            revisions = kb.history(name)
            assert [revision.change for revision in revisions] == happened
            assert [revision.revision for revision in revisions] == list(range(1, len(happened) + 1))
