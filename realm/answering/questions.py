"""A fine-tuned model and a knowledge base: a question in, a span of a passage out, with what it rests on.

    p(y|x) = sum over passages z and spans s of z that read y, of p(s, z | x)          (Lee et al. 2019)

The same model as `methods.open_qa.OpenQA` over documents that people edit: passages come from the knowledge base at
each question, not from a snapshot.

Legend: K passages of one question, S spans of a passage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from realm import objectives
from realm.answering.answerer import answerer_folder, is_answerer, open_answerer
from realm.answering.ask import Realm, check_asking
from realm.answering.confidence import Confidence, open_confidence
from realm.answering.conflicts import ConflictRule, find_conflict, told
from realm.answering.constraints import Constraints
from realm.answering.early import EarlyExit
from realm.answering.retrieving import DenseRetrieval, evidence_from
from realm.answering.spans import Part, Spans, logits_of, partly, read_spans, room, whole
from realm.config import to_json
from realm.errors import UsageError
from realm.evaluation.answers import NORMALIZERS
from realm.files import fingerprint
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.times import AsOf
from realm.methods.extraction import Extracted, as_answer
from realm.models.encoders import DenseEncoder
from realm.models.precision import multiplies_bfloat16
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
            words=config.qa.bm25_temperature if config.qa.retriever == "fused" else None,
        )

    @property
    def passage_encoder(self) -> PassageEncoder:
        """What `KnowledgeBase.embed_missing` and `update` need: passages to vectors, and whose they are."""
        return self.retrieval.passage_encoder

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "cpu", bf16: bool | None = None) -> QuestionAnswering:
        """Open a model folder that `realm finetune` wrote, or its run. ArtefactError when it is neither.

        bf16: read in bfloat16, see `SpanReader.in_bfloat16`: about 1.6 times as fast where the processor has it, and
        of 648 answers 647 the same; None does it on a CPU that tells torch that it does.
        """
        encoder, reader, config = open_answerer(path, device)
        if bf16 is None:
            on = torch.device(device)
            bf16 = on.type == "cpu" and multiplies_bfloat16(on)
        found = open_confidence(answerer_folder(path))
        return cls(encoder, reader.in_bfloat16() if bf16 else reader, config, found)

    @property
    def num_passages(self) -> int:
        """Passages to read for a question: as many as its confidence was fitted on, else as in fine-tuning."""
        return self.confidence.passages or self.config.qa.num_passages

    def fingerprint(self) -> str:
        """Of all that an answer follows from beside the question and the passages; reads every parameter."""
        settings, encoder = json.dumps(to_json(self.config), sort_keys=True), self.retrieval.encoder
        return fingerprint(encoder.fingerprint(), self.reader.fingerprint(), settings, repr(self.confidence))

    def sees(self, question: str) -> str:
        """What of a question an answer can hang on: its word pieces as they are read, or all of it where words are
        searched for, too. Equal ones have one answer."""
        if self.retrieval.words is not None:
            return question
        return " ".join(map(str, self.retrieval.query_tokens(question).ids[0].tolist()))

    def search(
        self,
        query: str,
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | None = None,
    ) -> list[Match]:
        """The k passages with the highest inner product, BM25 added where it was trained so; see `Realm.search`."""
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
        early_exit: EarlyExit | None = None,
    ) -> Answer:
        """The likeliest answer, its text cut from a stored passage letter for letter.

        k: passages to read; as in training when None. where: a predicate on the documents. as_of: a version or a
        time, see `KnowledgeBase.version_at`.
        aggregate: "marginal" sums an answer's probability over all its spans and passages, "best-span" takes the
            largest; as in the model's settings when None. conflicts: when passages count as disagreeing.
        constraints: what the passages keep to besides `where`; p(z|x) is over those that do.
        early_exit: read no further than the answer hangs on; then evidence is what was read, and `Answer.unread` how
            much every p(y|x) may differ from that of a whole reading.
        Confidence is p(y|x) among all spans that were read, calibrated if the model was (for its own aggregate); below
        its threshold the answer abstains. A span reader has no null passage, so p(y|null,x) is 0 and RU without
        meaning: `retrieval_utility` is NaN and `null_prior` 0. Where there is nothing to read the answer abstains.
        UsageError for an empty question.
        """
        more: dict[str, Any] = {"aggregate": aggregate, "conflicts": conflicts, "constraints": constraints}
        more["early_exit"] = early_exit
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
        early_exit: EarlyExit | None = None,
        batch: int = 64,
    ) -> Iterator[Answer]:
        """The answers that `ask` would give, in order, `batch` questions at a time, as they come.

        The questions of a batch are encoded together, the vectors are read once for all of them, and all their passages
        are read in chunks of like length. An edit is seen by the next batch. UsageError for an empty question, before
        any of its batch is answered.
        """
        check_asking(aggregate, batch, k)
        how: dict[str, Any] = {"aggregate": aggregate, "conflicts": conflicts, "early_exit": early_exit}

        def answers() -> Iterator[Answer]:
            waiting, asked = iter(questions), 0
            while part := list(islice(waiting, batch)):
                for number, question in enumerate(part, asked + 1):
                    if not question.strip():
                        place = "" if number == 1 and len(part) == 1 else f" (number {number})"
                        raise UsageError(f"found an empty question{place}: expected some words")
                passages = k or self.num_passages
                found = self.retrieval.search_many(part, kb, passages, where, as_of, constraints)
                answered = self.read(part, found.matches, found.version, **how)
                yield from (replace(answer, now=found.now) for answer in answered)
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
        early_exit: EarlyExit | None = None,
    ) -> list[Answer]:
        """Answers from passages that were found before, whoever found them: `matches` of each question.

        version: of the knowledge base they are from. The rest as for `ask`.
        """
        check_asking(aggregate)
        named = aggregate or self.config.qa.aggregate
        confidence = self.confidence if named == self.config.qa.aggregate else Confidence()
        ranked, counts = [[*mine] for mine in matches], [len(mine) for mine in matches]
        if early_exit is not None:
            ranked = [sorted(mine, key=lambda match: -match.logit) for mine in ranked]
            counts = [early_exit.first([match.logit for match in mine]) if mine else 0 for mine in ranked]
        read = self._spans(questions, [mine[:count] for mine, count in zip(ranked, counts, strict=True)])
        parts = [self._extracted(*one, early_exit, named) for one in zip(read, ranked, strict=True)]
        rest = [
            number
            for number, (part, mine) in enumerate(zip(parts, ranked, strict=True))
            if early_exit is not None and len(part.spans.matches) < len(mine) and not part.ends(early_exit, confidence)
        ]
        others = self._spans([questions[n] for n in rest], [ranked[n][counts[n] :] for n in rest])
        for number, more in zip(rest, others, strict=True):
            parts[number] = self._extracted(parts[number].spans.beside(more), ranked[number], None, named)
        answers = []
        for question, mine, part in zip(questions, ranked, parts, strict=True):
            evidence = _Evidence(part.spans.matches, mine)
            sides = find_conflict(part.found, evidence, normalize=self.normalize, rule=conflicts)
            answer = as_answer(question, part.found, evidence, version, part.signals)
            answer = replace(answer, conflicts=sides, conflict=told(sides), unread=part.unread)
            answers.append(confidence(answer))
        return answers

    def _spans(self, questions: Sequence[str], matches: Sequence[Sequence[Match]]) -> list[Spans]:
        return read_spans(self.retrieval, self.reader, self.config.reader, questions, matches)

    def _extracted(self, spans: Spans, found: Sequence[Match], early_exit: EarlyExit | None, aggregate: str) -> Part:
        how: dict[str, Any] = {"level": self.config.qa.level, "aggregate": aggregate, "normalize": self.normalize}
        if early_exit is None or len(spans.matches) == len(found):
            return whole(spans, **how)
        most = room(self.config.reader) * self.reader.max_width
        return partly(spans, found, early_exit, highest=self.reader.head.highest(), most=most, **how)


class _Evidence:
    """What an answer rests on, among the passages that were read for its question."""

    def __init__(self, matches: Sequence[Match], found: Sequence[Match]) -> None:
        """found: all that p(z|x) is over, those that were read first."""
        self.matches = matches
        self.prior_K = objectives.prior_BK(logits_of(found))[0].tolist() if found else []

    def __call__(self, answer: Extracted) -> list[Evidence]:
        return [
            evidence_from(match, self.prior_K[k], math.exp(answer.log_posterior(k)), math.nan, answer.places.get(k))
            for k, match in enumerate(self.matches)
        ]


def open_model(name: str | Path, device: str = "cpu", *, bf16: bool | None = None) -> Realm | QuestionAnswering:
    """What answers: a fine-tuned model if that is one, else a pre-trained one; see `from_pretrained` of both.

    bf16: of a fine-tuned model, see there; UsageError for another.
    """
    if is_answerer(name):
        return QuestionAnswering.from_pretrained(name, device=device, bf16=bf16)
    if bf16:
        raise UsageError(f"found bf16 with {name}: expected a fine-tuned model; a pre-trained one reads in float32")
    return Realm.from_pretrained(name, device=device)
