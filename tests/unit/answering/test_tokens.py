"""What the model is given for a question and for fresh text is what training gave it."""

from __future__ import annotations

from typing import Any

import dots
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from realm.answering.tokens import body_tokens, cloze_tokens, passage_tokens
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.types import NO_ROW, Document, Passage, Tokens

DOCUMENTS = [
    Document("plain", "Guernica", "Guernica was painted by Pablo Picasso. It hangs in Madrid."),
    Document("untitled", "", "The river Han runs through Seoul."),
    Document("long", "A very long title of many words about Paris", "danube " * 60 + "."),
    Document("other", "שלום Ünïcode 😀", "السلام عليكم\u200b naïve café \U0001f600. 漢字とカタカナ. zzzqqq [SEP] x."),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def snapshot(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("answering")
    kb = KnowledgeBase.create(folder / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(DOCUMENTS)
    return Snapshot.build(kb, tokenizer, folder / "snapshot")


def passages_of(snapshot: Snapshot) -> list[Passage]:
    return [snapshot.passage(row) for row in range(len(snapshot))]


def same(found: Tokens, wanted: Tokens) -> None:
    assert torch.equal(found.lengths, wanted.lengths)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.types, wanted.types)


# ---------------------------------------------------------------- passages


@pytest.mark.parametrize("max_tokens", [4, 8, 13, 40, 512])
def test_a_fresh_passage_is_encoded_as_one_of_a_snapshot(snapshot: Snapshot, tokenizer: Any, max_tokens: int) -> None:
    wanted = snapshot.passages(torch.arange(len(snapshot)), max_tokens)
    assert int(wanted.lengths.max()) <= max_tokens
    same(passage_tokens(tokenizer, passages_of(snapshot), max_tokens), wanted)


@pytest.mark.parametrize("max_tokens", [2, 8, 13, 40, 512])
@pytest.mark.parametrize("with_title", [True, False])
def test_a_fresh_passage_is_read_as_one_of_a_snapshot(
    snapshot: Snapshot, tokenizer: Any, max_tokens: int, with_title: bool
) -> None:
    rows = torch.tensor([NO_ROW, *range(len(snapshot))])
    wanted = snapshot.bodies(rows, max_tokens, with_title)
    same(body_tokens(tokenizer, passages_of(snapshot), max_tokens, with_title=with_title), wanted)


@settings(max_examples=25)
@given(title=st.text(max_size=30), text=st.text(min_size=1, max_size=60), max_tokens=st.integers(3, 40))
def test_any_text_fits_its_budget(tokenizer: Any, title: str, text: str, max_tokens: int) -> None:
    passage = Passage("d", 0, title, text, 0, len(text), ())
    tokens = passage_tokens(tokenizer, [passage], max_tokens)
    ids = tokens.ids[0].tolist()
    assert len(ids) == int(tokens.lengths[0]) <= max_tokens
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    head = int((tokens.types[0] == 0).sum())
    assert ids[head - 1] == tokenizer.sep_token_id
    assert head == 2 + min(len(tokenizer(title, add_special_tokens=False)["input_ids"]), max_tokens - 3)


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize("blank", ["[MASK]", "____", "__", "[mask]"])
@pytest.mark.parametrize("masks", [1, 3])
def test_the_blank_becomes_as_many_masks_as_the_answer_has_pieces(tokenizer: Any, blank: str, masks: int) -> None:
    tokens, position_T = cloze_tokens(tokenizer, f"Guernica was painted by {blank} in Paris.", masks, 64)
    wanted = tokenizer("Guernica was painted by " + "[MASK] " * masks + "in Paris.")["input_ids"]
    assert tokens.ids.tolist() == [wanted]
    assert tokens.types.tolist() == [[0] * len(wanted)]
    assert position_T.tolist() == [i for i, token in enumerate(wanted) if token == tokenizer.mask_token_id]
    assert len(position_T) == masks


@pytest.mark.parametrize("question", ["[MASK]", "____ painted it", "it was ____"])
def test_a_blank_may_stand_anywhere(tokenizer: Any, question: str) -> None:
    tokens, position_T = cloze_tokens(tokenizer, question, 2, 64)
    assert (tokens.ids[0, position_T] == tokenizer.mask_token_id).all()
    assert tokens.ids[0, 0] == tokenizer.cls_token_id
    assert tokens.ids[0, -1] == tokenizer.sep_token_id


@settings(max_examples=40)
@given(before=st.integers(0, 30), after=st.integers(0, 30), masks=st.integers(1, 4), budget=st.integers(8, 40))
def test_a_long_question_keeps_its_blank_and_what_is_around_it(
    tokenizer: Any, before: int, after: int, masks: int, budget: int
) -> None:
    names = ["paris", "seoul", "vienna", "danube"]  # one word piece each
    left, right = [names[i % 4] for i in range(before)], [names[i % 3] for i in range(after)]
    tokens, position_T = cloze_tokens(tokenizer, " ".join([*left, "[MASK]", *right]), masks, budget)
    ids = tokens.ids[0].tolist()
    assert len(ids) == min(budget, before + after + masks + 2), "no more is cut than must be"
    first, last = int(position_T[0]), int(position_T[-1])
    assert ids[first : last + 1] == [tokenizer.mask_token_id] * masks
    assert ids.count(tokenizer.mask_token_id) == masks
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words[1:first] == left[len(left) - (first - 1) :]
    assert words[last + 1 : -1] == right[: len(words) - last - 2]


@pytest.mark.parametrize(
    "question", ["Who painted Guernica?", "", "[MASK] painted [MASK].", "____ and [MASK]", "a _ b"]
)
def test_there_must_be_one_blank(tokenizer: Any, question: str) -> None:
    with pytest.raises(UsageError, match=r"found [02] blanks.*expected one, written \[MASK\] or ____"):
        cloze_tokens(tokenizer, question, 1, 64)
