"""A fine-tuned model and a knowledge base: a question in, a span of a passage out, with what it rests on.

    p(y|x) = sum over passages z and spans s of z that read y, of p(s, z | x)          (Lee et al. 2019)

The same model as `methods.open_qa.OpenQA` over documents that people edit: passages come from the knowledge base at
each question, not from a snapshot.

Legend: K passages, S spans of a passage, L word pieces.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from realm import objectives, objectives_qa
from realm.answering.answerer import answerer_folder, is_answerer, open_answerer
from realm.answering.ask import Realm
from realm.answering.confidence import Confidence, open_confidence
from realm.answering.retrieving import DenseRetrieval
from realm.answering.tokens import pad
from realm.errors import UsageError
from realm.evaluation.answers import NORMALIZERS
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.methods.extraction import Extracted, as_answer, extract
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
    def from_pretrained(cls, path: str | Path, *, device: str = "cpu") -> QuestionAnswering:
        """Open a model folder that `realm finetune` wrote, or its run. ArtefactError when it is neither."""
        return cls(*open_answerer(Path(path), device), open_confidence(answerer_folder(Path(path))))

    @torch.inference_mode()
    def ask(
        self,
        question: str,
        kb: KnowledgeBase,
        k: int | None = None,
        where: str | None = None,
        as_of: int | None = None,
    ) -> Answer:
        """The likeliest answer, its text cut from a stored passage letter for letter.

        k: passages to read; as in training when None. where: a predicate on the documents. as_of: a version.
        Confidence is p(y|x) among all spans that were read, calibrated if the model was; below its threshold the
        answer abstains. A span reader has no null passage: `retrieval_utility` is
        NaN and `null_prior` 0. Where there is nothing to read the answer abstains. UsageError for an empty question.
        """
        if not question.strip():
            raise UsageError("found an empty question: expected some words")
        matches = self.retrieval.search(question, kb, k or self.config.qa.num_passages, where, as_of)
        version = kb.version if as_of is None else as_of
        found = self._read(question, matches) if matches else []

        def evidence(best: Extracted) -> list[Evidence]:
            prior_K = objectives.prior_BK(torch.tensor([[match.score for match in matches]]))[0].tolist()
            return [
                Evidence(
                    passage=match.passage,
                    document_version=match.document_version,
                    score=match.score,
                    prior=prior_K[k],
                    posterior=math.exp(best.log_posterior(k)),
                    retrieval_utility=math.nan,
                    span=best.places.get(k),
                    source=match.source,
                    date=match.date,
                    url=match.url,
                )
                for k, match in enumerate(matches)
            ]

        return self.confidence(as_answer(question, found, evidence, version))

    def _read(self, question: str, matches: list[Match]) -> list[Extracted]:
        """Answers by falling probability."""
        tokenizer, budget = self.retrieval.tokenizer, self.config.reader.max_tokens - 3
        texts = [match.passage.text for match in matches]
        made = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        with_title = self.config.reader.with_title
        titles = pieces(tokenizer, [match.passage.title if with_title else "" for match in matches])
        heads = [[*title[: budget - 1], tokenizer.sep_token_id] if title else [] for title in titles]
        rows = [[*head, *ids[: budget - len(head)]] for head, ids in zip(heads, made["input_ids"], strict=True)]
        before_K = torch.tensor([len(head) for head in heads])
        body = pad(rows, tokenizer.pad_token_id, before_K.tolist())
        query = self.retrieval.query_tokens(question)
        spans = self.reader.span_logits(query, body, torch.zeros(len(matches), dtype=torch.long), before_N=before_K)
        score_1K = torch.tensor([[match.score for match in matches]], device=spans.logit_NS.device)
        joint_1KS = objectives_qa.span_log_prob_BKS(
            score_1K, spans.logit_NS[None], spans.valid_NS[None], level=self.config.qa.level
        )
        return extract(
            joint_1KS[0].cpu(),
            spans.start_S.cpu(),
            spans.end_S.cpu(),
            texts,
            [np.array(offsets).reshape(-1, 2) for offsets in made["offset_mapping"]],
            normalize=self.normalize,
            aggregate=self.config.qa.aggregate,
        )


def open_model(name: str | Path, device: str = "cpu") -> Realm | QuestionAnswering:
    """What answers: a fine-tuned model if that is one, else a pre-trained one; see `from_pretrained` of both."""
    if is_answerer(Path(name)):
        return QuestionAnswering.from_pretrained(name, device=device)
    return Realm.from_pretrained(name, device=device)
