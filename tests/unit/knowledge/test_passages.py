"""Passages: nothing is lost, budgets hold, whatever the text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from realm.errors import DataError, UsageError
from realm.knowledge.text import passages as passages_
from realm.knowledge.text.passages import (
    SentenceSplitter,
    Splitter,
    WordSplitter,
    sentence_passages,
    split_documents,
    word_passages,
)
from realm.knowledge.text.pieces import piece_ends, words
from realm.knowledge.text.sentences import BLOCK, sentence_spans
from realm.types import Document, Passage

# Pieces of text that have caused trouble somewhere: abbreviations, emoji sequences, right-to-left marks, NUL,
# spaces of several bytes beside a full stop (where the segmenter fails unless it is spared them), long words.
FRAGMENTS = [
    "Dr. Who", "U.S.", "Hello there.", " ", "\n\n", "\t", "X.\x85", "Y\u2028.", "\u3000", "\u00a0", "3.14", "«Oui.»",
    "👩‍👩‍👧", "😀!", "مرحبا بالعالم.", "\u200f", "שלום?", "e\u0301", "日本語。",
    "한국어입니다.", "\0", "a" * 400, "?", "...", "(", '"',
]  # fmt: skip
TEXTS = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map(" ".join), st.text(max_size=200))


def check(document: Document, passages: list[Passage]) -> None:
    """What holds of every splitter: offsets are right and only white space is left out."""
    position = 0
    for number, passage in enumerate(passages):
        assert (passage.document_id, passage.number, passage.title) == (document.id, number, document.title)
        assert passage.text == document.text[passage.start : passage.end] != ""
        assert document.text[position : passage.start].strip() == ""
        assert passage.sentences[0][0] == 0 and passage.sentences[-1][1] == len(passage.text)
        before = 0
        for start, end in passage.sentences:
            assert (
                passage.text[before:start].strip() == ""
                and passage.text[start:end].strip() == passage.text[start:end] != ""
            )
            before = end
        position = passage.end
    assert document.text[position:].strip() == ""


@given(TEXTS, st.sampled_from([None, "en", "ja", "ar", "xx", "de-CH"]))
@settings(max_examples=150)
@example("1.X\x85.", "en")
def test_sentences_cover_any_text(text: str, lang: str | None) -> None:
    position = 0
    for start, end in sentence_spans(text, lang):
        assert position <= start < end and text[position:start].strip() == ""
        position = end
    assert text[position:].strip() == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He came to the U.S. in 1900. Dr. Smith paid $3.5 million.", 2),
        ("J. R. R. Tolkien woke at 5 a.m. and wrote. Then he slept.", 2),
        ("手塚治虫は漫画家である。大阪に住んだ。", 2),
        ("안녕하세요. 3.5점입니다. 끝.", 3),
        ("One paragraph\n\nanother paragraph", 2),
    ],
)
def test_sentences_are_those_a_reader_sees(text: str, expected: int) -> None:
    assert len(list(sentence_spans(text))) == expected


def test_a_blank_line_ends_a_sentence() -> None:
    text = "Edwin Carrow\n\nHe was a painter. He died.\n \nLife\n\t\n\nHe lived\nlong\n\n"
    found = [text[start:end] for start, end in sentence_spans(text)]
    assert found == ["Edwin Carrow", "He was a painter.", "He died.", "Life", "He lived\nlong"]


def test_sentences_do_not_depend_on_where_a_block_ends() -> None:
    sentence = "This sentence has a fixed length of some characters. "
    text = sentence * (3 * BLOCK // len(sentence))
    assert {end - start for start, end in sentence_spans(text)} == {len(sentence) - 1}


@given(TEXTS, TEXTS, st.integers(8, 40))
@settings(max_examples=150)
def test_passages_keep_the_text_and_the_budget(title: str, text: str, max_tokens: int) -> None:
    document = Document("d", title, text)
    passages = SentenceSplitter(words, max_tokens)([document])[0]
    check(document, passages)
    room = max_tokens - 3 - min(len(title.split()), max_tokens // 2)
    for before, after in pairwise(passages):
        # Greedy: the first sentence of a passage would not have fitted into the one before.
        joined = len(before.text.split()) + len(after.text[: after.sentences[0][1]].split())
        assert joined > room or after.start + after.sentences[0][1] - before.start > 16 * max_tokens
    for passage in passages:
        assert len(passage.text.split()) <= room or len(passage.sentences) == 1
        assert len(passage.text) <= 16 * max_tokens and len(passage.text.split()) <= 2 * max_tokens


def test_the_encoder_input_of_a_passage_is_within_the_budget() -> None:
    """Against the tokenizer itself: [CLS] title [SEP] body [SEP]; and the next sentence would not have fitted."""
    tokenizer = tiny_tokenizer()
    sentence = "Guernica was painted by Pablo Picasso in 1937; the Danube flows through Vienna. "
    text = "".join(sentence[: 20 + 7 * (n % 9)].rstrip(" .;") + ". " for n in range(120))
    document = Document("d", "The Danube", text)
    passages = sentence_passages(document, tokenizer, 64)
    check(document, passages)
    sizes = [len(tokenizer(p.title, p.text)["input_ids"]) for p in passages]
    assert max(sizes) <= 64
    for size, after in zip(sizes, passages[1:], strict=False):
        first = after.text[: after.sentences[0][1]]
        assert size + len(tokenizer(first, add_special_tokens=False)["input_ids"]) > 64


def test_truncation_saved_with_a_tokenizer_does_not_change_the_count() -> None:
    plain, limited = tiny_tokenizer(), tiny_tokenizer()
    limited("a b", truncation=True, max_length=4, padding="max_length")  # leaves the setting on the tokenizer
    text = "the river han runs through seoul . " * 30
    assert len(piece_ends(limited)[0]([text])[0]) == len(piece_ends(plain)[0]([text])[0]) == 210
    assert piece_ends(plain)[1] == 3


def test_pieces_of_a_byte_level_tokenizer_belong_to_the_sentence_they_are_in() -> None:
    """Such tokenizers give the space before a word to the word's piece."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, [], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    document = Document("d", "", "Aaaa bbb. Cccc 😀😀. Dddd eee. Ffff ggg.")
    passages = sentence_passages(document, tokenizer, 22)
    check(document, passages)
    assert [p.text for p in passages] == ["Aaaa bbb.", "Cccc 😀😀.", "Dddd eee. Ffff ggg."]


