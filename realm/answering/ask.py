"""A trained model and a knowledge base: a sentence with a blank in, an answer with its evidence out.

Legend: K passages read, the null passage at index 0; C candidate answers, of T word pieces each.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realm import objectives
from realm.answering.candidates import Candidate, find_candidates, open_tagger
from realm.answering.conflicts import CONSIDERED, ConflictRule, find_conflict, told
from realm.answering.constraints import Constraints
from realm.answering.early import EarlyExit
from realm.answering.pretrained import open_parts, save_model
from realm.answering.retrieving import DenseRetrieval, evidence_from
from realm.answering.tokens import body_tokens, cloze_tokens, pad
from realm.config import PretrainConfig, to_json
from realm.errors import UsageError
from realm.evaluation.answers import normalize_orqa
from realm.files import fingerprint
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.knowledge.table.times import AsOf
from realm.methods.extraction import AGGREGATES, Extracted
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.types import Answer, Evidence, Progress, Tokens

ALTERNATIVES = 4
LEAST_OF_A_BLANK = 0.25
"""`ConflictRule.least` of a blank. Its answers share their probability by word pieces, which flattens it: with the span
reader's 36 of 120 blanks over documents that agree were said to be disputed, with this one 1."""
Span = tuple[int, int]


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

    def fingerprint(self) -> str:
        """Of all that an answer follows from beside the sentence and the passages; reads every parameter."""
        settings = json.dumps(to_json(self.config), sort_keys=True)
        return fingerprint(self.encoder.fingerprint(), self.reader.fingerprint(), settings)

    def sees(self, question: str) -> str:
        """What of a sentence an answer can hang on: all of it, as its candidates' words are looked for in it."""
        return question

    def prepare(self, kb: KnowledgeBase, progress: Progress | None = None) -> int:
        """Embed the passages that have no vector of this model yet; returns how many. After an edit, a handful."""
        return self.retrieval.prepare(kb, progress)

    def search(
        self,
        query: str,
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        constraints: Constraints | None = None,
    ) -> list[Match]:
        """The k passages with the highest inner product. A blank in the query is masked as in training."""
        return self.retrieval.search(query, kb, k, where, as_of, constraints)

    # ------------------------------------------------------------ answering

    def ask(
        self,
        question: str,
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        *,
        aggregate: str | None = None,
        conflicts: ConflictRule | None = None,
        constraints: Constraints | None = None,
        early_exit: EarlyExit | None = None,
    ) -> Answer:
        """Fill the blank: p(y|x) = sum over z of p(z|x) p(y|z,x), z over retrieved passages and the null passage.

        question: a sentence with one blank, [MASK] or ____. k: answers are looked for in the first k passages, and so
        many are shown; read are at least as many as in training, where p(null|x) learnt how many it stands against.
        where: a predicate on the documents. as_of: a version or a time, see `KnowledgeBase.version_at`.
        aggregate: "marginal" is the sum (also when None), "best-span" its largest term, the single best passage.
        conflicts: when passages count as disagreeing, see `LEAST_OF_A_BLANK`. constraints: what the passages keep to
        besides `where`; p(z|x) is over those that do.
        Answers of different lengths are compared by log p(y|x) per word piece. The answer abstains (and is empty) when
        no passage satisfies `where`, or none holds a name or a date. UsageError without exactly one blank, and for an
        early exit: every passage judges every candidate, so there is none.
        """
        more: dict[str, Any] = {"aggregate": aggregate, "conflicts": conflicts, "constraints": constraints}
        more["early_exit"] = early_exit
        (answer,) = self.ask_many([question], kb, k, where, as_of, **more)
        return answer

    def ask_many(
        self,
        questions: Iterable[str],
        kb: KnowledgeBase,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        *,
        aggregate: str | None = None,
        conflicts: ConflictRule | None = None,
        constraints: Constraints | None = None,
        early_exit: EarlyExit | None = None,
        batch: int = 64,
    ) -> Iterator[Answer]:
        """The answers that `ask` would give, in order, as they come. The questions of a batch are encoded and searched
        together; each is read for itself. UsageError without exactly one blank, before any of its batch is answered."""
        check_asking(aggregate, batch, k)
        if early_exit is not None:
            raise UsageError("found early_exit with a pre-trained model: expected a fine-tuned one, or none")
        in_training = self.config.realm.num_candidates - int(self.config.realm.null_passage)

        def answers() -> Iterator[Answer]:
            waiting = iter(questions)
            while part := list(islice(waiting, batch)):
                for question in part:  # they are checked first
                    cloze_tokens(self.tokenizer, question, 1, self.config.data.max_query_tokens)
                found = self.retrieval.search_many(part, kb, max(k, in_training), where, as_of, constraints)
                for question, matches in zip(part, found.matches, strict=True):
                    answer = self._answer(question, matches, found.version, k, aggregate == "best-span", conflicts)
                    yield replace(answer, now=found.now)

        return answers()

    def _answer(
        self,
        question: str,
        matches: list[Match],
        version: int,
        k: int,
        best_alone: bool,
        conflicts: ConflictRule | None,
    ) -> Answer:
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
        return self._read(question, matches, candidates, version, k, best_alone, conflicts)

    @torch.inference_mode()
    def _read(
        self,
        question: str,
        matches: list[Match],
        candidates: list[Candidate],
        version: int,
        shown: int,
        best_alone: bool,
        conflicts: ConflictRule | None,
    ) -> Answer:
        # ---- p(z|x), the null passage being candidate 0
        null = pad([[self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.sep_token_id]], 0, [2])
        query_1D = self.retrieval.query_vectors(question)
        null_score = float((query_1D @ self.encoder.encode_passages(null).T)[0, 0] + self.encoder.null_bias)
        if not self.config.realm.null_passage:  # it was no candidate in training; it stays what RU counts from
            null_score = -math.inf
        score_K = torch.tensor([null_score, *(match.logit for match in matches)])
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
        log_joint_KC = log_prior_K[:, None] + logp_KC

        def per_piece(log_joint_KC: Tensor) -> Tensor:
            return (log_joint_KC.amax(0) if best_alone else log_joint_KC.logsumexp(0)) / length_C

        marginal_C = per_piece(log_joint_KC)
        confidence_C = marginal_C.softmax(0)
        order = marginal_C.argsort(descending=True, stable=True).tolist()
        best = order[0]
        posterior_KC = log_joint_KC.softmax(0)

        def rests_on(c: int, posterior: Callable[[int], float], place: Callable[[int], Span | None]) -> list[Evidence]:
            """What candidate `c` rests on; the null passage, which RU counts from, is no evidence."""
            utility_K = logp_KC[:, c] - logp_KC[0, c]
            return [
                evidence_from(match, float(log_prior_K[i].exp()), posterior(i), float(utility_K[i]), place(i))
                for i, match in enumerate(matches, start=1)
            ]

        def evidence_of(answer: Extracted) -> list[Evidence]:
            """Of some passages' answer: whose word is one of the candidates, the places and shares its own."""
            c = number_of[answer.text]
            return rests_on(c, lambda i: math.exp(answer.log_posterior(i - 1)), lambda i: answer.places.get(i - 1))

        def stands(i: int) -> Span | None:
            """Where the best candidate stands in passage `i`, whose tagger may have missed it."""
            chosen = candidates[best]
            return chosen.places.get(i - 1) or _standing(chosen.text, matches[i - 1].passage.text)

        number_of = {candidate.text: c for c, candidate in enumerate(candidates)}
        evidence = rests_on(best, lambda i: float(posterior_KC[i, best]), stands)
        given = _given([candidates[c] for c in order[:CONSIDERED]], confidence_C[order], posterior_KC[:, order])
        plain_K = torch.tensor([null_score, *(match.score for match in matches)])
        ageless_C = per_piece(objectives.log_prior_BK(plain_K[None])[0][:, None] + logp_KC)
        sides = find_conflict(
            given,
            evidence_of,
            normalize=normalize_orqa,
            rule=_of_a_blank(conflicts),
            ageless=lambda text: float(ageless_C[number_of[text]]),
        )
        return Answer(
            question=question,
            text=candidates[best].text,
            confidence=float(confidence_C[best]),
            abstained=False,
            evidence=tuple(sorted(evidence, key=lambda e: -e.posterior)[:shown]),
            null_prior=float(log_prior_K[0].exp()),
            alternatives=tuple((candidates[c].text, float(confidence_C[c])) for c in order[1 : 1 + ALTERNATIVES]),
            knowledge_base_version=version,
            conflicts=sides,
            conflict=told(sides),
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


def _of_a_blank(rule: ConflictRule | None) -> ConflictRule:
    rule = rule or ConflictRule()
    return rule if rule.least is not None else replace(rule, least=LEAST_OF_A_BLANK)


def _given(candidates: Sequence[Candidate], confidence_C: Tensor, posterior_KC: Tensor) -> list[Extracted]:
    """Candidates as the passages in which they stand give them: a passage has the share p(z|x,y) of the confidence."""
    log_mass_CK = (confidence_C.log() + posterior_KC.log()).T.tolist()
    return [
        Extracted(candidate.text, log_total, dict(candidate.places), {k: log_mass_K[k + 1] for k in candidate.places})
        for candidate, log_total, log_mass_K in zip(candidates, confidence_C.log().tolist(), log_mass_CK, strict=False)
    ]


def check_asking(aggregate: str | None, batch: int = 1, k: int | None = None) -> None:
    """UsageError for an aggregate that is none, or for no question or passage at a time."""
    if aggregate not in (None, *AGGREGATES):
        raise UsageError(f"found aggregate={aggregate!r}: expected one of {', '.join(AGGREGATES)}")
    if batch < 1 or (k is not None and k < 1):
        raise UsageError(f"found batch={batch}, k={k}: expected at least 1")
