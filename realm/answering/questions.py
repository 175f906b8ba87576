"""A fine-tuned model and a knowledge base: a question in, a span of a passage out, with what it rests on.

    p(y|x) = sum over passages z and spans s of z that read y, of p(s, z | x)          (Lee et al. 2019)

The same model as `methods.open_qa.OpenQA` over documents that people edit: passages come from the knowledge base at
each question, not from a snapshot.

Legend: N pairs of a question and a passage, K passages of one question, S spans of a passage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm import objectives, objectives_qa
from realm.answering.answerer import answerer_folder, is_answerer, open_answerer
from realm.answering.ask import Realm, check_asking
from realm.answering.confidence import Confidence, open_confidence
from realm.answering.conflicts import ConflictRule, find_conflict, told
from realm.answering.constraints import Constraints
from realm.answering.retrieving import DenseRetrieval, evidence_from
from realm.answering.tokens import pad
from realm.errors import UsageError
from realm.evaluation.answers import NORMALIZERS
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.times import AsOf
from realm.methods.extraction import Extracted, as_answer, extract, signals_of
from realm.models.backbone import pieces
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanReader
from realm.settings_finetune import FinetuneConfig
from realm.types import Answer, Evidence


class QuestionAnswering:
    """A retriever and a span reader that learnt from questions.

    ::

        model = QuestionAnswering.from_pretrained("runs/squad")
        answer = model.ask("Who painted Guernica?", kb, k=5)
    """

    def __init__(
        self, encoder: DenseEncoder, reader: SpanReader, config: FinetuneConfig, confidence: Confidence | None = None
    ) -> None:
        """confidence: as `realm calibrate` fitted it; the model's own when None."""
        self.reader = reader.eval()
        self.confidence = confidence or Confidence()
        self.config = config
        self.normalize = NORMALIZERS[config.questions.convention]
        self.retrieval = DenseRetrieval(
            encoder,
            max_query_tokens=config.questions.max_query_tokens,
            max_passage_tokens=config.questions.max_passage_tokens,
        )

    @property
    def passage_encoder(self) -> PassageEncoder:
        """What `KnowledgeBase.embed_missing` and `update` need: passages to vectors, and whose they are."""
        return self.retrieval.passage_encoder

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "cpu", bf16: bool = False) -> QuestionAnswering:
        """Open a model folder that `realm finetune` wrote, or its run. ArtefactError when it is neither.

        bf16: read in bfloat16, see `SpanReader.in_bfloat16`: about 1.6 times as fast where the processor has it.
        """
        encoder, reader, config = open_answerer(Path(path), device)
        found = open_confidence(answerer_folder(Path(path)))
        return cls(encoder, reader.in_bfloat16() if bf16 else reader, config, found)

    def search(
        self,
        query: str,
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | None = None,
    ) -> list[Match]:
        """The k passages with the highest inner product; see `Realm.search`."""
        return self.retrieval.search(query, kb, k, where, as_of, constraints)

    # ------------------------------------------------------------ answering

    def ask(
        self,
        question: str,
        kb: KnowledgeBase,
        k: int | None = None,
        where: str | None = None,
        as_of: AsOf | None = None,
        *,
        aggregate: str | None = None,
        conflicts: ConflictRule | None = None,
        constraints: Constraints | None = None,
    ) -> Answer:
        """The likeliest answer, its text cut from a stored passage letter for letter.

        k: passages to read; as in training when None. where: a predicate on the documents. as_of: a version or a
        time, see `KnowledgeBase.version_at`.
        aggregate: "marginal" sums an answer's probability over all its spans and passages, "best-span" takes the
            largest; as in the model's settings when None. conflicts: when passages count as disagreeing.
        constraints: what the passages keep to besides `where`; p(z|x) is over those that do.
        Confidence is p(y|x) among all spans that were read, calibrated if the model was (for its own aggregate); below
        its threshold the answer abstains. A span reader has no null passage, so p(y|null,x) is 0 and RU without
        meaning: `retrieval_utility` is NaN and `null_prior` 0. Where there is nothing to read the answer abstains.
        UsageError for an empty question.
        """
        more: dict[str, Any] = {"aggregate": aggregate, "conflicts": conflicts, "constraints": constraints}
        (answer,) = self.ask_many([question], kb, k, where, as_of, **more)
        return answer

    def ask_many(
        self,
        questions: Iterable[str],
        kb: KnowledgeBase,
        k: int | None = None,
        where: str | None = None,
        as_of: AsOf | None = None,
        *,
        aggregate: str | None = None,
        conflicts: ConflictRule | None = None,
        constraints: Constraints | None = None,
        batch: int = 64,
    ) -> Iterator[Answer]:
        """The answers that `ask` would give, in order, `batch` questions at a time, as they come.

        The questions of a batch are encoded together, the vectors are read once for all of them, and all their passages
        are read in chunks of like length. An edit is seen by the next batch. UsageError for an empty question, before
        any of its batch is answered.
        """
        check_asking(aggregate, batch, k)

        def answers() -> Iterator[Answer]:
            waiting, asked = iter(questions), 0
            while part := list(islice(waiting, batch)):
                for number, question in enumerate(part, asked + 1):
                    if not question.strip():
                        place = "" if number == 1 and len(part) == 1 else f" (number {number})"
                        raise UsageError(f"found an empty question{place}: expected some words")
                passages = k or self.config.qa.num_passages
                found = self.retrieval.search_many(part, kb, passages, where, as_of, constraints)
                read = self.read(part, found.matches, found.version, aggregate=aggregate, conflicts=conflicts)
                yield from (replace(answer, now=found.now) for answer in read)
                asked += len(part)

        return answers()

    @torch.inference_mode()
    def read(
        self,
        questions: Sequence[str],
        matches: Sequence[Sequence[Match]],
        version: int | None = None,
        *,
        aggregate: str | None = None,
        conflicts: ConflictRule | None = None,
    ) -> list[Answer]:
        """Answers from passages that were found before, whoever found them: `matches` of each question.

        version: of the knowledge base they are from. The rest as for `ask`.
        """
        check_asking(aggregate)
        joint, signals_of_each, start_S, end_S, offsets = self._spans(questions, matches)
        confidence = self.confidence if aggregate in (None, self.config.qa.aggregate) else Confidence()
        answers = []
        for question, mine, joint_KS, signals in zip(questions, matches, joint, signals_of_each, strict=True):
            found = extract(
                joint_KS,
                start_S,
                end_S,
                [match.passage.text for match in mine],
                [offsets[match.passage.text] for match in mine],
                normalize=self.normalize,
                aggregate=aggregate or self.config.qa.aggregate,
            )
            evidence = _Evidence(mine)
            sides = find_conflict(found, evidence, normalize=self.normalize, rule=conflicts)
            answer = as_answer(question, found, evidence, version, signals)
            answers.append(confidence(replace(answer, conflicts=sides, conflict=told(sides))))
        return answers

    def _spans(
        self, questions: Sequence[str], matches: Sequence[Sequence[Match]]
    ) -> tuple[list[Tensor], list[dict[str, float]], Tensor, Tensor, dict[str, np.ndarray]]:
        """log p(s, z | x) of each question's passages, Float[K, S] on the CPU, and its signals; the spans; and where
        each passage's word pieces stand in its text."""
        tokenizer, budget = self.retrieval.tokenizer, self.config.reader.max_tokens - 3
        flat = [match for mine in matches for match in mine]
        if not flat:
            nothing = torch.zeros(0, dtype=torch.long)
            return [torch.zeros(0, 0) for _ in matches], [{} for _ in matches], nothing, nothing, {}
        texts = list(dict.fromkeys(match.passage.text for match in flat))
        made = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = dict(zip(texts, made["input_ids"], strict=True))
        with_title = self.config.reader.with_title
        titles = pieces(tokenizer, [match.passage.title if with_title else "" for match in flat])
        heads = [[*title[: budget - 1], tokenizer.sep_token_id] if title else [] for title in titles]
        rows = [[*head, *ids[m.passage.text][: budget - len(head)]] for head, m in zip(heads, flat, strict=True)]
        before_N = torch.tensor([len(head) for head in heads])
        counts = [len(mine) for mine in matches]
        spans = self.reader.span_logits(
            self.retrieval.query_tokens(*questions),
            pad(rows, tokenizer.pad_token_id, before_N.tolist()),
            torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
            before_N=before_N,
        )
        score_N = torch.tensor([match.logit for match in flat], device=spans.logit_NS.device)
        each = list(zip(score_N.split(counts), spans.logit_NS.split(counts), spans.valid_NS.split(counts), strict=True))
        level = self.config.qa.level
        joint = [objectives_qa.span_log_prob_BKS(*(of[None] for of in one), level=level)[0].cpu() for one in each]
        signals = [signals_of(*one) for one in each]
        offsets = {t: np.array(o).reshape(-1, 2) for t, o in zip(texts, made["offset_mapping"], strict=True)}
        return joint, signals, spans.start_S.cpu(), spans.end_S.cpu(), offsets


class _Evidence:
    """What an answer rests on, among the passages that were read for its question."""

    def __init__(self, matches: Sequence[Match]) -> None:
        self.matches = matches
        score_1K = torch.tensor([[match.logit for match in matches]])
        self.prior_K = objectives.prior_BK(score_1K)[0].tolist() if matches else []

    def __call__(self, answer: Extracted) -> list[Evidence]:
        return [
            evidence_from(match, self.prior_K[k], math.exp(answer.log_posterior(k)), math.nan, answer.places.get(k))
            for k, match in enumerate(self.matches)
        ]


def open_model(name: str | Path, device: str = "cpu", *, bf16: bool = False) -> Realm | QuestionAnswering:
    """What answers: a fine-tuned model if that is one, else a pre-trained one; see `from_pretrained` of both.

    bf16: of a fine-tuned model alone; UsageError for another.
    """
    if is_answerer(Path(name)):
        return QuestionAnswering.from_pretrained(name, device=device, bf16=bf16)
    if bf16:
        raise UsageError(f"found bf16 with {name}: expected a fine-tuned model; a pre-trained one reads in float32")
    return Realm.from_pretrained(name, device=device)
