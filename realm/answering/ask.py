"""A trained model and a knowledge base: a sentence with a blank in, an answer with its evidence out.

Legend: K passages read, the null passage at index 0; C candidate answers, of T word pieces each.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realm import objectives
from realm.answering.candidates import Candidate, find_candidates, open_tagger
from realm.answering.pretrained import open_parts, save_model
from realm.answering.retrieving import DenseRetrieval
from realm.answering.tokens import body_tokens, cloze_tokens, pad
from realm.config import PretrainConfig
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.types import Answer, Evidence, Progress, Tokens

ALTERNATIVES = 4


class Realm:
    """A retriever and a reader that learnt together.

    ::

        model = Realm.from_pretrained("runs/vital")
        answer = model.ask("Guernica was painted by [MASK].", kb, k=5, where="source = 'wikipedia'")
    """

    def __init__(self, encoder: DenseEncoder, reader: ClozeReader, config: PretrainConfig) -> None:
        self.encoder = encoder.eval()
        self.reader = reader.eval()
        self.config = config
        self.tokenizer = encoder.tokenizer
        self.retrieval = DenseRetrieval(
            encoder,
            max_query_tokens=config.data.max_query_tokens,
            max_passage_tokens=config.data.max_passage_tokens,
        )
        self._tagger: Any = None

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "cpu") -> Realm:
        """Open a run (its newest checkpoint), one checkpoint of a run, a model folder, or a model of the catalogue.

        ArtefactError when it is none of these.
        """
        return cls(*open_parts(path, device))

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write a model folder that `from_pretrained` opens. card: the text of its README.md."""
        save_model(Path(folder), self.encoder, self.reader, self.config, card=card)

    # ------------------------------------------------------------ retrieving

    @property
    def passage_encoder(self) -> PassageEncoder:
        """What `KnowledgeBase.embed_missing` and `update` need: passages to vectors, and whose they are."""
        return self.retrieval.passage_encoder

    def prepare(self, kb: KnowledgeBase, progress: Progress | None = None) -> int:
        """Embed the passages that have no vector of this model yet; returns how many. After an edit, a handful."""
        return self.retrieval.prepare(kb, progress)

    def search(
        self, query: str, kb: KnowledgeBase, k: int = 5, where: str | None = None, as_of: int | None = None
    ) -> list[Match]:
        """The k passages with the highest inner product. A blank in the query is masked as in training."""
        return self.retrieval.search(query, kb, k, where, as_of)

    # ------------------------------------------------------------ answering

    def ask(
        self, question: str, kb: KnowledgeBase, k: int = 5, where: str | None = None, as_of: int | None = None
    ) -> Answer:
        """Fill the blank: p(y|x) = sum over z of p(z|x) p(y|z,x), z over retrieved passages and the null passage.

        question: a sentence with one blank, [MASK] or ____. k: answers are looked for in the first k passages, and so
        many are shown; read are at least as many as in training, where p(null|x) learnt how many it stands against.
        where: a predicate on the documents. as_of: a version.
        Answers of different lengths are compared by log p(y|x) per word piece. The answer abstains (and is empty) when
        no passage satisfies `where`, or none holds a name or a date. UsageError without exactly one blank.
        """
        cloze_tokens(self.tokenizer, question, 1, self.config.data.max_query_tokens)  # the question is checked first
        in_training = self.config.realm.num_candidates - int(self.config.realm.null_passage)
        matches = self.search(question, kb, max(k, in_training), where, as_of)
        version = kb.version if as_of is None else as_of
        passages = [match.passage for match in matches[:k]]
        if self._tagger is None and passages:
            self._tagger = open_tagger(self.config.data.spans_pipeline)
        candidates = (
            find_candidates(self._tagger, self.tokenizer, passages, question, self.config.data.max_targets)
            if passages
            else []
        )
        if not candidates:
            return Answer(question, "", 0.0, True, (), 1.0, (), version)
        return self._read(question, matches, candidates, version, k)

    @torch.inference_mode()
    def _read(
        self, question: str, matches: list[Match], candidates: list[Candidate], version: int, shown: int
    ) -> Answer:
        # ---- p(z|x), the null passage being candidate 0
        null = pad([[self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.sep_token_id]], 0, [2])
        query_1D = self.retrieval.query_vectors(question)
        null_score = float((query_1D @ self.encoder.encode_passages(null).T)[0, 0] + self.encoder.null_bias)
        if not self.config.realm.null_passage:  # it was no candidate in training; it stays what RU counts from
            null_score = -math.inf
        score_K = torch.tensor([null_score, *(match.score for match in matches)])
        log_prior_K = objectives.log_prior_BK(score_K[None])[0]

        # ---- p(y|z,x) of every candidate
        bodies = body_tokens(
            self.tokenizer,
            [match.passage for match in matches],
            self.config.data.max_passage_tokens - 2,
            with_title=self.config.reader.with_title,
        )
        logp_KC = self._log_prob(question, bodies, candidates)

        # ---- the marginal, per word piece so that short answers have no advantage
        length_C = torch.tensor([len(candidate.ids) for candidate in candidates])
        marginal_C = (log_prior_K[:, None] + logp_KC).logsumexp(0) / length_C
        confidence_C = marginal_C.softmax(0)
        order = marginal_C.argsort(descending=True, stable=True).tolist()
        best = order[0]
        posterior_K = (log_prior_K + logp_KC[:, best]).softmax(0)
        evidence = [
            _evidence(match, i, candidates[best], score_K, log_prior_K, posterior_K, logp_KC[:, best])
            for i, match in enumerate(matches, start=1)
        ]
        return Answer(
            question=question,
            text=candidates[best].text,
            confidence=float(confidence_C[best]),
            abstained=False,
            evidence=tuple(sorted(evidence, key=lambda e: -e.posterior)[:shown]),
            null_prior=float(log_prior_K[0].exp()),
            alternatives=tuple((candidates[c].text, float(confidence_C[c])) for c in order[1 : 1 + ALTERNATIVES]),
            knowledge_base_version=version,
        )

    def _log_prob(self, question: str, bodies: Tokens, candidates: Sequence[Candidate]) -> Tensor:
        """log p(y|z,x), Float[K, C]: one pass of the reader for each number of word pieces."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for c, candidate in enumerate(candidates):
            by_length[len(candidate.ids)].append(c)
        logp_KC = torch.zeros(len(bodies), len(candidates))
        for length, places in sorted(by_length.items()):
            query, position_T = cloze_tokens(self.tokenizer, question, length, self.config.data.max_query_tokens)
            wanted_CT = torch.tensor([candidates[c].ids for c in places])
            logp_KC[:, places] = self.reader.score_candidates(query, bodies, position_T, wanted_CT).float().cpu()
        return logp_KC


def _standing(answer: str, text: str) -> tuple[int, int] | None:
    """Where the answer stands in a passage whose tagger missed it, as whole words and whatever the case."""
    found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)
    return found.span() if found else None


def _evidence(
    match: Match, i: int, answer: Candidate, score_K: Tensor, log_prior_K: Tensor, posterior_K: Tensor, logp_K: Tensor
) -> Evidence:
    return Evidence(
        passage=match.passage,
        document_version=match.document_version,
        score=float(score_K[i]),
        prior=float(log_prior_K[i].exp()),
        posterior=float(posterior_K[i]),
        retrieval_utility=float(logp_K[i] - logp_K[0]),
        span=answer.places.get(i - 1) or _standing(answer.text, match.passage.text),
        source=match.source,
        date=match.date,
        url=match.url,
    )
