"""Batches: functions of the step alone, the same for one rank and for two, and honest about what they leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer
from unit.training.standin import Corpus, Table

from realm.errors import ArtefactError, DataError, MismatchError, UsageError
from realm.training.batches import MaskedSentences
from realm.training.pairs import InverseCloze
from realm.training.probe import Probe, held_out_rows, with_copies
from realm.types import NO_ROW, Tokens

CITIES = ["paris", "seoul", "vienna", "budapest", "belgrade", "warsaw", "madrid", "lisbon", "oslo", "rome", "athens"]
TEXTS = [f"The painter lived in {city}. He was born in 19{n:02d}. It rained." for n, city in enumerate(CITIES)]
NAMES = [[city, f"19{n:02d}"] for n, city in enumerate(CITIES)]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    # Two passages a document; the last text stands twice.
    texts = [*TEXTS, TEXTS[-1]]
    return Corpus(texts, documents=[f"d{row // 2}" for row in range(len(texts))])


@pytest.fixture(scope="module")
def table(corpus: Corpus) -> Table:
    return Table(corpus, [*NAMES, NAMES[-1]])


def texts_of(tokens: Tokens) -> list[list[int]]:
    return [ids[:length].tolist() for ids, length in zip(tokens.ids, tokens.lengths.tolist(), strict=True)]


def facts(batch: Any) -> list[Any]:
    """A batch as plain values, without what padding adds."""
    rows = [sorted(set(row) - {NO_ROW}) for row in batch.exclude_rows.tolist()]
    target = batch.target
    masked = [
        list(zip(ids[mask].tolist(), places[mask].tolist(), strict=True))
        for ids, places, mask in zip(target.ids, target.positions, target.mask, strict=True)
    ]
    return list(zip(texts_of(batch.query), masked, batch.source_rows.tolist(), rows, strict=True))


@pytest.mark.parametrize("strategy", ["salient", "random-token", "random-span", "function-word"])
def test_a_batch_depends_on_its_step_alone(corpus: Corpus, table: Table, strategy: str) -> None:
    settings: dict[str, Any] = {"strategy": strategy, "batch_size": 4, "seed": 3}
    straight = MaskedSentences(corpus, table, **settings)
    run = [facts(straight.batch(step)) for step in range(8)]
    resumed = MaskedSentences(corpus, table, **settings)
    assert facts(resumed.batch(5)) == run[5]
    assert facts(straight.batch(2)) == run[2]
    assert facts(MaskedSentences(corpus, table, **{**settings, "seed": 4}).batch(0)) != run[0]
    assert run[0] != run[3]  # the same place of the next epoch


def test_two_ranks_together_get_what_one_gets(corpus: Corpus, table: Table) -> None:
    one = MaskedSentences(corpus, table, batch_size=6)
    two = [MaskedSentences(corpus, table, batch_size=6, rank=rank, world_size=2) for rank in (0, 1)]
    pairs = [
        InverseCloze(corpus, batch_size=6, rank=rank, world_size=world) for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    for step in (0, 1, 7):
        assert facts(one.batch(step)) == [*facts(two[0].batch(step)), *facts(two[1].batch(step))]
        whole, first, second = (batches.batch(step) for batches in pairs)
        assert texts_of(whole.query) == texts_of(first.query) + texts_of(second.query)
        assert texts_of(whole.passage) == texts_of(first.passage) + texts_of(second.passage)


def test_an_epoch_has_every_usable_row_once_and_never_a_held_out_one(corpus: Corpus, table: Table) -> None:
    batches = MaskedSentences(corpus, table, batch_size=2, held_out=np.array([0, 5]))
    assert batches.steps_per_epoch == 5
    epochs = [
        [row for step in range(5 * epoch, 5 * epoch + 5) for row in batches.batch(step).source_rows.tolist()]
        for epoch in (0, 1)
    ]
    for rows in epochs:
        assert sorted(rows) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert epochs[0] != epochs[1]
    assert batches.statistics()["rows_held_out"] == 2


def test_every_span_of_a_passage_is_drawn(corpus: Corpus, table: Table) -> None:
    batches = MaskedSentences(corpus, table, batch_size=1, held_out=np.arange(1, 12))
    drawn = {tuple(batches.batch(step).target.ids[0].tolist()) for step in range(40)}
    assert len(drawn) == 2


def test_a_batch_may_be_larger_than_the_corpus(corpus: Corpus, table: Table) -> None:
    batches = MaskedSentences(corpus, table, batch_size=30)
    assert sorted(np.bincount(batches.batch(0).source_rows.numpy()).tolist()) == [2] * 6 + [3] * 6


def test_the_source_is_excluded_as_asked(corpus: Corpus, table: Table) -> None:
    def excluded(**settings: Any) -> dict[int, list[int]]:
        batch = MaskedSentences(corpus, table, batch_size=12, **settings).batch(0)
        return {row: rest for _, _, row, rest in facts(batch)}

    assert excluded(duplicates=False)[10] == [10]
    assert excluded(duplicates=True)[10] == [10, 11]
    assert excluded(exclude="document")[2] == [2, 3]
    assert excluded(exclude="none")[10] == []
    assert excluded(same_corpus=False) == {NO_ROW: []}
    with pytest.raises(UsageError, match="none, passage, document"):
        excluded(exclude="article")


def test_a_masked_query_restored_is_the_sentence(corpus: Corpus, table: Table) -> None:
    batch = MaskedSentences(corpus, table, batch_size=12).batch(1)
    for example, row in enumerate(batch.source_rows.tolist()):
        query = batch.query.ids[example, : batch.query.lengths[example]].clone()
        assert (query[batch.target.positions[example][batch.target.mask[example]]] == corpus.mask_id).all()
        assert (batch.query.ids[example, batch.query.lengths[example] :] == corpus.pad_id).all()
        query[batch.target.positions[example][batch.target.mask[example]]] = batch.target.ids[example][
            batch.target.mask[example]
        ]
        body = corpus.body_ids(row).tolist()
        middle = query[1:-1].tolist()
        assert any(body[at : at + len(middle)] == middle for at in range(len(body)))


def test_nothing_usable_says_why(corpus: Corpus) -> None:
    nothing = Table(corpus, [[] for _ in range(len(corpus))])
    with pytest.raises(DataError, match="rows 12, rows_without_spans 12"):
        MaskedSentences(corpus, nothing, batch_size=2)
    with pytest.raises(DataError, match="spans_beyond_query 22"):
        MaskedSentences(corpus, Table(corpus, [*([n[0]] * 2 for n in NAMES), []]), batch_size=2, max_query_tokens=4)
    with pytest.raises(DataError, match="rows_held_out 12"):
        MaskedSentences(corpus, nothing, batch_size=2, held_out=np.arange(12))
    with pytest.raises(DataError, match="empty"):
        MaskedSentences(Corpus([]), None, strategy="random-token", batch_size=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"batch_size": 1, "world_size": 2},
        {"batch_size": 2, "rank": 1},
        {"batch_size": 2, "seed": -1},
        {"batch_size": 2, "max_targets": 0},
        {"batch_size": 2, "strategy": "entities"},
    ],
)
def test_impossible_settings_are_refused(corpus: Corpus, table: Table, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        MaskedSentences(corpus, table, **settings)


# ---------------------------------------------------------------- inverse cloze


def split(passage: list[int], sep: int) -> tuple[list[int], list[int]]:
    middle = passage.index(sep)
    return passage[1:middle], passage[middle + 1 : -1]


def test_the_sentence_is_taken_out_or_left_in(corpus: Corpus) -> None:
    batches = InverseCloze(corpus, batch_size=4, removal_probability=0.5)
    bodies = {tuple(corpus.body_ids(row).tolist()) for row in range(len(corpus))}
    seen = set()
    for step in range(60):
        batch = batches.batch(step)
        assert batch.removed is not None
        for query, passage, types, removed in zip(
            texts_of(batch.query), texts_of(batch.passage), batch.passage.types, batch.removed.tolist(), strict=True
        ):
            title, body = split(passage, corpus.sep_id)
            assert len(title) > 0 and types[: len(passage)].tolist() == [0] * (len(title) + 2) + [1] * (len(body) + 1)
            sentence = query[1:-1]
            places = range(len(body) + 1)
            if removed:
                assert any((*body[:at], *sentence, *body[at:]) in bodies for at in places)
            else:
                assert tuple(body) in bodies and any(body[at : at + len(sentence)] == sentence for at in places)
            seen.add((removed, tuple(sentence)))
    assert {removed for removed, _ in seen} == {True, False}
    assert len({sentence for _, sentence in seen}) == 2 * len(CITIES) + 1  # every sentence comes up


def test_removal_has_the_probability_asked_for_and_passages_of_one_sentence_keep_theirs() -> None:
    texts = [f"we saw number {n}. then it rained." for n in range(300)] + [f"only number {n}." for n in range(300)]
    corpus = Corpus(texts)
    batches = InverseCloze(corpus, batch_size=50, removal_probability=0.9)
    assert batches.steps_per_epoch == 6
    whole = {tuple(corpus.body_ids(row).tolist()) for row in range(300, 600)}
    single, removed = 0, []
    for step in range(4 * batches.steps_per_epoch):
        batch = batches.batch(step)
        assert batch.removed is not None and len(batch.query) == 50
        for passage, gone in zip(texts_of(batch.passage), batch.removed.tolist(), strict=True):
            alone = tuple(split(passage, corpus.sep_id)[1]) in whole
            assert not (alone and gone)
            single += alone
            removed += [] if alone else [gone]
    assert np.mean(removed) == pytest.approx(0.9, abs=0.03)
    assert single / len(removed) == pytest.approx(0.1, abs=0.04)


def test_no_passage_is_twice_in_an_epoch(corpus: Corpus) -> None:
    texts = [f"we saw {city}. it rained." for city in CITIES]
    batches = InverseCloze(Corpus(texts), batch_size=3, removal_probability=0.0)
    shown = [tuple(text) for step in range(batches.steps_per_epoch) for text in texts_of(batches.batch(step).passage)]
    assert len(shown) == len(set(shown)) == 9


def test_long_queries_titles_and_passages_are_cut() -> None:
    long = " ".join(CITIES * 3)
    corpus = Corpus([f"{long}. {long}. {long}."] * 4, titles=[long] * 4)
    batch = InverseCloze(corpus, batch_size=2, max_query_tokens=10, max_passage_tokens=40).batch(0)
    assert batch.query.lengths.tolist() == [10, 10]
    assert batch.passage.lengths.tolist() == [40, 40]
    for passage in texts_of(batch.passage):
        assert passage.count(corpus.sep_id) == 2 and passage[-1] == corpus.sep_id


def test_too_few_passages_say_so() -> None:
    with pytest.raises(DataError, match=r"1 passages of two or more sentences .of 3.*batch_size=2"):
        InverseCloze(Corpus(["one. two.", "one.", ""]), batch_size=2)
    batches = InverseCloze(Corpus(["one. two.", "one.", ""]), batch_size=2, removal_probability=0.0)
    assert batches.statistics()["rows_without_sentence"] == 1
    assert len(batches.batch(0).query) == 2


# ---------------------------------------------------------------- the probe


def test_a_copy_of_a_held_out_text_is_held_out_too(corpus: Corpus, table: Table) -> None:
    last = len(TEXTS) - 1
    rows = with_copies(corpus, np.array([2, last]))
    assert rows.tolist() == [2, last, last + 1]  # the last text stands twice
    assert with_copies(corpus, np.zeros(0, np.int64)).tolist() == []
    batches = MaskedSentences(corpus, table, batch_size=1, held_out=rows)
    assert not set(batches.rows.tolist()) & set(rows.tolist())


def test_documents_stay_held_out_when_others_come_and_go() -> None:
    texts = [f"text {n}" for n in range(1000)]
    documents = [f"d{n // 2}" for n in range(1000)]
    rows = held_out_rows(Corpus(texts, documents=documents), 0.2, seed=1)
    chosen = {documents[row] for row in rows}
    assert len(rows) == 2 * len(chosen) and len(chosen) == pytest.approx(100, abs=30)
    fewer = held_out_rows(Corpus(texts[300:], documents=documents[300:]), 0.2, seed=1)
    assert {documents[300:][row] for row in fewer} == chosen & set(documents[300:])
    assert len(held_out_rows(Corpus(texts), 0.0, 0)) == 0 and len(held_out_rows(Corpus(texts), 1.0, 0)) == 1000


def test_a_probe_is_the_same_every_time_and_survives_its_file(corpus: Corpus, table: Table, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rows": np.array([1, 4, 6, 7]), "size": 3, "seed": 2}
    probe = Probe.build(corpus, table, **settings)
    assert probe == Probe.build(corpus, table, **settings)
    assert len(probe) == 3 and {item.row for item in probe.items} <= {1, 4, 6, 7}
    for item in probe.items:
        assert item.sentence[slice(*item.span)] == item.answer
        assert item.answer in NAMES[item.row]
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json") == probe
    batches = list(probe.batches(corpus, 2))
    assert [len(batch.query) for batch in batches] == [2, 1]
    assert torch.cat([batch.source_rows for batch in batches]).tolist() == [item.row for item in probe.items]
    assert [facts(batch)[0][3] for batch in batches] == [[probe.items[0].row], [probe.items[2].row]]


def test_the_control_masks_a_function_word_of_the_same_sentence(corpus: Corpus, table: Table) -> None:
    probe = Probe.build(corpus, table, rows=np.arange(12), size=12, seed=0)
    control = probe.function_words(corpus, table)
    assert [item.sentence for item in control.items] == [item.sentence for item in probe.items]
    for item in control.items:
        assert item.sentence[slice(*item.span)] == item.answer
        assert item.answer.lower() in {"the", "in", "was"}
    assert len(next(control.batches(corpus, 12)).query) == 12


def test_a_probe_of_another_snapshot_or_no_probe_is_refused(corpus: Corpus, table: Table, tmp_path: Path) -> None:
    probe = Probe.build(corpus, table, rows=np.arange(12), size=2, seed=0)
    with pytest.raises(MismatchError, match=corpus.fingerprint):
        next(probe.batches(Corpus(["another"]), 2))
    (tmp_path / "probe.json").write_text('{"items": []}')
    with pytest.raises(ArtefactError, match="build the probe again"):
        Probe.load(tmp_path / "probe.json")
    with pytest.raises(DataError):
        Probe.build(corpus, table, rows=np.zeros(0, np.int64), size=2, seed=0)


# ---------------------------------------------------------------- the real snapshot


def test_on_a_real_snapshot_every_mask_is_its_text(tmp_path: Path) -> None:
    from realm.knowledge.base import KnowledgeBase
    from realm.knowledge.snapshot import Snapshot
    from realm.knowledge.text.passages import SentenceSplitter
    from realm.knowledge.text.spans import find_spans
    from realm.types import Document

    tokenizer = tiny_tokenizer([" ".join(TEXTS[::2])])
    splitter = SentenceSplitter(tokenizer, 24)
    base = KnowledgeBase.create(tmp_path / "kb", split=splitter, splitter=splitter.settings)
    base.add(Document(f"d{n}", f"Page {n}", text.title()) for n, text in enumerate(TEXTS))
    snapshot = Snapshot.build(base, tokenizer, tmp_path / "snapshot")
    spans = find_spans(snapshot, tmp_path / "spans", pipeline="pattern")
    batches = MaskedSentences(snapshot, spans, batch_size=4, exclude="document")
    for step in range(4):
        for place in range(4):
            row, masked = batches.example(step, place)
            assert list(masked.span) in spans.spans(row).tolist()
        batch = batches.batch(step)
        assert (batch.exclude_rows == batch.source_rows[:, None]).any(dim=1).all()
    pairs = InverseCloze(snapshot, batch_size=4, max_passage_tokens=24).batch(0)
    assert pairs.passage.lengths.max() <= 24
    probe = Probe.build(snapshot, spans, rows=held_out_rows(snapshot, 0.5, 0), size=5, seed=0)
    assert all(item.sentence[slice(*item.span)] == item.answer for item in probe.items)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_a_batch_is_shared_by_any_number_of_ranks(corpus: Corpus, table: Table, world: int) -> None:
    kinds: list[Any] = [
        lambda **ranks: MaskedSentences(corpus, table, batch_size=5, **ranks).batch(3),
        lambda **ranks: InverseCloze(corpus, batch_size=5, **ranks).batch(3),
    ]
    for kind in kinds:
        whole, parts = kind(), [kind(rank=rank, world_size=world) for rank in range(world)]
        sizes = [len(part.query.lengths) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == 5
        assert [text for part in parts for text in texts_of(part.query)] == texts_of(whole.query)


def test_an_example_s_own_seed_is_of_its_step_and_place(corpus: Corpus) -> None:
    whole, *ranks = (
        MaskedSentences(corpus, None, strategy="random-token", batch_size=4, rank=rank, world_size=world)
        for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    seeds = [whole.batch(step).seeds for step in range(20)]
    assert torch.equal(whole.batch(5).seeds, seeds[5])
    assert len(set(torch.cat(seeds).tolist())) == 80 and int(torch.cat(seeds).min()) >= 0
    assert torch.equal(torch.cat([rank.batch(3).seeds for rank in ranks]), seeds[3])
    other = MaskedSentences(corpus, None, strategy="random-token", batch_size=4, seed=1).batch(3)
    assert not torch.equal(other.seeds, seeds[3])


def test_a_curriculum_begins_with_short_sentences_and_ends_with_all() -> None:
    long = "Oslo " + "is a city of the north " * 4
    short = "Rome is old."
    corpus = Corpus([f"{long}. {short}"] * 8, documents=[f"d{row}" for row in range(8)])
    table = Table(corpus, [["Oslo", "Rome"]] * 8)
    batches = MaskedSentences(corpus, table, batch_size=8, curriculum_steps=4, exclude="none")
    lengths = [set(batches.batch(step).query.lengths.tolist()) for step in range(8)]
    assert len(lengths[0]) == 1 and max(lengths[0]) < 16  # the shortest there is
    assert max(max(each) for each in lengths[4:]) > 20
    assert any(len(each) == 2 for each in lengths[4:])
    plain = MaskedSentences(corpus, table, batch_size=8, exclude="none")
    assert facts(batches.batch(5)) == facts(plain.batch(5))


def test_a_passage_without_a_short_sentence_gives_its_shortest() -> None:
    corpus = Corpus(["Oslo " + "is a city of the north " * 4 + "."] * 2, documents=["a", "b"])
    batches = MaskedSentences(corpus, Table(corpus, [["Oslo"]] * 2), batch_size=2, curriculum_steps=9)
    assert min(batches.batch(0).query.lengths.tolist()) > 20
