"""Snapshots: every row's text and token ids are those of the knowledge base, and a damaged one is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from realm.errors import ArtefactError, DataError, MismatchError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.types import NO_ROW, Document, PassageSource

DOCUMENTS = [
    Document("guernica", "Guernica", "Guernica was painted by Pablo Picasso. It hangs in Madrid.", source="art"),
    Document("untitled", "", "The river Han runs through Seoul.", source="geo"),
    Document("blank", "Nothing", " "),
    Document("copy", "Other", "GUERNICA  was painted by Pablo Picasso. Café 😀 naïve.", source="art"),
    Document("rtl", "שלום עולם", "السلام عليكم. \0. zzzzzqqqq.", source="geo"),
    Document("signs", "A very long title of many words about Paris", "😀. " + "danube " * 40 + "."),
]
TEXTS = [(document, passage) for document in DOCUMENTS for passage in dots.split([document])[0]]  # the rows, in order


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("base") / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(DOCUMENTS)
    return kb


@pytest.fixture(scope="module")
def snapshot(kb: KnowledgeBase, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return Snapshot.build(kb, tokenizer, tmp_path_factory.mktemp("snapshot") / "s")


def rows(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.long)


# ---------------------------------------------------------------- one row


def test_rows_are_the_passages_in_order(kb: KnowledgeBase, snapshot: Snapshot) -> None:
    assert len(snapshot) == kb.num_passages() == len(TEXTS)
    assert [snapshot.passage(row) for row in range(len(snapshot))] == list(kb.passages())
    assert snapshot.text_hashes(np.arange(len(snapshot))) == [passage.text_hash for passage in kb.passages()]
    assert snapshot.num_documents == len(DOCUMENTS) - 1, "the blank one has no passages"
    assert snapshot.version == kb.version
    for row, (document, passage) in enumerate(TEXTS):
        assert (snapshot.text(row), snapshot.title(row)) == (passage.text, document.title)
        assert snapshot.document_id(row) == document.id
        assert snapshot.document_version(row) == kb.content_version
        assert [tuple(span) for span in snapshot.sentences(row)] == list(passage.sentences)


def test_token_ids_and_offsets_are_the_tokenizers(snapshot: Snapshot, tokenizer: Any) -> None:
    for row, (document, passage) in enumerate(TEXTS):
        encoded = tokenizer(passage.text, add_special_tokens=False, return_offsets_mapping=True)
        assert snapshot.body_ids(row).tolist() == encoded["input_ids"]
        assert [tuple(pair) for pair in snapshot.body_offsets(row)] == encoded["offset_mapping"]
        assert snapshot.title_ids(row).tolist() == tokenizer(document.title, add_special_tokens=False)["input_ids"]
    cafe = next(row for row in range(len(snapshot)) if snapshot.text(row).startswith("Café"))
    pieces = [snapshot.text(cafe)[a:b] for a, b in snapshot.body_offsets(cafe)]
    assert "".join(pieces) == "Café😀naïve", "offsets are characters of the text as it was written"


def test_the_null_passage(snapshot: Snapshot) -> None:
    assert (snapshot.text(NO_ROW), snapshot.title(NO_ROW), snapshot.document_id(NO_ROW)) == ("", "", "")
    assert snapshot.document_version(NO_ROW) is None
    assert snapshot.passage(NO_ROW).text == ""
    assert len(snapshot.body_ids(NO_ROW)) == len(snapshot.title_ids(NO_ROW)) == 0
    assert snapshot.body_offsets(NO_ROW).shape == snapshot.sentences(NO_ROW).shape == (0, 2)
    tokens = snapshot.passages(rows(NO_ROW), 8)
    assert tokens.ids.tolist() == [[snapshot.cls_id, snapshot.sep_id, snapshot.sep_id]]
    assert tokens.types.tolist() == [[0, 0, 1]] and tokens.lengths.tolist() == [3]


@pytest.mark.parametrize("row", [-2, len(TEXTS), 10**12])
def test_a_row_that_is_not_there(snapshot: Snapshot, row: int) -> None:
    for ask in (snapshot.text, snapshot.passage, snapshot.body_ids, snapshot.sentences, snapshot.document_id):
        with pytest.raises(UsageError, match=f"row {row}: expected 0 to {len(TEXTS) - 1}"):
            ask(row)
    with pytest.raises(UsageError, match=f"row {row}"):
        snapshot.passages(rows(0, row), 16)
    with pytest.raises(UsageError, match=f"row {row}"):
        snapshot.exclusions(rows(row))


# ---------------------------------------------------------------- many rows


def plain(snapshot: Snapshot, row: int, max_tokens: int) -> tuple[list[int], list[int]]:
    """What `passages` should give for one row, written without numpy."""
    title = snapshot.title_ids(row).tolist()[: max_tokens - 3]
    body = snapshot.body_ids(row).tolist()[: max_tokens - 3 - len(title)]
    ids = [snapshot.cls_id, *title, snapshot.sep_id, *body, snapshot.sep_id]
    return ids, [0] * (len(title) + 2) + [1] * (len(body) + 1)


@given(st.lists(st.integers(-1, len(TEXTS) - 1), max_size=8), st.integers(3, 60))
def test_passages_are_title_and_body(snapshot: Snapshot, numbers: list[int], max_tokens: int) -> None:
    tokens = snapshot.passages(rows(*numbers), max_tokens)
    assert tokens.ids.dtype == tokens.types.dtype == tokens.lengths.dtype == torch.long
    expected = [plain(snapshot, row, max_tokens) for row in numbers]
    assert tokens.lengths.tolist() == [len(ids) for ids, _ in expected]
    longest = max([len(ids) for ids, _ in expected], default=0)
    assert tokens.ids.shape == tokens.types.shape == (len(numbers), longest)
    for line, (ids, types) in enumerate(expected):
        assert tokens.ids[line].tolist() == ids + [snapshot.pad_id] * (longest - len(ids))
        assert tokens.types[line].tolist() == types + [0] * (longest - len(ids))
    lengths = snapshot.passage_lengths(max_tokens)
    assert lengths.dtype == np.int32
    assert [int(lengths[row]) for row in numbers if row != NO_ROW] == [
        len(ids) for row, (ids, _) in zip(numbers, expected, strict=True) if row != NO_ROW
    ]


@given(st.lists(st.integers(-1, len(TEXTS) - 1), max_size=8), st.integers(1, 60), st.booleans())
def test_bodies_have_no_specials(snapshot: Snapshot, numbers: list[int], max_tokens: int, with_title: bool) -> None:
    tokens = snapshot.bodies(rows(*numbers), max_tokens, with_title=with_title)
    for line, row in enumerate(numbers):
        title = snapshot.title_ids(row).tolist()[: max_tokens - 1] if with_title else []
        head = [*title, snapshot.sep_id] if title else []
        ids = head + snapshot.body_ids(row).tolist()[: max_tokens - len(head)]
        assert tokens.lengths[line] == len(ids)
        assert tokens.ids[line, : len(ids)].tolist() == ids
        assert tokens.types[line].tolist()[: len(ids)] == [0] * len(head) + [1] * (len(ids) - len(head))
        assert (tokens.ids[line, len(ids) :] == snapshot.pad_id).all()
    assert tokens.ids.shape[1] == max(tokens.lengths.tolist(), default=0)


def test_shapes_are_flattened_and_segments_can_be_left_out(snapshot: Snapshot) -> None:
    square = rows(0, 1, NO_ROW, 3).reshape(2, 2)
    assert torch.equal(snapshot.passages(square, 20).ids, snapshot.passages(square.reshape(-1), 20).ids)
    plain = snapshot.passages(square, 20, segments=False)
    assert plain.types.sum() == 0 and torch.equal(plain.ids, snapshot.passages(square, 20).ids)
    for ask, least in ((snapshot.passages, 3), (snapshot.bodies, 1)):
        with pytest.raises(UsageError, match=f"expected at least {least}"):
            ask(rows(0), least - 1)


def test_a_snapshot_is_a_passage_source(snapshot: Snapshot) -> None:
    source: PassageSource = snapshot
    assert source.passage_lengths(32).tolist() == source.passages(torch.arange(len(source)), 32).lengths.tolist()


def test_token_counts_and_special_ids(snapshot: Snapshot, tokenizer: Any) -> None:
    counts = snapshot.token_counts()
    assert len(counts) == snapshot.vocab_size == len(tokenizer)
    every = np.concatenate([snapshot.body_ids(row) for row in range(len(snapshot))])
    assert counts.tolist() == np.bincount(every, minlength=len(tokenizer)).tolist()
    assert counts[tokenizer.convert_tokens_to_ids("danube")] == 40
    assert snapshot.special_ids == sorted(
        [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    )
    assert snapshot.mask_id == tokenizer.mask_token_id
    assert snapshot.tokenizer.convert_ids_to_tokens(snapshot.body_ids(0).tolist())[:2] == ["guernica", "was"]


# ---------------------------------------------------------------- exclusions and predicates


def excluded(snapshot: Snapshot, source: int, level: Any, duplicates: bool) -> set[int]:
    return set(snapshot.exclusions(rows(source), level, duplicates)[0].tolist()) - {NO_ROW}


def test_exclusions(snapshot: Snapshot) -> None:
    first, copy = snapshot.rows_of_document("guernica"), snapshot.rows_of_document("copy")
    assert first.tolist() == [0, 1] and copy.tolist() == [3, 4]
    assert excluded(snapshot, 0, "none", False) == set()
    assert excluded(snapshot, 0, "passage", False) == {0}
    assert excluded(snapshot, 1, "document", False) == {0, 1}
    assert excluded(snapshot, 0, "none", True) == {0, 3}
    assert excluded(snapshot, 3, "passage", True) == {0, 3}
    assert excluded(snapshot, 0, "document", True) == {0, 1, 3}
    groups = snapshot.body_groups(np.arange(len(snapshot))).tolist()
    assert groups[0] == groups[3] and len(set(groups)) == len(groups) - 1
    together = snapshot.exclusions(rows(0, NO_ROW, 2), "document", True)
    assert together.dtype == torch.long and together.shape == (3, 3)
    assert together[1].tolist() == [NO_ROW] * 3
    assert together[2].tolist() == [2, NO_ROW, NO_ROW]
    assert snapshot.exclusions(rows(NO_ROW), "passage").shape == (1, 0)
    assert snapshot.exclusions(rows(), "document", True).shape == (0, 0)
    assert snapshot.rows_of_document("blank").tolist() == snapshot.rows_of_document("nobody").tolist() == []
    with pytest.raises(UsageError, match="level 'all'"):
        snapshot.exclusions(rows(0), "all")  # type: ignore[arg-type]


def test_allowed_rows(kb: KnowledgeBase, snapshot: Snapshot, tmp_path: Path) -> None:
    expected = [document.source == "art" for document, _ in TEXTS]
    assert snapshot.allowed(kb, "source = 'art'").tolist() == expected
    assert snapshot.allowed(kb, "number = 1").tolist() == [passage.number == 1 for _, passage in TEXTS]
    assert not snapshot.allowed(kb, "source = 'none'").any()
    other = KnowledgeBase.create(tmp_path / "other", split=dots.split)
    for number in range(20):
        other.add([Document(f"x{number}", "", "a. b. c.", source="art")])
    with pytest.raises(MismatchError, match="does not hold the passages"):
        snapshot.allowed(other, "source = 'art'")
    with pytest.raises(UsageError, match="is not a predicate"):
        snapshot.allowed(kb, "sauce = 1")


# ---------------------------------------------------------------- the artefact


def test_a_snapshot_does_not_change_when_the_knowledge_base_does(tokenizer: Any, tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    kb.add([Document(name, "t", f"{name} one. {name} two.", source="s") for name in "abc"])
    before = Snapshot.build(kb, tokenizer, tmp_path / "before")
    kb.update(Document("a", "t", "a one. a zero. a two.", source="n"))
    kb.delete("b")
    kb.add([Document("d", "t", "d.", source="n")])
    after = Snapshot.build(kb, tokenizer, tmp_path / "after")
    assert [before.text(row) for row in range(len(before))] == ["a one", "a two", "b one", "b two", "c one", "c two"]
    assert [after.text(row) for row in range(len(after))] == ["a one", "a zero", "a two", "c one", "c two", "d"]
    assert before.allowed(kb, "source = 'n'").sum() == 0, "asked of the snapshot's version"
    assert after.allowed(kb, "source = 'n'").tolist() == [True, True, True, False, False, True]
    assert before.fingerprint != after.fingerprint and before.version < after.version
    assert after.document_version(0) != after.document_version(3)
    old = Snapshot.build(kb.at(before.version), tokenizer, tmp_path / "again")
    assert old.fingerprint == before.fingerprint, "a past version can be laid out too"


def test_equal_contents_have_equal_fingerprints(tokenizer: Any, tmp_path: Path) -> None:
    made = []
    for name, order in (("x", [0, 1]), ("y", [1, 0])):
        kb = KnowledgeBase.create(tmp_path / name, split=dots.split)
        kb.add([Document("first", "", "old text.")])
        for index in order:
            kb.upsert([[Document("first", "", "text."), Document("second", "", "more.")][index]])
        made.append(Snapshot.build(kb, tokenizer, tmp_path / f"s{name}"))
    other = Snapshot.build(kb, tiny_tokenizer(["text more words"]), tmp_path / "other")
    assert made[0].fingerprint == made[1].fingerprint
    assert other.fingerprint != made[0].fingerprint
    assert other.tokenizer_fingerprint != made[0].tokenizer_fingerprint == made[1].tokenizer_fingerprint


def test_one_passage_and_none(tokenizer: Any, tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    with pytest.raises(DataError, match="no passages"):
        Snapshot.build(kb, tokenizer, tmp_path / "s")
    kb.add([Document("blank", "", "")])
    with pytest.raises(DataError, match="no passages"):
        Snapshot.build(kb, tokenizer, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    kb.add([Document("one", "", "😀.")])
    shown: list[tuple[int, int | None]] = []
    snapshot = Snapshot.build(kb, tokenizer, tmp_path / "s", progress=lambda done, total: shown.append((done, total)))
    assert len(snapshot) == 1 and snapshot.text(0) == "😀" and shown == [(1, 1)]
    assert snapshot.passages(rows(0, NO_ROW), 16).lengths.tolist() == [4, 3]


def test_truncation_and_padding_of_the_tokenizer_do_not_count(
    kb: KnowledgeBase, snapshot: Snapshot, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    try:
        tokenizer.save_pretrained(tmp_path / "tokenizer")
    finally:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    again = Snapshot.build(kb, tmp_path / "tokenizer", tmp_path / "s")
    assert again.fingerprint == snapshot.fingerprint
    long = int(np.argmax(again.passage_lengths(1000)))
    assert len(again.body_ids(long)) == 40


def test_tokenizers_that_do_not_fit(kb: KnowledgeBase, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")))
    with pytest.raises(DataError, match="no cls, sep, pad token"):
        Snapshot.build(kb, bare, tmp_path / "s")
    with pytest.raises(ArtefactError, match="no tokenizer folder"):
        Snapshot.build(kb, tmp_path / "nowhere", tmp_path / "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match="no tokenizer that transformers opens"):
        Snapshot.build(kb, tmp_path / "empty", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_big_vocabulary_and_no_mask_token(kb: KnowledgeBase, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"[UNK]": 0, "<s>": 1, "</s>": 2, "<pad>": 3} | {f"w{i}": i for i in range(4, 70_000)} | {"river": 70_000}
    model = Tokenizer(models.WordLevel(vocab, "[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="[UNK]"
    )
    snapshot = Snapshot.build(kb, tokenizer, tmp_path / "s")
    row = int(snapshot.rows_of_document("untitled")[0])
    assert 70_000 in snapshot.body_ids(row).tolist() and 70_000 in snapshot.passages(rows(row), 64).ids.tolist()[0]
    with pytest.raises(UsageError, match="no mask token"):
        _ = snapshot.mask_id


@pytest.fixture
def damaged(snapshot: Snapshot, tmp_path: Path) -> Path:
    shutil.copytree(snapshot.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_damage_is_found(damaged: Path) -> None:
    Snapshot.open(damaged).verify()
    for name in ("text", "body_ids", "body_offsets", "document_rows", "text_starts"):
        path = damaged / f"{name}.npy"
        whole = path.read_bytes()
        for torn in (whole[:-1], whole[:50], b"", whole + b"\0"):
            path.write_bytes(torn)
            with pytest.raises(ArtefactError, match=f"{name}.npy holds {len(torn)} bytes"):
                Snapshot.open(damaged)
        path.write_bytes(b"\0" * len(whole))
        with pytest.raises(ArtefactError, match=f"{name}.npy"):
            Snapshot.open(damaged)
        flipped = bytearray(whole)
        flipped[-1] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ArtefactError, match="checksum"):
            Snapshot.open(damaged).verify()
        path.unlink()
        with pytest.raises(ArtefactError, match=f"lacks {name}.npy"):
            Snapshot.open(damaged)
        path.write_bytes(whole)
    Snapshot.open(damaged).verify()


def test_another_format_is_refused(damaged: Path, tmp_path: Path) -> None:
    manifest = json.loads((damaged / "manifest.json").read_text())
    for change, message in [
        ({"format": "realm index"}, "holds realm index: expected a realm snapshot"),
        ({"format_version": 99}, "version 99"),
        ({"arrays": {}}, "lacks"),
        ({"arrays": None}, "the manifest"),
        ({"special_ids": {"cls": 1}}, "lacks 'sep'"),
    ]:
        (damaged / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ArtefactError, match=message):
            Snapshot.open(damaged)
    (damaged / "manifest.json").unlink()
    with pytest.raises(ArtefactError, match="no manifest"):
        Snapshot.open(damaged)
    with pytest.raises(ArtefactError, match="no folder"):
        Snapshot.open(tmp_path / "nowhere")


def test_building_again_replaces_and_an_interrupted_build_leaves_nothing(
    kb: KnowledgeBase, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    first = Snapshot.build(kb, tokenizer, path)

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Snapshot.build(kb, tokenizer, path, progress=interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert Snapshot.open(path).fingerprint == first.fingerprint
    assert Snapshot.build(kb, tokenizer, path).text(0) == first.text(0), "an open snapshot keeps its files"


def test_another_process_opens_the_same_files(snapshot: Snapshot) -> None:
    assert len(pickle.dumps(snapshot)) < 500, "the path is sent, not the arrays"
    copy = pickle.loads(pickle.dumps(snapshot))
    assert copy.fingerprint == snapshot.fingerprint
    assert [copy.text(row) for row in range(len(copy))] == [snapshot.text(row) for row in range(len(snapshot))]
