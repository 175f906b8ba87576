"""Batches of questions, as pure functions of the step.

Legend: B questions of a batch, E rows asked about, G labelled rows, M places where an answer stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from realm.errors import DataError, UsageError
from realm.models.backbone import pieces
from realm.training.batches import pad_tokens
from realm.training.matching import AnswerMatcher, BoolArray, IntArray
from realm.training.matching import Corpus as Matched
from realm.training.order import Order, check_ranks, share
from realm.training.substitutes import Substitutes
from realm.types import NO_ROW, Question, Tokens

QUESTIONS = 6
"""Sets this order apart from the others of `realm.training.order`."""
MAX_LABELLED = 4
"""Labelled rows of a question that are used."""


class Corpus(Matched, Protocol):
    """What batches of questions read of a snapshot."""

    @property
    def cls_id(self) -> int: ...

    @property
    def sep_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def tokenizer(self) -> Any: ...

    def rows_of_document(self, document_id: str) -> np.ndarray:
        """Int64[R]; empty where there is no such document."""
        ...

    def text_hashes(self, rows: np.ndarray) -> list[str]:
        """`Passage.text_hash` of rows Int64[R]."""
        ...


@dataclass(frozen=True)
class QuestionBatch:
    """B questions, and where their answers stand in whatever is retrieved for them."""

    texts: Sequence[str]
    query: Tokens
    """[CLS] question [SEP]"""
    numbers: IntArray
    """Int64[B]: which questions of the set these are."""
    labelled_rows: Tensor
    """Long[B, G]: rows that the set names as holding an answer, best first, NO_ROW as padding."""
    matcher: AnswerMatcher
    substitutes: Sequence[IntArray | None] = ()
    """Of each question, the word pieces that are read in the place of its answers; empty when all are left."""

    def spans(self, place: int, rows: IntArray) -> IntArray:
        """Int64[M, 3]: (index into `rows`, first piece, piece after the last) of each answer to question `place`."""
        return self.matcher.find(int(self.numbers[place]), rows)

    def holds(self, place: int, rows: IntArray) -> BoolArray:
        """Bool[E]: whether a row holds an answer to question `place`."""
        return self.matcher.holds(int(self.numbers[place]), rows)


class QuestionBatches:
    """Questions with answers, for fine-tuning.

    Drawn without replacement within an epoch; what is left over when it does not fill a batch is dropped, and the next
    epoch has another order. Questions that can teach nothing are counted and left out: those without an answer, those
    that the set calls unanswerable, and (`drop_unmatched`) those whose answers stand nowhere in the corpus. A label
    that names a passage with its text (``document#number:hash``) is counted and left out where no passage of the
    document has that text any more; its question stays.
    """

    def __init__(
        self,
        snapshot: Corpus,
        questions: Sequence[Question],
        *,
        batch_size: int,
        max_query_tokens: int = 64,
        match: str = "pieces",
        normalize: Callable[[str], str] = str.lower,
        drop_unmatched: bool = True,
        substituted: float = 0.0,
        most_pieces: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """batch_size: of the global batch, at least `world_size`. match, normalize: see `AnswerMatcher`.

        max_query_tokens: [CLS] and [SEP] counted; longer questions are cut.
        drop_unmatched: look through the corpus first; for ``match="pieces"`` and for answers that are no patterns.
        substituted, most_pieces: share of the questions that are read with another answer, and how long that may be;
            see `Substitutes`.
        Raises UsageError for impossible settings, DataError when no question is left.
        """
        check_ranks(batch_size, rank, world_size, seed)
        if max_query_tokens < 3:
            raise UsageError(f"found max_query_tokens={max_query_tokens}: expected at least 3")
        self._snapshot, self._max_query_tokens, self._seed = snapshot, max_query_tokens, seed
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        counts: Counter[str] = Counter(questions=len(questions))
        asked = [question for question in questions if _can_teach(question, counts)]
        self.matcher = AnswerMatcher(snapshot, snapshot.tokenizer, asked, match=match, normalize=normalize)
        self.questions = asked
        kept = np.arange(len(asked))
        if drop_unmatched and match == "pieces" and asked:
            kept = np.flatnonzero(self.matcher.stand_somewhere(progress))
            counts["answers_stand_nowhere"] = len(asked) - len(kept)
        counts["questions_used"] = len(kept)
        self._kept, self._counts = kept, counts
        if not len(kept):
            reasons = ", ".join(
                f"{name.replace('_', ' ')} {number:,}"
                for name, number in counts.items()
                if number and name != "questions"
            )
            raise DataError(
                f"none of {len(questions):,} questions can be learnt from ({reasons or 'the set is empty'}): expected "
                "one whose answer stands in the knowledge base; give other questions, or the documents they are about"
            )
        asked = [self.questions[number] for number in kept.tolist()]
        counts["labels_outdated"] = sum(self._rows(name) is None for one in asked for name in (*one.gold, *one.silver))
        self._labelled: dict[int, list[int]] = {}
        self._substitutes: Substitutes | None = None
        if substituted:
            _check_spaces(snapshot.tokenizer)
            answers = self.matcher.answer_pieces
            self._substitutes = Substitutes(
                self.questions, answers, share=substituted, most_pieces=most_pieces, seed=seed
            )
        self._order = Order(len(kept), max(1, len(kept) // batch_size))

    def __len__(self) -> int:
        """Questions that are learnt from."""
        return len(self._kept)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps

    def statistics(self) -> dict[str, int]:
        """What the set holds and what of it can't be used, by reason."""
        given_up, refused = self.matcher.patterns_given_up, self.matcher.patterns_refused
        return {**self._counts, "patterns_given_up": given_up, "patterns_refused": refused}

    def batch(self, step: int) -> QuestionBatch:
        """This rank's share of batch `step`: B is batch_size / world_size questions, rounded up or down."""
        epoch, first = self._order.locate(step, self._batch_size)
        order = self._order.permutation((self._seed, QUESTIONS, epoch))
        places = share(self._batch_size, self._rank, self._world_size)
        batch = self.pick(self._kept[order[(first + np.array(places)) % len(order)]])
        if self._substitutes is None:
            return batch
        return replace(batch, substitutes=[self._substitutes.draw(step, number) for number in batch.numbers.tolist()])

    def pick(self, numbers: IntArray) -> QuestionBatch:
        """A batch of the questions of these numbers, read with their own answers."""
        texts = [self.questions[number].text for number in numbers.tolist()]
        query = question_tokens(self._snapshot, texts, self._max_query_tokens)
        labelled = [self._labels(number) for number in numbers.tolist()]
        widest = max(map(len, labelled), default=0)
        labelled_BG = torch.full((len(numbers), widest), NO_ROW)
        for place, rows in enumerate(labelled):
            labelled_BG[place, : len(rows)] = torch.tensor(rows, dtype=torch.long)
        return QuestionBatch(texts, query, numbers, labelled_BG, self.matcher)

    def _labels(self, number: int) -> list[int]:
        """Rows of the named documents and passages, gold before silver, those in which an answer is found first."""
        known = self._labelled.get(number)
        if known is None:
            question = self.questions[number]
            labels = (self._rows(name) or [] for name in (*question.gold, *question.silver))
            rows = list(dict.fromkeys(row for found in labels for row in found))
            # Looked at are the first 64: a label may name a book.
            rows = rows[:64]
            holds = self.matcher.holds(number, np.array(rows, np.int64)).tolist()
            found = [row for row, there in zip(rows, holds, strict=True) if there]
            # Which passage of a longer document is meant nobody knows, where none of them says the answer.
            known = self._labelled[number] = found[:MAX_LABELLED] or (rows if len(rows) == 1 else [])
        return known

    def _rows(self, name: str) -> list[int] | None:
        """Rows of a document's id, or the one of a passage's (``document#number``, and ``:hash`` of its text, see
        `Passage.id`); none that isn't there, None where the document is, and the text no longer.

        A text that stands elsewhere in its document by now, because something was written before it, is the same.
        """
        rows = self._snapshot.rows_of_document(name)
        document, mark, rest = name.rpartition("#")
        number, _, text_hash = rest.partition(":")
        if len(rows) or not (mark and number.isdecimal()):
            return [int(row) for row in rows]
        rows, place = self._snapshot.rows_of_document(document), int(number)
        if not text_hash:
            return [int(row) for row in rows[place : place + 1]]
        same = [at for at, found in enumerate(self._snapshot.text_hashes(rows)) if found.startswith(text_hash)]
        nearest = sorted(same, key=lambda at: abs(at - place))[:1]
        return [int(rows[at]) for at in nearest] if same or not len(rows) else None


def question_tokens(corpus: Any, texts: Sequence[str], max_tokens: int) -> Tokens:
    """[CLS] question [SEP], cut to `max_tokens`."""
    ids = [found[: max_tokens - 2] for found in pieces(corpus.tokenizer, texts)]
    return pad_tokens([np.array([corpus.cls_id, *i, corpus.sep_id], np.int64) for i in ids], corpus.pad_id)


def _check_spaces(tokenizer: Any) -> None:
    """UsageError where an answer alone has other pieces than in a text: written into one, it would glue words."""
    alone, behind = pieces(tokenizer, ["b", "a b"])
    if alone[-1:] != behind[-1:]:
        raise UsageError(
            "found a tokenizer whose pieces hold the space before a word: expected one of word pieces, such as BERT's, "
            "for answers that are read in the place of others; give qa.substituted=0"
        )


def _can_teach(question: Question, counts: Counter[str]) -> bool:
    """Counts the reason when it can't."""
    reason = None
    if not question.text.strip():
        reason = "without_text"
    elif not question.answerable:
        reason = "unanswerable"
    elif not any(answer.strip() for answer in question.answers):
        reason = "without_answer"
    if reason:
        counts[reason] += 1
    return reason is None
