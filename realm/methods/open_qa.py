"""Open-domain question answering: fine-tuning a retriever and a span reader on questions and answers (Lee, Chang &
Toutanova 2019: ORQA; Guu et al. 2020, section 3: the same from a better start).

    p(y|x) = sum over passages z and spans s of z that read y, of p(s, z | x)

No passage is labelled: wherever an answer's word pieces stand, the span is right. Two losses: the reader's over the
spans of a few passages, and the retriever's own "early" one over many. By default passages stay as they are embedded
and only the question's side moves, so the index never ages.

Legend: B questions, E passages of the early loss (labelled ones last), K passages that are read, S spans of a passage,
U distinct passages of the batch, D vector size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from realm import objectives, objectives_qa
from realm.methods.extraction import Extracted, as_answer, extract, signals_of
from realm.methods.realm import Corpus as Read
from realm.methods.retrievers import Candidates, QuestionRetriever
from realm.methods.substitution import substitute
from realm.models.span import SpanLogits, SpanReader
from realm.types import NO_ROW, Answer, Evidence, Hits, Loss, Passage, Tokens, Trainable

LABELLED = ("none", "early", "both")
RECALL_AT = (1, 5, 20)
QUESTIONS_AT_ONCE = 16
"""Answered together; their spans' scores are in memory."""
PASSED_OVER = 100
"""Passages behind the first k that are looked at when some are passed over."""


class Corpus(Read, Protocol):
    """What the method reads of a snapshot."""

    @property
    def version(self) -> int: ...

    def text(self, row: int) -> str: ...

    def body_offsets(self, row: int) -> np.ndarray: ...

    def passage(self, row: int) -> Passage: ...

    def document_version(self, row: int) -> int | None: ...


class QuestionBatch(Protocol):
    """B questions, and where their answers stand in rows that are retrieved for them."""

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def query(self) -> Tokens: ...

    @property
    def labelled_rows(self) -> Tensor:
        """Long[B, G]"""
        ...

    @property
    def substitutes(self) -> Sequence[np.ndarray | None]:
        """Of each question, pieces that are read in the place of its answers; empty when all are left."""
        ...

    def spans(self, place: int, rows: np.ndarray) -> np.ndarray:
        """Int64[M, 3]: (index into `rows`, first piece, piece after the last)."""
        ...

    def holds(self, place: int, rows: np.ndarray) -> np.ndarray:
        """Bool[E]"""
        ...


class _Bodies(NamedTuple):
    """N passages as their reader sees them."""

    tokens: Tokens
    before_N: Tensor
    """Long[N]: so many first pieces are a title and its [SEP]."""
    place_N: Tensor
    """Long[N], sorted: b * K + k of passage k of question b."""


