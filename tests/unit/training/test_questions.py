"""Batches of questions: a function of the step alone, and honest about what can't be learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from realm.errors import DataError, UsageError
from realm.training.questions import QuestionBatches
from realm.training.substitutes import Substitutes
from realm.types import NO_ROW, Passage, Question, Tokens

TEXTS = (
    "guernica was painted by pablo picasso .",
    "the river han runs .",
    "marie curie discovered radium .",
    "radium .",
)
DOCUMENTS = ("art", "geo", "curie", "curie")
ASKED = [
    Question("1", "who painted guernica ?", ("Pablo Picasso",), gold=("art",)),
    Question("2", "which river ?", ("Han", "the Han"), gold=("geo#0",), silver=("art",)),
    Question("3", "what was discovered ?", ("radium",), gold=("curie",)),
    Question("4", "who discovered it ?", ("marie curie",), gold=("nobody", "curie")),
    Question("5", "what flows through vienna ?", ("danube",)),
]


def passage(row: int) -> Passage:
    number = row - DOCUMENTS.index(DOCUMENTS[row])
    return Passage(DOCUMENTS[row], number, "", TEXTS[row], 0, len(TEXTS[row]), ())


class Corpus:
    """What the batches read of a snapshot."""

    def __init__(self) -> None:
        self.tokenizer: Any = tiny.tiny_tokenizer()
        self.cls_id, self.sep_id, self.pad_id = 2, 3, 0

    def __len__(self) -> int:
        return len(TEXTS)

    def text(self, row: int) -> str:
        return TEXTS[row]

    def body_offsets(self, row: int) -> np.ndarray:
        made = self.tokenizer(TEXTS[row], add_special_tokens=False, return_offsets_mapping=True)
        return np.array(made["offset_mapping"], np.int32)

    def bodies(self, rows: torch.Tensor, max_tokens: int, with_title: bool = False) -> Tokens:
        return tiny.bodies_of(self.tokenizer, [TEXTS[row] if row >= 0 else "" for row in rows.tolist()])

    def rows_of_document(self, document_id: str) -> np.ndarray:
        return np.array([row for row, name in enumerate(DOCUMENTS) if name == document_id], np.int64)

    def text_hashes(self, rows: np.ndarray) -> list[str]:
        return [passage(row).text_hash for row in rows.tolist()]


def batches(questions: Sequence[Question] = ASKED, **options: Any) -> QuestionBatches:
    return QuestionBatches(Corpus(), questions, **{"batch_size": 2, "seed": 3, **options})


def drawn(found: QuestionBatches, step: int) -> list[str]:
    return [found.questions[number].id for number in found.batch(step).numbers.tolist()]


def test_a_batch_depends_on_its_step_alone() -> None:
    one, other = batches(), batches()
    backwards = [drawn(one, step) for step in reversed(range(6))][::-1]
    assert backwards == [drawn(other, step) for step in range(6)]
    assert torch.equal(one.batch(4).query.ids, other.batch(4).query.ids)
    assert one.steps_per_epoch == 2
    for epoch in range(3):
        seen = [i for step in (2 * epoch, 2 * epoch + 1) for i in drawn(one, step)]
        assert sorted(seen) == ["1", "2", "3", "4"]
    assert len({tuple(map(tuple, backwards[i : i + 2])) for i in (0, 2, 4)}) > 1, "every epoch has its order"


def test_two_ranks_get_what_one_gets() -> None:
    whole = drawn(batches(), 1)
    assert [i for rank in (0, 1) for i in drawn(batches(rank=rank, world_size=2), 1)] == whole


def test_a_query_is_the_question_between_its_specials() -> None:
    found = batches(max_query_tokens=5)
    batch = found.pick(np.array([0]))
    ids = found.matcher._tokenizer("who painted guernica ?", add_special_tokens=False)["input_ids"]
    assert batch.query.ids.tolist() == [[2, *ids[:3], 3]]


def test_answers_are_found_in_rows() -> None:
    batch = batches().pick(np.array([2, 3]))
    rows = np.array([3, NO_ROW, 2])
    assert batch.holds(0, rows).tolist() == [True, False, True]
    assert batch.holds(1, rows).tolist() == [False, False, True]
    assert batch.spans(1, rows).tolist() == [[2, 0, 2]]


def test_labels_become_rows_that_hold_an_answer_first() -> None:
    batch = batches().pick(np.array([0, 1, 2, 3]))
    # A passage's id; both passages of a document that say it; the one that does; an unknown document is passed over.
    assert batch.labelled_rows.tolist() == [[0, NO_ROW], [1, NO_ROW], [2, 3], [2, NO_ROW]]


def test_a_label_of_a_text_that_changed_is_counted_and_not_used() -> None:
    there, moved = passage(2).id, passage(3).id.replace("#1", "#0")
    assert there.startswith("curie#0:") and moved.startswith("curie#0:")
    asked = [
        Question("there", "what was discovered ?", ("radium",), gold=(there,)),
        Question("moved", "what was discovered ?", ("radium",), gold=(moved,)),
        # The answer is in the passage that stands there now, and in the only one of its document: neither was meant.
        Question("changed", "what was discovered ?", ("radium",), gold=("curie#0:00000000",), silver=("geo#0:0000",)),
        Question("gone", "what was discovered ?", ("radium",), gold=("nobody#0:00000000",)),
    ]
    found = batches(asked)
    assert found.pick(np.arange(4)).labelled_rows.tolist() == [[2], [3], [NO_ROW], [NO_ROW]]
    assert found.statistics()["labels_outdated"] == 2 and len(found) == 4


def test_what_teaches_nothing_is_counted_and_left_out() -> None:
    more = [
        *ASKED,
        Question("6", "  ", ("han",)),
        Question("7", "why ?", ()),
        Question("8", "why ?", (" ",)),
        Question("9", "why ?", ("han",), answerable=False),
    ]
    found = batches(more)
    counts = {name: value for name, value in found.statistics().items() if value}
    assert counts == {
        "questions": 9,
        "without_text": 1,
        "without_answer": 2,
        "unanswerable": 1,
        "answers_stand_nowhere": 1,
        "questions_used": 4,
    }
    assert len(batches(more, drop_unmatched=False)) == 5
    assert len(batches(more, match="normalised")) == 5, "only word pieces are looked for beforehand"


def test_patterns_are_kept() -> None:
    pattern = replace(ASKED[4], answers=(r"dan\w+",), patterns=True)
    assert len(batches([pattern], batch_size=1)) == 1


def test_nothing_to_learn_from_is_one_clear_error() -> None:
    with pytest.raises(DataError, match=r"none of 1 questions .*answers stand nowhere 1.*expected"):
        batches(ASKED[4:])
    with pytest.raises(DataError, match="the set is empty"):
        batches([])
    with pytest.raises(DataError, match="unanswerable 5"):
        batches([replace(question, answerable=False) for question in ASKED])


def test_fewer_questions_than_a_batch_come_again() -> None:
    assert sorted(drawn(batches(ASKED[:1], batch_size=3), 0)) == ["1", "1", "1"]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_query_tokens": 2}, {"match": "fuzzy"}, {"seed": -1}])
def test_impossible_settings(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        batches(**options)


def test_a_part_of_the_questions_is_read_with_the_answer_of_another_that_is_like_it() -> None:
    names = ("Han", "Curie", "Radium")
    asked = [Question(str(n), f"who painted number {n} ?", (name,)) for n, name in enumerate(names)]
    asked += [Question("year", "when ?", ("1937",)), Question("thing", "what is it ?", ("guernica",))]
    found = batches(asked, substituted=0.75, batch_size=5, drop_unmatched=False)
    pieces = [found.matcher.answer_pieces[number][0].tolist() for number in range(5)]
    drawn_: list[list[int] | None] = []
    for step in range(40):
        batch = found.batch(step)
        again = batches(asked, substituted=0.75, batch_size=5, drop_unmatched=False).batch(step)
        for number, other, same in zip(batch.numbers.tolist(), batch.substitutes, again.substitutes, strict=True):
            assert (other is None) == (same is None) and (other is None or np.array_equal(other, same))
            if number in (3, 4):
                assert other is None, "a year and a thing are like no other answer"
                continue
            drawn_.append(None if other is None else other.tolist())
            assert other is None or (other.tolist() in pieces[:3] and other.tolist() != pieces[number])
    assert 0.6 < 1 - drawn_.count(None) / len(drawn_) < 0.9 and len({str(each) for each in drawn_}) == 4
    assert not batches(asked, drop_unmatched=False).batch(0).substitutes


def test_two_ranks_read_what_one_reads() -> None:
    asked = [Question(str(n), "who ?", (name,)) for n, name in enumerate(("Han", "Curie", "Radium", "Vienna"))]
    options: dict[str, Any] = {"substituted": 0.5, "batch_size": 4, "drop_unmatched": False}
    whole = batches(asked, **options).batch(3).substitutes
    parts = [each for r in (0, 1) for each in batches(asked, rank=r, world_size=2, **options).batch(3).substitutes]
    assert [None if p is None else p.tolist() for p in parts] == [None if w is None else w.tolist() for w in whole]


def test_an_answer_to_a_question_that_begins_alike_is_preferred() -> None:
    names = {"who painted it ?": ("Han", "Curie"), "where was it ?": ("Seoul", "Vienna")}
    asked = [Question(f"{text} {a}", text, (a,)) for text, answers in names.items() for a in answers]
    found = Substitutes(asked, [[np.array([n])] for n in range(4)], share=1.0)
    assert {int(other[0]) for step in range(20) if (other := found.draw(step, 0)) is not None} == {1}
    longer = Substitutes(asked, [[np.array([n] * (n + 1))] for n in range(4)], share=1.0, most_pieces=1)
    assert longer.draw(0, 0) is None and longer.draw(0, 3) is not None


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="expected 0 to 1"):
        batches(substituted=share)
