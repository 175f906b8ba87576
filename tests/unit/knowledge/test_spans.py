"""Salient spans: what is found, what is kept, and that an interrupted search loses nothing."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import ArtefactError, MismatchError, MissingLibraryError, UnavailableError, UsageError
from realm.files import fingerprint
from realm.knowledge.text import spans as module
from realm.knowledge.text import taggers
from realm.knowledge.text.spans import SpanTable, find_spans
from realm.knowledge.text.taggers import capitalised, dates, load_tagger, pattern_tagger, resolve, tag_texts, trim


class Texts:
    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.fingerprint = fingerprint(*texts)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, row: int) -> str:
        return self._texts[row]


def found(text: str, spans: list[taggers.Span]) -> list[str]:
    return [text[start:end] for start, end, _ in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("On July 20, 1969 they landed.", ["July 20, 1969"]),
        ("Signed 4 July 1776 and 4th of July, 1777.", ["4 July 1776", "4th of July, 1777"]),
        ("From July 1969 to Sept. 3rd.", ["July 1969", "Sept. 3rd"]),
        ("It ran 3-5 May 1990, then again.", ["3-5 May 1990"]),
        ("Born 1969-07-20, died 2001/09/11.", ["1969-07-20", "2001/09/11"]),
        ("In 1914–18 and the 1960s, not in 1999.", ["1914–18", "1960s", "1999"]),
        ("Caesar died in 44 BC.", ["44 BC"]),
        ("A 19th century poem.", ["19th century"]),
        ("It costs $1999 or 1,999 or 1999.5 or 1999% of 12019; she may 5 march.", []),
        ("1969년 7월 20일에 3년 동안, 기원전 37년과 1960년대.", ["1969년 7월 20일", "기원전 37년", "1960년대"]),
        ("昭和44年、1969年7月20日に。10年間。", ["昭和44年", "1969年7月20日"]),
        ("一九六九年七月二十日，公元前221年。", ["一九六九年七月二十日", "公元前221年"]),
        ("no date here", []),
    ],
)
def test_dates_are_found_whole(text: str, expected: list[str]) -> None:
    assert found(text, dates(text)) == expected
    assert all(label == "DATE" for _, _, label in dates(text))


def test_capitalised_runs_are_names() -> None:
    text = "The painter Vincent van Gogh saw Apollo 11. Cats met the Bank of England. In Paris, Paris slept."
    assert found(text, capitalised(text)) == ["Vincent van Gogh", "Apollo 11", "Bank of England", "Paris", "Paris"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" the United Kingdom's ", "United Kingdom"),
        ("“Guernica”,", "Guernica"),
        ("A Tale of Two Cities", "Tale of Two Cities"),
        ("The", "The"),
        ("(Paris", "Paris"),
        ("Paris (Texas)", "Paris (Texas)"),
        ("James’s", "James"),
        ("— ' —", None),
    ],
)
def test_trim_leaves_the_name(text: str, expected: str | None) -> None:
    span = trim(text, (0, len(text), "X"))
    assert (text[span[0] : span[1]] if span else None) == expected


def test_articles_of_other_languages_stay() -> None:
    assert trim("A Coruña", (0, 8, "LOC"), english=False) == (0, 8, "LOC")


intervals = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1], "X"))


@given(st.lists(intervals, max_size=12))
def test_resolve_keeps_the_longer_of_two_that_overlap(spans: list[taggers.Span]) -> None:
    kept = resolve(spans)
    assert kept == sorted(kept) and set(kept) <= set(spans)
    assert all(a[1] <= b[0] for a, b in pairwise(kept))
    for start, end, _ in set(spans) - set(kept):
        assert any(a < end and start < b and b - a >= end - start for a, b, _ in kept)


awkward = st.lists(st.sampled_from([*"Aa1 .’(-\n\x00년月9", "😀", "\ud800", "ש", "The ", "July 4, 1969"])).map("".join)


@given(st.lists(awkward, max_size=4))
def test_any_text_gives_clean_spans_inside_it(texts: list[str]) -> None:
    for text, spans in zip(texts, tag_texts(pattern_tagger(), texts), strict=True):
        last = 0
        for start, end, _ in spans:
            assert last <= start < end <= len(text)
            assert text[start:end] == text[start:end].strip()
            last = end


def test_a_long_text_is_tagged_in_parts_with_the_same_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "we saw Paris and then nothing " * 20
    whole = list(tag_texts(pattern_tagger(), [text]))
    monkeypatch.setattr(taggers, "MAX_CHARACTERS", 70)
    assert list(tag_texts(pattern_tagger(), [text])) == whole
    assert len(whole[0]) == 20


# ---------------------------------------------------------------- the table

TEXTS = tuple(f"we met Person{n} in Paris on 4 July {1900 + n}" if n % 7 else "nothing here" for n in range(35))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 10)


def as_lists(table: SpanTable) -> list[list[list[int]]]:
    return [table.spans(row).tolist() for row in range(len(table))]


def test_the_table_holds_what_the_tagger_found(tmp_path: Path, small_shards: None) -> None:
    snapshot, calls = Texts(*TEXTS), []
    table = find_spans(
        snapshot, tmp_path / "spans", pipeline="pattern", progress=lambda done, total: calls.append((done, total))
    )
    expected = list(tag_texts(pattern_tagger(), TEXTS))
    for row, spans in enumerate(expected):
        assert table.spans(row).dtype == np.int32 and table.spans(row).shape == (len(spans), 2)
        assert [tuple(span) for span in table.spans(row)] == [span[:2] for span in spans]
        assert table.labels(row) == [span[2] for span in spans]
    assert table.counts().tolist() == [len(spans) for spans in expected]
    assert calls == [(0, 35), (10, 35), (20, 35), (30, 35), (35, 35)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["spans"]
    assert as_lists(SpanTable.open(tmp_path / "spans", snapshot)) == as_lists(table)


def test_a_corpus_without_spans_or_rows(tmp_path: Path) -> None:
    assert find_spans(Texts("nothing", ""), tmp_path / "a", pipeline="pattern").spans(1).shape == (0, 2)
    assert len(find_spans(Texts(), tmp_path / "b", pipeline="pattern")) == 0


def test_labels_and_dates_can_be_left_out(tmp_path: Path) -> None:
    text = "we met Ann in 1999"
    names = find_spans(Texts(text), tmp_path / "a", pipeline="pattern", dates=False)
    both = find_spans(Texts(text), tmp_path / "a", pipeline="pattern")  # other settings: made again
    only_dates = find_spans(Texts(text), tmp_path / "c", pipeline="pattern", drop_labels=["NAME"])
    assert (names.labels(0), both.labels(0), only_dates.labels(0)) == (["NAME"], ["NAME", "DATE"], ["DATE"])


def test_an_interrupted_search_goes_on(tmp_path: Path, small_shards: None) -> None:
    snapshot = Texts(*TEXTS)

    def interrupt(done: int, total: int | None) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_spans(snapshot, tmp_path / "spans", pipeline="pattern", progress=interrupt)
    with pytest.raises(ArtefactError):
        SpanTable.open(tmp_path / "spans")
    # One of the two finished shards was torn by something else: it alone is made again.
    shard = next(tmp_path.glob(".spans.parts-*/0000000000-*"))
    shard.write_text(shard.read_text()[:20])
    calls: list[int] = []
    table = find_spans(snapshot, tmp_path / "spans", pipeline="pattern", progress=lambda done, _: calls.append(done))
    assert calls[0] == 10
    assert as_lists(table) == as_lists(find_spans(snapshot, tmp_path / "other", pipeline="pattern"))


def test_a_finished_table_is_opened_not_made_again(tmp_path: Path) -> None:
    snapshot = Texts(*TEXTS)
    find_spans(snapshot, tmp_path / "spans", pipeline="pattern")
    calls: list[int] = []
    find_spans(snapshot, tmp_path / "spans", pipeline="pattern", progress=lambda done, _: calls.append(done))
    assert calls == []


def test_spans_of_another_snapshot_are_refused(tmp_path: Path) -> None:
    mine, other = Texts("we met Ann"), Texts("we met Bob")
    find_spans(mine, tmp_path / "spans", pipeline="pattern")
    with pytest.raises(MismatchError, match=f"{mine.fingerprint}.*{other.fingerprint}"):
        SpanTable.open(tmp_path / "spans", other)


@pytest.mark.parametrize("name", ["spans.npy", "labels.npy", "offsets.npy"])
def test_a_torn_table_is_refused(tmp_path: Path, name: str) -> None:
    find_spans(Texts(*TEXTS), tmp_path / "spans", pipeline="pattern")
    file = tmp_path / "spans" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ArtefactError, match="find the spans again"):
        SpanTable.open(tmp_path / "spans")


# ---------------------------------------------------------------- workers


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    processes: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def recorded(*arguments: Any, **settings: Any) -> subprocess.Popen[str]:
        processes.append(start(*arguments, **settings))
        return processes[-1]

    monkeypatch.setattr(module.subprocess, "Popen", recorded)
    return processes


def test_workers_find_what_one_process_finds(
    tmp_path: Path, small_shards: None, started: list[subprocess.Popen[str]]
) -> None:
    snapshot = Texts(*TEXTS[:-1], "a lone \ud800 surrogate and Zoë 😀 here")
    table = find_spans(snapshot, tmp_path / "two", pipeline="pattern", processes=2)
    assert len(started) == 2 and all(process.poll() is not None for process in started)
    assert as_lists(table) == as_lists(find_spans(snapshot, tmp_path / "one", pipeline="pattern", processes=1))


def test_an_interrupt_ends_the_workers_and_a_dead_worker_is_an_error(
    tmp_path: Path, small_shards: None, started: list[subprocess.Popen[str]]
) -> None:
    snapshot = Texts(*TEXTS)

    def kill(done: int, total: int | None) -> None:
        if done >= 10:
            for process in started:
                process.kill()

    with pytest.raises(ArtefactError, match=r"worker.*died"):
        find_spans(snapshot, tmp_path / "spans", pipeline="pattern", processes=2, progress=kill)

    def interrupt(done: int, total: int | None) -> None:
        if len(started) > 2 and done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_spans(snapshot, tmp_path / "spans", pipeline="pattern", processes=2, progress=interrupt)
    assert all(process.poll() is not None for process in started)
    assert len(as_lists(find_spans(snapshot, tmp_path / "spans", pipeline="pattern"))) == len(TEXTS)


def test_impossible_number_of_processes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="processes=0"):
        find_spans(Texts("x"), tmp_path / "spans", pipeline="pattern", processes=0)


# ---------------------------------------------------------------- spaCy


@pytest.fixture(scope="module")
def ruler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pipeline that finds two names and an amount, with a component that is not needed."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    rules = {"PERSON": "Ada Lovelace", "GPE": "the United Kingdom", "MONEY": "ten pounds", "DATE": "today"}
    nlp.add_pipe("entity_ruler").add_patterns([{"label": label, "pattern": text} for label, text in rules.items()])
    folder = tmp_path_factory.mktemp("pipelines") / "ruler"
    nlp.to_disk(folder)
    return folder


def test_a_pipeline_finds_entities_and_the_pattern_adds_dates(tmp_path: Path, ruler: Path) -> None:
    text = "Ada Lovelace left the United Kingdom with ten pounds on 3 May 1840, or today."
    table = find_spans(Texts(text), tmp_path / "spans", pipeline=str(ruler))
    assert [text[a:b] for a, b in table.spans(0)] == ["Ada Lovelace", "United Kingdom", "3 May 1840"]
    assert table.labels(0) == ["PERSON", "GPE", "DATE"]
    everything = find_spans(Texts(text), tmp_path / "all", pipeline=str(ruler), drop_labels=())
    assert "MONEY" in everything.labels(0)
    assert table.manifest["pipeline"] == {"name": str(ruler), "version": "en_pipeline 0.0.0"}


def test_a_pipeline_without_entities_is_refused_here_and_in_workers(tmp_path: Path, small_shards: None) -> None:
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "blank")
    for processes in (1, 2):
        with pytest.raises(UsageError, match=r"finds no entities.*sentencizer"):
            find_spans(Texts(*TEXTS), tmp_path / "s", pipeline=str(tmp_path / "blank"), processes=processes)


def test_what_is_missing_is_said_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spacy")
    with pytest.raises(UnavailableError, match="python -m spacy download xx_none_sm"):
        find_spans(Texts("x"), tmp_path / "s", pipeline="xx_none_sm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnavailableError, match=r"meta\.json"):
        find_spans(Texts("x"), tmp_path / "s", pipeline=str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingLibraryError, match="pip install"):
        find_spans(Texts("x"), tmp_path / "s")


def test_only_what_entities_need_runs_and_finds_the_same() -> None:
    spacy = pytest.importorskip("spacy")
    try:
        name, _ = taggers.find_tagger("en_core_web_sm")
    except UnavailableError:
        pytest.skip("the English small pipeline is not installed")
    text = "Pablo Picasso painted Guernica in Paris in 1937. Marie Curie was born in Warsaw."
    whole = [(ent.start_char, ent.end_char, ent.label_) for ent in spacy.load(name)(text).ents]
    assert list(load_tagger("en_core_web_sm").tag([text])) == [whole]
    assert "Warsaw" in found(text, whole)
