"""REALM pre-training (Guu, Lee, Tung, Pasupat & Chang 2020, section 3).

    p(y|x) = sum over z of p(z|x) p(y|z,x)                                        (eq. 1)

x is a sentence with a salient span masked, y the span, z a passage. A stale index proposes candidates; live
parameters score and read them. Passages that help more than average to predict y are pulled towards x, the
others pushed away: the gradient of a score is r(z) = p(z|y,x) - p(z|x).

Legend: B queries, K candidates (null passage included, at index 0), U distinct passages of the batch,
T target word pieces, D vector size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from realm import objectives
from realm.types import NO_ROW, Index, Loss, MaskedBatch, PassageSource, Reader, Tokens, Trainable, TrainableEncoder

OBJECTIVES = ("marginal", "emdr2", "perplexity-distillation", "leave-one-out")


class Corpus(PassageSource, Protocol):
    """What the method reads of a snapshot: encoder inputs (`passages`) and reader inputs (`bodies`)."""

    def bodies(self, rows: Tensor, max_tokens: int, with_title: bool = False) -> Tokens: ...


class Reading(NamedTuple):
    """Everything eq. 1 is made of, for one batch."""

    rows_BK: Tensor
    valid_BK: Tensor
    """False where there was no further passage to retrieve."""
    score_BK: Tensor
    """f(x, z); -inf where not valid."""
    logp_BKT: Tensor
    """log p(y_j | z, x)"""
    source_hit_B: Tensor | None
    """True where the passage the sentence came from would have been among the candidates; None if X is not Z."""
    changed: Tensor
    """Share of the proposed candidates that re-ranking with live parameters replaced."""


class RealmPretraining:
    """REALM as a method: a dense retriever, a reader per passage, and the marginal likelihood."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        reader: Reader,
        corpus: Corpus,
        index: Index,
        *,
        index_encoder: TrainableEncoder | None = None,
        num_candidates: int = 8,
        marginal: str = "sequence",
        objective: str = "marginal",
        distillation_temperature: float = 1.0,
        null_passage: bool = True,
        over_retrieve: int = 1,
        explore: int = 0,
        explore_depth: int = 200,
        max_passage_tokens: int = 288,
        max_reader_tokens: int = 286,
        reader_title: bool = False,
    ) -> None:
        """
        index: vectors of `corpus` by `index_encoder`, an older copy of `encoder`; see `swap`.
        num_candidates: K, the null passage counted (section 4.3 uses 8).
        marginal: "sequence" as the paper writes it, "token" as the released code computes it.
        objective: one of `OBJECTIVES`: what teaches the retriever; the reader learns from a likelihood in all of them.
        over_retrieve: fetch this many times K and keep the best by live parameters, a cure for a stale index.
        explore: so many of the K are drawn from the first `explore_depth` of the index instead of its top, each
            example by its own seed; batches without seeds (a probe's) are read without.
        max_passage_tokens: budget of the document encoder's input, specials and title counted.
        max_reader_tokens: budget of the passage body in the reader's joint input.
        """
        self.encoder = encoder
        self.reader = reader
        self.corpus = corpus
        self.index = index
        self.index_encoder = index_encoder or stale_copy(encoder)
        if objective not in OBJECTIVES:
            raise ValueError(f"found objective {objective!r}: expected one of {', '.join(OBJECTIVES)}")
        self.num_candidates = num_candidates
        self.marginal = marginal
        self.objective, self.distillation_temperature = objective, distillation_temperature
        self.null_passage = null_passage
        self.over_retrieve = over_retrieve
        self.explore, self.explore_depth = explore, explore_depth
        self.max_passage_tokens = max_passage_tokens
        self.max_reader_tokens = max_reader_tokens
        self.reader_title = reader_title

    def swap(self, index: Index, index_encoder: TrainableEncoder) -> None:
        """Take a fresher index, together with the parameters that made it, between two steps.

        A query is proposed for by the same parameters that embedded the passages, as in the release: vectors of two
        different steps do not live in one space, and the proposals would get worse from step to step.
        """
        self.index, self.index_encoder = index, index_encoder

    def loss(self, batch: MaskedBatch) -> Loss:
        """Negative marginal log-likelihood of the masked spans (or another objective), and what is worth watching."""
        reading = self.read(batch)
        score_BK, mask_BT = reading.score_BK, batch.target.mask.to(reading.score_BK.device)
        over: dict[str, Any] = {"level": self.marginal, "candidate_mask_BK": reading.valid_BK}
        total = self._objective(reading, mask_BT)
        stats = self.statistics(reading, batch)
        count = objectives.loss_count(score_BK, mask_BT, **over)
        return Loss(total, {"loss": total.detach(), **stats}, self.nll_B(reading, batch), count)

    def _objective(self, reading: Reading, mask_BT: Tensor) -> Tensor:
        found, valid_BK = (reading.score_BK, reading.logp_BKT, mask_BT), reading.valid_BK
        if self.objective == "marginal":
            return objectives.marginal_nll(*found, level=self.marginal, candidate_mask_BK=valid_BK)
        if self.objective == "emdr2":
            return objectives.emdr2_nll(*found, level=self.marginal, candidate_mask_BK=valid_BK)
        leave_one_out = self.objective == "leave-one-out"
        teach = objectives.leave_one_out_teacher_BK if leave_one_out else objectives.perplexity_teacher_BK
        teacher_BK = teach(*found, temperature=self.distillation_temperature, candidate_mask_BK=valid_BK)
        return objectives.distillation_nll(*found, teacher_BK, candidate_mask_BK=valid_BK)

    def read(self, batch: MaskedBatch) -> Reading:
        """Retrieve, score and read: the parts of eq. 1 for each query and candidate."""
        device = self.encoder.device
        query_BD = self.encoder.encode_queries(batch.query.to(device))

        # ---- retrieve: the stale index proposes (section 3.3)
        with torch.no_grad():
            rows_BK, source_hit_B, changed = self._candidates(query_BD.detach(), batch)
        valid_BK = rows_BK != NO_ROW
        if self.null_passage:
            valid_BK[:, 0] = True

        # ---- score: live parameters decide; a passage that stands under several queries is encoded once
        rows_U, where_BK = rows_BK.unique(return_inverse=True)
        passage_UD = self.encoder.encode_passages(self.corpus.passages(rows_U, self.max_passage_tokens).to(device))
        score_BK = objectives.scores(query_BD, passage_UD[where_BK.to(device)])
        if self.null_passage:
            level_K = nn.functional.pad(self.encoder.null_bias[None], (0, rows_BK.shape[1] - 1))
            score_BK = score_BK + level_K
        score_BK = score_BK.masked_fill(~valid_BK.to(device), -torch.inf)

        # ---- read: query and passage body attend to each other; the title stays with the retriever
        body = self.corpus.bodies(rows_BK.flatten(), self.max_reader_tokens, self.reader_title)
        logp_BKT = self.reader.log_prob(
            batch.query.to(device), body.to(device), batch.target.to(device), rows_BK.shape[1]
        )
        return Reading(rows_BK, valid_BK.to(device), score_BK, logp_BKT, source_hit_B, changed)

    @torch.no_grad()
    def calibrate_null(self, batch: MaskedBatch) -> None:
        """Set the null passage's level so that its score is the mean score of the retrieved passages of `batch`.

        Then p(null|x) starts near 1/K instead of wherever the geometry of the starting encoder puts it.
        """
        reading = self.read(batch)
        real_BK = reading.valid_BK.clone()
        real_BK[:, 0] = False
        if bool(real_BK.any()):
            gap = reading.score_BK[real_BK].mean() - reading.score_BK[:, 0].mean()
            self.encoder.null_bias.add_(gap)

    def _candidates(self, query_BD: Tensor, batch: MaskedBatch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Long[B, K] rows with the null passage first, on the CPU."""
        num_passages = self.num_candidates - int(self.null_passage)
        explore = self.explore if batch.seeds is not None else 0
        best, fetched = num_passages - explore, num_passages * self.over_retrieve
        stale_BD = self.index_encoder.encode_queries(batch.query.to(query_BD.device))
        depth = max(fetched, self.explore_depth) if explore else fetched
        hits = self.index.search(stale_BD, depth, exclude=batch.exclude_rows)
        pool_BC = hits.rows.cpu()
        source_hit_B = None
        known_B = batch.source_rows != NO_ROW
        if bool(known_B.any()):
            # The excluded source would have been a candidate if its stale score beats the last one kept.
            source_BD = self.index.vectors(batch.source_rows).to(stale_BD.device)
            last_B = hits.scores[:, min(best, hits.scores.shape[1]) - 1].to(stale_BD.device)
            source_hit_B = ((stale_BD.float() * source_BD).sum(-1) >= last_B).cpu() & known_B
        changed = torch.zeros(())
        rows_BK = pool_BC[:, :best]
        if self.over_retrieve > 1:
            proposed_BK, rows_BK = rows_BK, self._rerank(query_BD, pool_BC[:, :fetched])[:, :best]
            new_BK = (rows_BK[:, :, None] != proposed_BK[:, None, :]).all(-1)
            changed = new_BK.float().mean()
        if explore and batch.seeds is not None:
            rows_BK = torch.cat([rows_BK, drawn(pool_BC[:, : self.explore_depth], rows_BK, explore, batch.seeds)], 1)
        if self.null_passage:
            rows_BK = torch.cat([rows_BK.new_full((len(rows_BK), 1), NO_ROW), rows_BK], dim=1)
        return rows_BK, source_hit_B, changed

    def _rerank(self, query_BD: Tensor, rows_BC: Tensor) -> Tensor:
        rows_U, where_BC = rows_BC.unique(return_inverse=True)
        tokens = self.corpus.passages(rows_U, self.max_passage_tokens).to(query_BD.device)
        passage_UD = self.encoder.encode_passages(tokens)
        score_BC = objectives.scores(query_BD, passage_UD[where_BC.to(query_BD.device)]).cpu()
        order_BC = score_BC.masked_fill(rows_BC == NO_ROW, -torch.inf).argsort(dim=1, descending=True, stable=True)
        return rows_BC.gather(1, order_BC)

    @torch.no_grad()
    def statistics(self, reading: Reading, batch: MaskedBatch) -> dict[str, Tensor]:
        """What to watch, as detached scalars (see `objectives.marginal_stats`), and of the candidates:

        - ``duplicates``: the share of the retrieved passages that stand under another query of the batch already.
        - ``candidates_changed``: the share that re-ranking replaced; only with `over_retrieve`.
        - ``source_hit``: the share of sentences whose own passage would have been retrieved; only if X is Z.
        """
        target_mask_BT = batch.target.mask.to(reading.score_BK.device)
        stats = objectives.marginal_stats(reading.score_BK, reading.logp_BKT, target_mask_BT, reading.valid_BK)
        if not self.null_passage:  # candidate 0 is a passage like the others: utility has no zero to count from
            stats = {name: stats[name] for name in ("log_likelihood", "prior_entropy")}
        row_M = reading.rows_BK[reading.rows_BK != NO_ROW]
        stats["duplicates"] = torch.tensor(1.0 - len(row_M.unique()) / max(1, len(row_M)))
        if self.over_retrieve > 1:
            stats["candidates_changed"] = reading.changed
        if reading.source_hit_B is not None:
            stats["source_hit"] = reading.source_hit_B.float().mean()
        return stats

    @torch.no_grad()
    def nll_B(self, reading: Reading, batch: MaskedBatch) -> Tensor:
        """-log p(y|x) of each example, in the sequence form. Float[B]."""
        target_mask_BT = batch.target.mask.to(reading.score_BK.device)
        log_prior_BK = objectives.log_prior_BK(reading.score_BK, reading.valid_BK)
        return -(log_prior_BK + objectives.sequence_logp_BK(reading.logp_BKT, target_mask_BT)).logsumexp(-1)

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {**self.encoder.parameter_groups(), **self.reader.parameter_groups()}

    def modules(self) -> Mapping[str, Trainable]:
        return {"encoder": self.encoder, "reader": self.reader, "index_encoder": self.index_encoder}


def drawn(pool_BC: Tensor, chosen_BK: Tensor, count: int, seeds_B: Tensor) -> Tensor:
    """`count` rows of each pool that are not chosen yet, all equally likely. Long[B, count]; NO_ROW when it runs out.

    A function of the example's seed alone: not of what was drawn before, nor of the other examples.
    """
    key_BC = torch.stack([_uniform(seed, pool_BC.shape[1]) for seed in seeds_B.tolist()])
    taken_BC = (pool_BC[:, :, None] == chosen_BK[:, None, :]).any(-1) | (pool_BC == NO_ROW)
    key_BC, order_BC = key_BC.masked_fill(taken_BC, 2.0).sort(dim=1)
    rows_BC = pool_BC.gather(1, order_BC).masked_fill(key_BC == 2.0, NO_ROW)[:, :count]
    return nn.functional.pad(rows_BC, (0, count - rows_BC.shape[1]), value=NO_ROW)


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stale_copy(encoder: TrainableEncoder) -> TrainableEncoder:
    """An encoder's parameters as they are now, which no training moves."""
    copy = deepcopy(encoder)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    copy.train(False)
    return copy
