"""REALM pre-training (Guu, Lee, Tung, Pasupat & Chang 2020, section 3).

    p(y|x) = sum over z of p(z|x) p(y|z,x)                                        (eq. 1)

x is a sentence with a salient span masked, y the span, z a passage. A stale index proposes candidates; live
parameters score and read them. Passages that help more than average to predict y are pulled towards x, the
others pushed away: the gradient of a score is r(z) = p(z|y,x) - p(z|x).

Legend: B queries, K candidates (null passage included, at index 0), U distinct passages of the batch,
T target word pieces, D vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from realm import objectives
from realm.methods.proposing import Proposer
from realm.search.drift import top_drift
from realm.types import NO_ROW, Index, Loss, MaskedBatch, PassageSource, Reader, Tokens, Trainable, TrainableEncoder

Watch = Callable[[Tensor, Tensor, Tensor], object]
"""(rows Long[B, K], the index's scores Float[B, K], the live ones Float[B, K]) -> anything."""
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
    index_BK: Tensor
    """The score by which the index proposed a candidate; NaN for the others and the null passage."""


class RealmPretraining:
    """REALM as a method: a dense retriever, a reader per passage, and the marginal likelihood."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        reader: Reader,
        corpus: Corpus,
        proposer: Proposer,
        *,
        marginal: str = "sequence",
        objective: str = "marginal",
        distillation_temperature: float = 1.0,
        null_passage: bool = True,
        max_passage_tokens: int = 288,
        max_reader_tokens: int = 286,
        reader_title: bool = False,
    ) -> None:
        """
        proposer: retrieves from the stale index; K is what it proposes, and the null passage (section 4.3: 8 in all).
        marginal: "sequence" as the paper writes it, "token" as the released code computes it.
        objective: one of `OBJECTIVES`: what teaches the retriever; the reader learns from a likelihood in all of them.
        max_passage_tokens: budget of the document encoder's input, specials and title counted.
        max_reader_tokens: budget of the passage body in the reader's joint input.
        """
        self.encoder = encoder
        self.reader = reader
        self.corpus = corpus
        self.proposer = proposer
        if objective not in OBJECTIVES:
            raise ValueError(f"found objective {objective!r}: expected one of {', '.join(OBJECTIVES)}")
        self.marginal = marginal
        self.objective, self.distillation_temperature = objective, distillation_temperature
        self.null_passage = null_passage
        self.max_passage_tokens = max_passage_tokens
        self.max_reader_tokens = max_reader_tokens
        self.reader_title = reader_title
        self.watch: Watch | None = None
        """Is told of the proposals of every `loss`; the refresh measures by them how old the index has become."""

    def swap(self, index: Index, index_encoder: TrainableEncoder) -> None:
        """Take a fresher index, together with the parameters that made it, between two steps.

        A query is proposed for by the same parameters that embedded the passages, as in the release: vectors of two
        different steps do not live in one space, and the proposals would get worse from step to step.
        """
        self.proposer.index, self.proposer.index_encoder = index, index_encoder

    @property
    def index(self) -> Index:
        return self.proposer.index

    @property
    def index_encoder(self) -> TrainableEncoder:
        return self.proposer.index_encoder

    def loss(self, batch: MaskedBatch) -> Loss:
        """Negative marginal log-likelihood of the masked spans (or another objective), and what is worth watching."""
        reading = self.read(batch)
        if self.watch is not None:
            self.watch(reading.rows_BK, reading.index_BK, reading.score_BK.detach())
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
        rows_BK, source_hit_B, changed, index_BK = self.proposer(query_BD.detach(), batch)
        if self.null_passage:
            rows_BK = nn.functional.pad(rows_BK, (1, 0), value=NO_ROW)
            index_BK = nn.functional.pad(index_BK, (1, 0), value=torch.nan)
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
        index_BK = index_BK.to(device)
        return Reading(rows_BK, valid_BK.to(device), score_BK, logp_BKT, source_hit_B, changed, index_BK)

    @torch.no_grad()
    def calibrate_null(self, batch: MaskedBatch, total: Callable[[Tensor], Tensor] | None = None) -> None:
        """Set the null passage's level so that its score is the mean score of the retrieved passages of `batch`.

        Then p(null|x) starts near 1/K instead of wherever the geometry of the starting encoder puts it.
        total: the sum over the processes, each of which brings its part of the batch; None for one.
        """
        reading = self.read(batch)
        real_BK = reading.valid_BK.clone()
        real_BK[:, 0] = False
        score_BK = reading.score_BK.cpu().double()  # not every accelerator has doubles
        real, null_B = score_BK[real_BK.cpu()], score_BK[:, 0]
        sums = torch.stack([real.sum(), real.new_tensor(len(real)), null_B.sum(), real.new_tensor(len(null_B))])
        real_sum, real_count, null_sum, null_count = (sums if total is None else total(sums)).tolist()
        if real_count:
            self.encoder.null_bias.add_(real_sum / real_count - null_sum / null_count)

    @torch.no_grad()
    def statistics(self, reading: Reading, batch: MaskedBatch) -> dict[str, Tensor]:
        """What to watch, as detached scalars (see `objectives.marginal_stats`), and of the candidates:

        - ``duplicates``: the share of the retrieved passages that stand under another query of the batch already.
        - ``candidates_changed``: the share that re-ranking replaced; only with `over_retrieve`.
        - ``source_hit``: the share of sentences whose own passage would have been retrieved; only if X is Z.
        - ``top_drift``: how far live scores reorder what the index proposed, see `search.drift`.
        """
        target_mask_BT = batch.target.mask.to(reading.score_BK.device)
        stats = objectives.marginal_stats(reading.score_BK, reading.logp_BKT, target_mask_BT, reading.valid_BK)
        if not self.null_passage:  # candidate 0 is a passage like the others: utility has no zero to count from
            stats = {name: stats[name] for name in ("log_likelihood", "prior_entropy")}
        row_M = reading.rows_BK[reading.rows_BK != NO_ROW]
        stats["duplicates"] = torch.tensor(1.0 - len(row_M.unique()) / max(1, len(row_M)))
        stats["top_drift"] = top_drift(reading.index_BK, reading.score_BK)
        if self.proposer.over_retrieve > 1:
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
