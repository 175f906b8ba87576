"""What finds the passages of a question, scored so that training can move it where something of it learns.

`OpenQA` holds one of these: networks (ORQA, REALM) or words (BM25). All they share is `candidates`.

Legend: B questions, E passages (labelled ones last), G labelled rows, D vector size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from realm import objectives
from realm.methods.proposing import stale_copy
from realm.search.postings import Bm25
from realm.types import NO_ROW, Index, Tokens, Trainable, TrainableEncoder

DOCUMENTS = ("frozen", "refreshed")


class Candidates(NamedTuple):
    """What was retrieved for B questions, and how it scores."""

    rows_BE: Tensor
    """Long[B, E] on the CPU; NO_ROW where there is nothing."""
    score_BE: Tensor
    """f(x, z); -inf where there is nothing."""
    retrieved: int
    """So many of E are search results, best first; labelled rows stand behind them."""
    labelled_BE: Tensor
    """Bool[B, E] on the CPU: rows that the set names."""
    learnt_BE: Tensor | None = None
    """What of `score_BE` the retriever learns, which the early loss is of; None where that is all of it."""


class QuestionRetriever(Protocol):
    """Passages for questions. Later retrievers (multi-vector, fused, re-ranked) join `OpenQA` through this."""

    @property
    def training(self) -> bool: ...

    def train(self, mode: bool) -> None: ...

    def candidates(
        self, questions: Sequence[str], query: Tokens, k: int, labelled_BG: Tensor | None = None
    ) -> Candidates:
        """The k best passages of each question; labelled rows (NO_ROW as padding) behind, where not found anyway.

        questions, query: the same questions as texts and as [CLS] question [SEP]. Scores carry gradients where the
        retriever learns.
        """
        ...

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """What learns, by role."""
        ...

    def modules(self) -> Mapping[str, Trainable]:
        """What a checkpoint keeps, by name."""
        ...


class Passages(Protocol):
    """What embedding of candidates reads of a snapshot."""

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens: ...


class DenseRetriever:
    """Vectors of questions against an index of passages (Lee et al. 2019; Guu et al. 2020, section 3.2)."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        corpus: Passages,
        index: Index,
        *,
        index_encoder: TrainableEncoder | None = None,
        documents: str = "frozen",
        max_passage_tokens: int = 288,
    ) -> None:
        """
        encoder: with "frozen" documents its passage side is what made `index` (see `models.freezing`).
        index: vectors of `corpus`.
        documents: "frozen" scores passages by their stored vectors; "refreshed" embeds every candidate with live
            parameters as pre-training does, proposes by `index_encoder`, and takes a new index by `swap`. Then the
            number of candidates is a matter of cost.
        max_passage_tokens: of the document encoder's input.
        """
        if documents not in DOCUMENTS:
            raise ValueError(f"found documents {documents!r}: expected one of {', '.join(DOCUMENTS)}")
        self.encoder, self.corpus, self.index, self.documents = encoder, corpus, index, documents
        self.index_encoder = (index_encoder or stale_copy(encoder)) if documents == "refreshed" else None
        self.max_passage_tokens = max_passage_tokens

    def swap(self, index: Index, index_encoder: TrainableEncoder) -> None:
        """Take a fresher index with the parameters that made it, between two steps; for "refreshed" documents."""
        self.index, self.index_encoder = index, index_encoder

    @property
    def training(self) -> bool:
        return self.encoder.training

    def train(self, mode: bool) -> None:
        self.encoder.train(mode)

    def candidates(
        self, questions: Sequence[str], query: Tokens, k: int, labelled_BG: Tensor | None = None
    ) -> Candidates:
        query_BD = self.encoder.encode_queries(query.to(self.encoder.device))
        with torch.no_grad():
            asked_BD = query_BD if self.index_encoder is None else self.index_encoder.encode_queries(query)
            found_BK = self.index.search(asked_BD.detach(), min(k, max(len(self.index), 1))).rows.cpu()
        rows_BE, labelled_BE = with_labelled(found_BK, labelled_BG)
        score_BE = objectives.scores(query_BD, self._vectors(rows_BE).to(query_BD.device))
        missing_BE = (rows_BE == NO_ROW).to(score_BE.device)
        return Candidates(rows_BE, score_BE.masked_fill(missing_BE, -torch.inf), found_BK.shape[1], labelled_BE)

    def _vectors(self, rows_BE: Tensor) -> Tensor:
        """Float[B, E, D]: as stored, without gradients, or by live parameters, each distinct passage once."""
        if self.documents == "frozen":
            return self.index.vectors(rows_BE)
        rows_U, where_BE = rows_BE.unique(return_inverse=True)
        tokens = self.corpus.passages(rows_U, self.max_passage_tokens).to(self.encoder.device)
        return self.encoder.encode_passages(tokens)[where_BE.to(self.encoder.device)]

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return self.encoder.parameter_groups()

    def modules(self) -> Mapping[str, Trainable]:
        own: dict[str, Trainable] = {"encoder": self.encoder}
        return own if self.index_encoder is None else {**own, "index_encoder": self.index_encoder}


class WordRetriever:
    """BM25, its score divided by a temperature: nothing of it learns.

    The reader's loss adds the retrieval score to its own of a span, so the score's scale matters: BM25's best hits lie
    whole units apart. Lee et al. (2019) learn the weight of this sum for their baseline of BM25 and BERT; here it is a
    setting, and the reader, which learns the scale of its own score, settles their balance.
    """

    def __init__(self, engine: Bm25, *, temperature: float = 1.0) -> None:
        self.engine, self.temperature = engine, temperature
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def candidates(
        self, questions: Sequence[str], query: Tokens, k: int, labelled_BG: Tensor | None = None
    ) -> Candidates:
        hits = self.engine(questions, min(k, max(len(self.engine), 1)))
        rows_BE, labelled_BE = with_labelled(hits.rows, labelled_BG)
        score_BE = hits.scores
        if rows_BE.shape[1] > hits.rows.shape[1]:
            added_BG = rows_BE[:, hits.rows.shape[1] :]
            score_BE = torch.cat([score_BE, self.engine.score(questions, added_BG)], 1)
        score_BE = (score_BE / self.temperature).to(query.ids.device)
        return Candidates(rows_BE, score_BE, hits.rows.shape[1], labelled_BE)

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {}

    def modules(self) -> Mapping[str, Trainable]:
        return {}


def with_labelled(rows_BK: Tensor, labelled_BG: Tensor | None) -> tuple[Tensor, Tensor]:
    """Labelled rows put behind the retrieved ones, those that were not retrieved: (Long[B, K + G], which are labelled:
    Bool[B, K + G])."""
    if labelled_BG is None:
        return rows_BK, torch.zeros_like(rows_BK, dtype=torch.bool)
    there_BG = (labelled_BG[:, :, None] == rows_BK[:, None, :]).any(-1)
    rows_BE = torch.cat([rows_BK, labelled_BG.masked_fill(there_BG, NO_ROW)], 1)
    return rows_BE, (rows_BE[:, :, None] == labelled_BG[:, None, :]).any(-1) & (rows_BE != NO_ROW)
