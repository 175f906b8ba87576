"""The passages of questions put before the span reader: what each span of each of them scores, and which answers that
makes, of all passages or of the first of them.

Legend: N pairs of a question and a passage, K passages of one question, S spans of a passage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from realm import objectives, objectives_qa
from realm.answering.confidence import Confidence
from realm.answering.early import EarlyExit
from realm.answering.retrieving import DenseRetrieval
from realm.answering.tokens import pad
from realm.knowledge.base import Match
from realm.methods.extraction import Extracted, extract, signals_of
from realm.models.backbone import pieces
from realm.models.span import SpanReader
from realm.settings_finetune import SpanReaderConfig


class Spans(NamedTuple):
    """Of one question's passages, on the CPU."""

    matches: list[Match]
    logit_KS: Tensor
    """Float[K, S]; anything where not valid."""
    valid_KS: Tensor
    """Bool[K, S]"""
    start_S: Tensor
    end_S: Tensor
    """As `SpanLogits` has them."""
    offsets: list[np.ndarray]
    """Of each passage, where its word pieces stand in its text: Int[L, 2]."""

    def beside(self, others: Spans) -> Spans:
        """With those of further passages behind them."""
        longest = max((self, others), key=lambda one: len(one.start_S))
        first, second = self._filled(longest), others._filled(longest)
        return Spans(
            [*self.matches, *others.matches],
            torch.cat([first.logit_KS, second.logit_KS]),
            torch.cat([first.valid_KS, second.valid_KS]),
            longest.start_S,
            longest.end_S,
            [*self.offsets, *others.offsets],
        )

    def _filled(self, longest: Spans) -> Spans:
        """With as many spans as another: they are in order of their starts, so what lacks comes last."""
        more = len(longest.start_S) - len(self.start_S)
        return self._replace(
            logit_KS=nn.functional.pad(self.logit_KS, (0, more)), valid_KS=nn.functional.pad(self.valid_KS, (0, more))
        )


def read_spans(
    retrieval: DenseRetrieval,
    reader: SpanReader,
    config: SpanReaderConfig,
    questions: Sequence[str],
    matches: Sequence[Sequence[Match]],
) -> list[Spans]:
    """Read every question's passages, all in chunks of like length."""
    tokenizer, budget = retrieval.tokenizer, room(config)
    flat = [match for mine in matches for match in mine]
    if not flat:
        none, nowhere = torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
        return [Spans([], none, none.bool(), nowhere, nowhere, []) for _ in matches]
    texts = list(dict.fromkeys(match.passage.text for match in flat))
    made = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = dict(zip(texts, made["input_ids"], strict=True))
    titles = pieces(tokenizer, [match.passage.title if config.with_title else "" for match in flat])
    heads = [[*title[: budget - 1], tokenizer.sep_token_id] if title else [] for title in titles]
    rows = [[*head, *ids[m.passage.text][: budget - len(head)]] for head, m in zip(heads, flat, strict=True)]
    before_N = torch.tensor([len(head) for head in heads])
    counts = [len(mine) for mine in matches]
    spans = reader.span_logits(
        retrieval.query_tokens(*questions),
        pad(rows, tokenizer.pad_token_id, before_N.tolist()),
        torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        before_N=before_N,
    )
    offsets = {t: np.array(o).reshape(-1, 2) for t, o in zip(texts, made["offset_mapping"], strict=True)}
    start_S, end_S = spans.start_S.cpu(), spans.end_S.cpu()
    each = zip(matches, spans.logit_NS.cpu().split(counts), spans.valid_NS.cpu().split(counts), strict=True)
    return [
        Spans([*mine], logit_KS, valid_KS, start_S, end_S, [offsets[match.passage.text] for match in mine])
        for mine, logit_KS, valid_KS in each
    ]


def room(config: SpanReaderConfig) -> int:
    """Word pieces of a passage that are read at most."""
    return config.max_tokens - 3


class Part(NamedTuple):
    """What came of the passages of a question that were read so far."""

    spans: Spans
    found: list[Extracted]
    """The answers, by falling p(y|x)."""
    signals: dict[str, float]
    unread: float
    """U of `early`: the share that passages which were not read may have."""
    aggregate: str

    def ends(self, early_exit: EarlyExit, confidence: Confidence) -> bool:
        """Whether nothing that was not read can change what is answered."""
        if not early_exit.settled(self.found, self.unread, self.aggregate):
            return False
        return confidence.surely_answers([math.exp(one.log_prob) for one in self.found], self.unread)


def whole(spans: Spans, *, level: str, aggregate: str, normalize: Callable[[str], str], unread: float = 0.0) -> Part:
    """The answers of passages that were read. unread: a share of the probability that is none of theirs."""
    score_1K, joint_KS = logits_of(spans.matches), spans.logit_KS
    if spans.matches:
        scored = (score_1K, spans.logit_KS[None], spans.valid_KS[None])
        joint_KS = objectives_qa.span_log_prob_BKS(*scored, level=level)[0]
    if unread:
        joint_KS = joint_KS + (math.log1p(-unread) if unread < 1 else -math.inf)
    found = extract(
        joint_KS,
        spans.start_S,
        spans.end_S,
        [match.passage.text for match in spans.matches],
        spans.offsets,
        normalize=normalize,
        aggregate=aggregate,
    )
    return Part(spans, found, signals_of(score_1K[0], spans.logit_KS, spans.valid_KS), unread, aggregate)


def partly(
    spans: Spans,
    found: Sequence[Match],
    early_exit: EarlyExit,
    *,
    level: str,
    aggregate: str,
    normalize: Callable[[str], str],
    highest: float,
    most: int,
) -> Part:
    """The answers of the first of the passages that were found. highest, most: see `EarlyExit.unread`."""
    logits = [match.logit for match in found]
    unread = early_exit.unread(logits, spans.logit_KS, spans.valid_KS, level=level, highest=highest, most=most)
    part = whole(spans, level=level, aggregate=aggregate, normalize=normalize, unread=unread)
    if part.signals:
        part.signals["prior_entropy"] = float(objectives.entropy_B(objectives.prior_BK(logits_of(found)))[0])
    return part


def logits_of(matches: Sequence[Match]) -> Tensor:
    """f(x, z), a recency prior's log r(z) included. Float[1, K]"""
    return torch.tensor([[match.logit for match in matches]])
