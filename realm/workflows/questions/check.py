"""The check of made questions: does the model find the passage, and does it give the answer back?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from realm.answering.answerer import is_answerer
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.methods.open_qa import OpenQA
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.settings_corpus import CorpusQuestionsConfig
from realm.settings_finetune import FinetuneConfig
from realm.training.questions import question_tokens
from realm.types import Hits
from realm.workflows import parts
from realm.workflows.finetuning import start as starts
from realm.workflows.judging.answers import open_method
from realm.workflows.reporting import Reporter

AT_ONCE = 64
"""Questions that are embedded or answered together."""


class Check(Protocol):
    """What a model says of questions whose passage and answer are known."""

    def ranks(self, questions: Sequence[str], rows: Sequence[int]) -> list[int | None]:
        """Place, from 1, of each question's row among the first hits; None where it is not among them. 0 for all where
        nothing is searched."""
        ...

    def answers(self, questions: Sequence[str]) -> list[str] | None:
        """What the model answers; None for a model that doesn't."""
        ...


class NoCheck:
    """Everything passes."""

    def ranks(self, questions: Sequence[str], rows: Sequence[int]) -> list[int | None]:
        return [0] * len(questions)

    def answers(self, questions: Sequence[str]) -> list[str] | None:
        return None


class SearchCheck:
    """A retriever that has not learnt to answer."""

    def __init__(self, encoder: DenseEncoder, index: ExactIndex, snapshot: Snapshot, top: int, max_tokens: int) -> None:
        self.encoder, self.index, self.snapshot = encoder.eval(), index, snapshot
        self.top, self.max_tokens = top, max_tokens

    def search(self, questions: Sequence[str]) -> Hits:
        tokens = question_tokens(self.snapshot, questions, self.max_tokens).to(self.encoder.device)
        return self.index.search(self.encoder.encode_queries(tokens), self.top)

    @torch.inference_mode()
    def ranks(self, questions: Sequence[str], rows: Sequence[int]) -> list[int | None]:
        found: list[int | None] = []
        for first in range(0, len(questions), AT_ONCE):
            hits = self.search(questions[first : first + AT_ONCE])
            found += places(hits, rows[first : first + AT_ONCE])
        return found

    def answers(self, questions: Sequence[str]) -> list[str] | None:
        return None


class RoundTrip:
    """A model that answers: it retrieves, and is asked for the answer."""

    def __init__(self, method: OpenQA, top: int, min_f1: float) -> None:
        self.method, self.top, self.min_f1 = method, top, min_f1

    def ranks(self, questions: Sequence[str], rows: Sequence[int]) -> list[int | None]:
        found: list[int | None] = []
        for first in range(0, len(questions), AT_ONCE) if self.top else ():
            hits = self.method.search(questions[first : first + AT_ONCE], self.top)
            found += places(hits, rows[first : first + AT_ONCE])
        return found if self.top else [0] * len(questions)

    def answers(self, questions: Sequence[str]) -> list[str] | None:
        if not self.min_f1:
            return None
        return [answer.text for answer in self.method.answer(list(questions), batch=16)]


def places(hits: Hits, rows: Sequence[int]) -> list[int | None]:
    """Place, from 1, of each query's row among its hits."""
    same_BK = hits.rows.cpu() == torch.tensor(list(rows))[:, None]
    return [int(same_K.int().argmax()) + 1 if bool(same_K.any()) else None for same_K in same_BK]


def open_check(
    model: str,
    start: starts.Start,
    kb: KnowledgeBase,
    snapshot: Snapshot,
    config: CorpusQuestionsConfig,
    settled: FinetuneConfig,
    device: str,
    reporter: Reporter,
) -> Check:
    """The check that the settings ask for, by the kind of model that `model` names. Its vectors are kept beside the
    snapshot, where judging finds them again. settled: the settings of fine-tuning, as `finetuning.start.settle` left
    them."""
    on = parts.choose_device(device)
    if is_answerer(Path(model)) and (config.top or config.min_f1):
        return RoundTrip(open_method(Path(model), kb, on, reporter)[0], config.top, config.min_f1)
    if not config.top:
        return NoCheck()
    encoder = starts.open_encoder(start, None, settled, snapshot, on)
    tokens = settled.questions.max_passage_tokens
    index = parts.embed_beside(encoder, snapshot, tokens, bf16=settled.loop.bf16, device=on, reporter=reporter)
    return SearchCheck(encoder, index, snapshot, config.top, settled.questions.max_query_tokens)
