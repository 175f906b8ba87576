"""Words and vectors together: BM25's score added to the inner product (Karpukhin et al. 2020, section 5.1, who re-rank
the union of both lists by a weighted sum).

    f(x, z) = BM25(x, z) / temperature + Embed_input(x)^T Embed_doc(z)

The early loss is of the vectors alone, which else would learn only what words leave to be said. The weight of the sum
is a setting; the reader's loss, which has the sum, settles the balance.

Legend: B questions, W passages that words find, E passages (labelled ones last), K passages kept, G labelled rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from realm.methods.retrievers import Candidates, DenseRetriever, with_labelled
from realm.search.postings import Bm25
from realm.types import NO_ROW, Hits, Tokens, Trainable

WORDS = 100
"""Passages of the list by words. One that it lacks has the lowest score of the list, as in Lin et al.'s (2021) hybrid
search; a list that ends earlier has found every passage with a common term, and what it lacks has none: 0."""

KNOWN = 1 << 16
"""Questions whose lists by words are kept, 1.2 kB each."""


class FusedRetriever:
    """The union of the best by words and the best by vectors, ranked by the sum of both scores."""

    def __init__(self, dense: DenseRetriever, engine: Bm25, *, temperature: float = 1.0) -> None:
        self.dense, self.engine, self.temperature = dense, engine, temperature
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def training(self) -> bool:
        return self.dense.training

    def train(self, mode: bool) -> None:
        self.dense.train(mode)

    def candidates(
        self, questions: Sequence[str], query: Tokens, k: int, labelled_BG: Tensor | None = None
    ) -> Candidates:
        words = self._words(questions)
        more_BW = words.rows
        if labelled_BG is not None:
            twice_BG = (labelled_BG[:, :, None] == words.rows[:, None, :]).any(-1)
            more_BW = torch.cat([words.rows, labelled_BG.masked_fill(twice_BG, NO_ROW)], 1)
        found = self.dense.candidates(questions, query, k, more_BW)
        device = found.score_BE.device
        score_BE = found.score_BE + (by_words(words, found.rows_BE) / self.temperature).to(device)  # none stays -inf
        among = found.retrieved + words.rows.shape[1]
        place_BE = score_BE[:, :among].detach().argsort(dim=1, descending=True, stable=True)[:, :k].cpu()
        retrieved = place_BE.shape[1]
        rows_BE, labelled_BE = with_labelled(found.rows_BE.gather(1, place_BE), labelled_BG)
        added_BG = rows_BE[:, retrieved:]
        if added_BG.shape[1]:
            place_BG = (added_BG[:, :, None] == found.rows_BE[:, None, :]).int().argmax(-1)
            place_BE = torch.cat([place_BE, place_BG], 1)
        place_BE, none_BE = place_BE.to(device), (rows_BE == NO_ROW).to(device)
        score_BE, learnt_BE = (
            each.gather(1, place_BE).masked_fill(none_BE, -torch.inf) for each in (score_BE, found.score_BE)
        )
        return Candidates(rows_BE, score_BE, retrieved, labelled_BE, learnt_BE)

    def _words(self, questions: Sequence[str]) -> Hits:
        """Hits[B, W]. Nothing of it learns, so what was asked in one epoch is known in the next."""
        new = [question for question in dict.fromkeys(questions) if question not in self._known]
        if len(self._known) + len(new) > KNOWN:
            self._known, new = {}, [*dict.fromkeys(questions)]
        if new:
            hits = self.engine(new, WORDS)
            self._known.update(zip(new, zip(hits.rows, hits.scores, strict=True), strict=True))
        known = [self._known[question] for question in questions]
        return Hits(torch.stack([rows for rows, _ in known]), torch.stack([scores for _, scores in known]))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return self.dense.parameter_groups()

    def modules(self) -> Mapping[str, Trainable]:
        return self.dense.modules()


def by_words(words: Hits, rows_BE: Tensor) -> Tensor:
    """Float[B, E]: what a list by words, Hits[B, W], gives the passages Long[B, E]; see `WORDS`."""
    there_BEW = (rows_BE[:, :, None] == words.rows[:, None, :]) & (rows_BE != NO_ROW)[:, :, None]
    full_B = (words.rows != NO_ROW).all(1)
    least_B = torch.where(full_B, words.scores.amin(1), torch.zeros(len(words.rows)))
    score_BE = words.scores.masked_fill(words.rows == NO_ROW, 0.0).gather(1, there_BEW.int().argmax(-1))
    return torch.where(there_BEW.any(-1), score_BE, least_B[:, None])