def test_an_over_long_sentence_stands_alone_and_a_monstrous_one_is_cut() -> None:
    long, monstrous = "word " * 30 + "end.", "word " * 100 + "end."
    passages = SentenceSplitter(words, 20)([Document("d", "", f"Short one. {long} Short two. {monstrous}")])[0]
    counts = [len(p.text.split()) for p in passages]
    assert counts == [2, 31, 2, 17, 17, 17, 17, 17, 16]
    assert not any(p.text.startswith("ord") or p.text.endswith("wor") for p in passages)  # cut between words


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        (("Interdepartmental " * 15 + "end. "), 10_000_000),
        ("a", 2_000_000),
    ]
    + [(unit, 200_000) for unit in ("word ", "👩‍👩‍👧", "\u202bשלום ", "日", "\u200b", "\U0001f3ff", '("')],
)
def test_a_document_of_any_size_gives_passages_of_sane_size(unit: str, size: int) -> None:
    document = Document("d", "", (unit * (size // len(unit) + 1))[:size])
    for passages in (SentenceSplitter(words, 288)([document])[0], word_passages(document, 100)):
        check(document, passages)
        assert max(len(p.text) for p in passages) <= 16 * 288


def test_a_cut_does_not_take_a_character_apart() -> None:
    family = "👩‍👩‍👧"
    document = Document("d", "", family * 3000)
    passages = SentenceSplitter(words, 32)([document])[0]
    check(document, passages)
    assert len(passages) > 1 and all(len(p.text) % len(family) == 0 for p in passages)


def test_a_long_title_leaves_room_for_the_text() -> None:
    document = Document("d", "title " * 500, "One two three four. " * 50)
    passages = SentenceSplitter(words, 40)([document])[0]
    assert {len(p.text.split()) for p in passages[:-1]} == {16}  # 40 - 3 - 20 leaves 17: four sentences of four words


@given(TEXTS, st.integers(1, 12))
def test_word_passages_keep_the_text_and_the_number(text: str, num_words: int) -> None:
    document = Document("d", "t", text)
    passages = word_passages(document, num_words)
    check(document, passages)
    counts = [sum((len(word) + 31) // 32 for word in p.text.split()) for p in passages]
    assert all(count == num_words for count in counts[:-1]) and all(count <= num_words for count in counts[-1:])


@pytest.mark.parametrize("splitter", [SentenceSplitter(words, 16), WordSplitter(5)])
def test_many_documents_give_what_each_gives_alone(splitter: Splitter) -> None:
    documents = [Document(str(n), f"title {n}", "Some words here. " * n) for n in range(9)] + [
        Document("e", "t", " \n")
    ]
    together = list(split_documents(iter(documents), splitter, batch_characters=100))
    assert [document for document, _ in together] == documents
    assert [passages for _, passages in together] == [splitter([document])[0] for document in documents]
    assert together[0][1] == together[-1][1] == []
    assert splitter.settings["splitter"] in ("sentences", "words")


def test_batches_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(str(n), f"title {n}", "Some words here. " * n) for n in range(40)]
    whole = SentenceSplitter(words, 16)(documents)
    monkeypatch.setattr(passages_, "_BATCH", 300)
    assert SentenceSplitter(words, 16)(documents) == whole and all(whole[1:])


def test_no_documents() -> None:
    assert list(split_documents([], SentenceSplitter(words))) == []


def test_text_that_utf8_cannot_hold_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"document 'd': found half a character \(U\+D83D\) at position 3"):
        SentenceSplitter(words)([Document("d", "", "é. \ud83d")])
    with pytest.raises(DataError, match="lone surrogate"):
        sentence_passages(Document("d", "\ud83d", "text"), tiny_tokenizer())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="max_tokens=7"):
        SentenceSplitter(words, 7)
    with pytest.raises(UsageError, match="num_words=0"):
        WordSplitter(0)
    with pytest.raises(UsageError, match="fast tokenizer"):
        sentence_passages(Document("d", "", "text"), object())