class OpenQA:
    """ORQA's fine-tuning as a method: a retriever, a span reader and two losses. Systems differ by what they hold."""

    def __init__(
        self,
        retriever: QuestionRetriever,
        reader: SpanReader,
        corpus: Corpus,
        *,
        normalize: Callable[[str], str],
        num_passages: int = 5,
        read_batch: int | None = None,
        num_early: int = 5000,
        early_weight: float = 1.0,
        level: str = "joint",
        labelled: str = "none",
        aggregate: str = "marginal",
        max_query_tokens: int = 64,
        max_reader_tokens: int = 286,
        reader_title: bool = False,
    ) -> None:
        """
        retriever: of rows of `corpus`; see `methods.retrievers`.
        normalize: of a text; answers that are equal after it are the same.
        num_passages: K, read for each question. read_batch: so many questions of a batch are read, its first; all when
            None. Reading is what costs, and the early loss learns from large batches.
        num_early: passages of the early loss, as many as the corpus has; 0 leaves it out, as it must be for a retriever
            that learns nothing.
        early_weight: of the early loss beside the reader's; the release adds them.
        level: see `objectives_qa.span_log_prob_BKS`.
        labelled: rows that the set names are put behind the retrieved ones: of the "early" loss, or of "both".
        aggregate: of `answer`, see `extraction.extract`.
        max_query_tokens: of a question that comes as a text, [CLS] and [SEP] counted.
        max_reader_tokens: of the passage in the reader's input.
        """
        if labelled not in LABELLED:
            raise ValueError(f"found labelled {labelled!r}: expected one of {', '.join(LABELLED)}")
        self.retriever, self.reader, self.corpus = retriever, reader, corpus
        self.normalize, self.level = normalize, level
        self.num_passages, self.read_batch, self.num_early = num_passages, read_batch, num_early
        self.early_weight = early_weight if num_early else 0.0
        self.labelled, self.aggregate = labelled, aggregate
        self.max_query_tokens = max_query_tokens
        self.max_reader_tokens, self.reader_title = max_reader_tokens, reader_title

    # ------------------------------------------------------------ learning

    def loss(self, batch: QuestionBatch) -> Loss:
        """The reader's loss plus the early one, each 0 for a question that has nothing correct in its own set.

        The means are over all questions of the batch, and over all that are read. Stats: both losses over the questions
        that have one, ``no_span`` and ``no_passage``, the shares that have not; ``recall@k`` of the search, by the
        answers' word pieces; ``span_match``, how often the likeliest span is a right one; the entropy of p(z|x) over
        the passages read.
        """
        labelled_BG = batch.labelled_rows if self.labelled != "none" else None
        most = max(self.num_early, self.num_passages)
        found = self.retriever.candidates(batch.texts, batch.query, most, labelled_BG)
        device = found.score_BE.device
        holds_BE = self._holds(batch, found.rows_BE)
        correct_BE = holds_BE | found.labelled_BE  # a label is right even where its text says it otherwise
        early_BE = found.score_BE if found.learnt_BE is None else found.learnt_BE
        early_B, has_passage_B = objectives_qa.early_nll_B(early_BE, correct_BE.to(device))

        size = len(found.rows_BE)
        read = min(self.read_batch or size, size)
        rows_BK, score_BK = (each[:read] for each in self._to_read(found))
        bodies = self._bodies(rows_BK)
        places_P3 = _places(batch, rows_BK, bodies)
        if len(bodies.place_N) and any(each is not None for each in batch.substitutes[:read]):
            substitutes_N = [batch.substitutes[b] for b in (bodies.place_N // rows_BK.shape[1]).tolist()]
            tokens, places_P3 = substitute(bodies.tokens, bodies.before_N.tolist(), places_P3, substitutes_N)
            bodies = bodies._replace(tokens=tokens)
        _, span_BKS, valid_BKS = self._read(batch.query.select(torch.arange(read)), bodies, rows_BK.shape)
        correct_BKS = self._correct(bodies, places_P3, span_BKS.shape).to(span_BKS.device)
        score_BK = score_BK.to(span_BKS.device)
        reader_B, has_span_B = objectives_qa.reader_nll_B(score_BK, span_BKS, correct_BKS, valid_BKS, level=self.level)

        total = objectives_qa.mean_of_counted(reader_B, has_span_B, float(read))
        total = total + self.early_weight * objectives_qa.mean_of_counted(early_B, has_passage_B, float(size))
        if torch.is_grad_enabled() and not total.requires_grad:  # words found nothing to read for any of them
            total = total + 0.0 * next(p for p in self.reader.parameters() if p.requires_grad).sum()
        with torch.no_grad():
            joint_BC = objectives_qa.span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level=self.level).flatten(1)
            right_BC = (correct_BKS & valid_BKS).flatten(1)
            # Words may find nothing at all, and then there is no span to be the likeliest.
            hit_B = (
                right_BC.gather(1, joint_BC.argmax(-1, keepdim=True))[:, 0] if right_BC.shape[1] else right_BC.any(1)
            )
            stats = {
                "loss": total.detach(),
                "no_span": 1 - has_span_B.float().mean(),
                "no_passage": 1 - has_passage_B.float().mean(),
                "span_match": hit_B.float().mean(),
                "prior_entropy": objectives.entropy_B(objectives.prior_BK(score_BK)).mean(),
            }
            for name, nll_B, has_B in (("reader_loss", reader_B, has_span_B), ("early_loss", early_B, has_passage_B)):
                if bool(has_B.any()) and (self.num_early or name != "early_loss"):
                    stats[name] = objectives_qa.mean_of_counted(nll_B, has_B)
            for k in sorted({*RECALL_AT, self.num_passages}):
                if k <= found.retrieved:
                    stats[f"recall@{k}"] = holds_BE[:, : min(k, found.retrieved)].any(-1).float().mean()
        whole_B = nn.functional.pad(reader_B, (0, size - read)) + self.early_weight * early_B
        return Loss(total, stats, whole_B.detach())

    def _to_read(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """Rows and scores of the best passages by live scores, and of the first labelled one if it is to be read."""
        k = min(self.num_passages, found.retrieved)
        score_BE = found.score_BE[:, : found.retrieved]
        # With frozen documents the search has sorted them already.
        best_BK = score_BE.detach().argsort(dim=1, descending=True, stable=True)[:, :k]
        rows_BK, score_BK = found.rows_BE.gather(1, best_BK.cpu()), found.score_BE.gather(1, best_BK)
        if self.labelled != "both":
            return rows_BK, score_BK
        # One more passage: the best labelled one, unless it is read anyway.
        place_B1 = found.score_BE.detach().masked_fill(~found.labelled_BE.to(score_BE.device), -torch.inf)
        place_B1 = place_B1.argmax(1, keepdim=True)
        none_B1 = ~found.labelled_BE.any(1, keepdim=True) | (best_BK == place_B1).any(1, keepdim=True).cpu()
        row_B1 = found.rows_BE.gather(1, place_B1.cpu()).masked_fill(none_B1, NO_ROW)
        score_B1 = found.score_BE.gather(1, place_B1).masked_fill(none_B1.to(score_BE.device), -torch.inf)
        return torch.cat([rows_BK, row_B1], 1), torch.cat([score_BK, score_B1], 1)

    def _bodies(self, rows_BK: Tensor) -> _Bodies:
        row_M = rows_BK.flatten()
        place_N = (row_M != NO_ROW).nonzero()[:, 0]
        tokens = self.corpus.bodies(row_M[place_N], self.max_reader_tokens, self.reader_title)
        before_N = (tokens.mask & (tokens.types == 0)).sum(1) if self.reader_title else torch.zeros_like(place_N)
        return _Bodies(tokens, before_N, place_N)

    def _read(self, query: Tokens, bodies: _Bodies, shape: Sequence[int]) -> tuple[SpanLogits, Tensor, Tensor]:
        """Span scores of every passage under its question: (spans, Float[B, K, S], valid Bool[B, K, S])."""
        size, k = shape
        spans = self.reader.span_logits(query, bodies.tokens, bodies.place_N // k, before_N=bodies.before_N)
        place_N = bodies.place_N.to(spans.logit_NS.device)
        whole = (size * k, spans.logit_NS.shape[1])
        logit_NS = spans.logit_NS.new_zeros(whole).index_copy(0, place_N, spans.logit_NS)
        valid_NS = spans.valid_NS.new_zeros(whole).index_copy(0, place_N, spans.valid_NS)
        return spans, logit_NS.view(size, k, -1), valid_NS.view(size, k, -1)

    def _holds(self, batch: QuestionBatch, rows_BE: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([batch.holds(b, rows) for b, rows in enumerate(rows_BE.numpy())]))

    def _correct(self, bodies: _Bodies, places_P3: np.ndarray, shape: Sequence[int]) -> Tensor:
        """Bool[B, K, S]: the spans that are an answer; wider ones, and what was cut off, never match."""
        widest, (size, k, spans) = self.reader.max_width, shape
        n_P, start_P, end_P = torch.from_numpy(places_P3).T
        span_P = start_P * widest + end_P - start_P - 1
        kept_P = (end_P - start_P <= widest) & (span_P < spans)
        correct_MS = torch.zeros(size * k, spans, dtype=torch.bool)
        correct_MS[bodies.place_N[n_P[kept_P]], span_P[kept_P]] = True
        return correct_MS.view(size, k, spans)

    # ------------------------------------------------------------ answering

    @torch.no_grad()
    def answer(
        self,
        questions: Sequence[str],
        k: int | None = None,
        *,
        query: Tokens | None = None,
        batch: int | None = None,
        without: Callable[[int, int], bool] | None = None,
    ) -> list[Answer]:
        """Answers with their evidence. k: passages to read; as in training when None.

        query: the questions as [CLS] question [SEP]; by default the reader's tokenizer makes them.
        without: (number of a question, row) -> whether the passage is passed over, as if it were not there; of those
            behind it so many are looked at as `k` and `PASSED_OVER` allow.
        An answer's confidence is p(y|x), the probability of its text among all spans read; evidence is every passage
        read, those with the answer first. A span reader has no null passage: `retrieval_utility` is NaN and
        `null_prior` 0. Where there is nothing to read, or no span with a letter, the answer abstains.
        """
        query = query if query is not None else self.tokens(questions)
        with self._at_rest():
            found: list[Answer] = []
            for at in torch.arange(len(questions)).split(batch or QUESTIONS_AT_ONCE):
                texts, wanted = [questions[i] for i in at.tolist()], k or self.num_passages
                kept = None if without is None else partial(_shifted, without, int(at[0]))
                found += self._answer(texts, query.select(at), wanted, kept)
            return found

    @torch.no_grad()
    def search(self, queries: Sequence[str], k: int, *, query: Tokens | None = None) -> Hits:
        """The k best passages of each question, or as many as there are; nothing is read."""
        with self._at_rest():
            found = self.retriever.candidates(queries, self.tokens(queries) if query is None else query, k)
        return Hits(found.rows_BE, found.score_BE.cpu())

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Without dropout; what was training goes on doing so."""
        training = self.retriever.training, self.reader.training
        self.retriever.train(False)
        self.reader.train(False)
        try:
            yield
        finally:
            self.retriever.train(training[0])
            self.reader.train(training[1])

    def tokens(self, questions: Sequence[str]) -> Tokens:
        """[CLS] question [SEP] by the reader's tokenizer, which is the retriever's, cut to `max_query_tokens`."""
        tokenizer: Any = self.reader.tokenizer
        max_tokens = self.max_query_tokens
        made = tokenizer(list(questions), truncation=True, max_length=max_tokens, padding=True, return_tensors="pt")
        ids, lengths = made["input_ids"], made["attention_mask"].sum(1)
        return Tokens(ids, torch.zeros_like(ids), lengths)

    def _answer(
        self, questions: Sequence[str], query: Tokens, k: int, without: Callable[[int, int], bool] | None
    ) -> list[Answer]:
        found = self.retriever.candidates(questions, query, k if without is None else k + PASSED_OVER)
        rows_BK, score_BK = found.rows_BE, found.score_BE
        if without is not None:
            rows_BK, score_BK = _passing_over(rows_BK, score_BK, k, without)
        spans, span_BKS, valid_BKS = self._read(query, self._bodies(rows_BK), rows_BK.shape)
        score_BK = score_BK.to(span_BKS.device)
        joint_BKS = objectives_qa.span_log_prob_BKS(score_BK, span_BKS, valid_BKS, level=self.level).cpu()
        prior_BK = objectives.prior_BK(score_BK).cpu()
        start_S, end_S = spans.start_S.cpu(), spans.end_S.cpu()
        answers = []
        for b, question in enumerate(questions):
            rows = rows_BK[b].tolist()
            extracted = extract(
                joint_BKS[b],
                start_S,
                end_S,
                [self.corpus.text(row) for row in rows],
                [self.corpus.body_offsets(row) for row in rows],
                normalize=self.normalize,
                aggregate=self.aggregate,
            )
            signals = signals_of(score_BK[b], span_BKS[b], valid_BKS[b])
            answers.append(self._told(question, rows, score_BK[b].tolist(), prior_BK[b].tolist(), extracted, signals))
        return answers

    def _told(
        self,
        question: str,
        rows: list[int],
        score_K: list[float],
        prior_K: list[float],
        found: list[Extracted],
        signals: Mapping[str, float],
    ) -> Answer:
        def evidence(best: Extracted) -> list[Evidence]:
            return [
                Evidence(
                    passage=self.corpus.passage(row),
                    document_version=self.corpus.document_version(row),
                    score=score_K[k],
                    prior=prior_K[k],
                    posterior=math.exp(best.log_posterior(k)),
                    retrieval_utility=math.nan,
                    span=best.places.get(k),
                )
                for k, row in enumerate(rows)
                if row != NO_ROW
            ]

        return as_answer(question, found, evidence, self.corpus.version, signals)

    # ------------------------------------------------------------ for the loop

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {**self.retriever.parameter_groups(), **self.reader.parameter_groups()}

    def modules(self) -> Mapping[str, Trainable]:
        return {**self.retriever.modules(), "reader": self.reader}


def _places(batch: QuestionBatch, rows_BK: Tensor, bodies: _Bodies) -> np.ndarray:
    """Int64[P, 3], (body n, first piece, piece after the last) of each answer to its question, in order."""
    n_M = np.full(rows_BK.numel(), NO_ROW)
    n_M[bodies.place_N.numpy()] = np.arange(len(bodies.place_N))
    found = [np.zeros((0, 3), np.int64)]
    for b, rows in enumerate(rows_BK.numpy()):
        places = batch.spans(b, rows)
        found.append(np.column_stack([n_M[b * len(rows) + places[:, 0]], places[:, 1:]]))
    return np.concatenate(found)


def _shifted(without: Callable[[int, int], bool], first: int, number: int, row: int) -> bool:
    return without(first + number, row)


def _passing_over(
    rows_BE: Tensor, score_BE: Tensor, k: int, without: Callable[[int, int], bool]
) -> tuple[Tensor, Tensor]:
    """The first k of each question that are not passed over; NO_ROW and -inf where there are fewer."""
    out_BE = torch.tensor(
        [[row == NO_ROW or without(b, row) for row in rows] for b, rows in enumerate(rows_BE.tolist())]
    )
    order_BK = out_BE.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
    out_BK = out_BE.gather(1, order_BK)
    rows_BK = rows_BE.gather(1, order_BK).masked_fill(out_BK, NO_ROW)
    score_BK = score_BE.gather(1, order_BK.to(score_BE.device))
    return rows_BK, score_BK.masked_fill(out_BK.to(score_BE.device), -torch.inf)
