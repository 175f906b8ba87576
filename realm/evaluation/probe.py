"""The probe: held-out masked sentences, retrieved for and read without training on them.

Recall@k here is zero-shot: how often the masked string stands in one of the first k passages, the sentence's own
passage (or document) left out. It is the figure of Guu et al. 2020, section 4.5, on masked sentences instead of
questions. It counts strings, so a passage that mentions the answer by accident counts too; the same holds for
every system it is compared with.

Legend: P probe sentences, K candidates, T target word pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from realm.evaluation.retrieval import answer_ranks
from realm.types import Encoder, Hits, Index, MaskedBatch


@dataclass(frozen=True)
class ProbeRetrieval:
    """Which probe sentences were answered by the first k passages."""

    found: Mapping[int, np.ndarray]
    """k -> Bool[P]"""
    rows: np.ndarray
    """Int64[P, max k]"""

    def recall(self, k: int) -> float:
        return float(self.found[k].mean())


class Reads(Protocol):
    """A method that can show the parts of its likelihood (`RealmPretraining`)."""

    def read(self, batch: MaskedBatch) -> Any: ...

    def statistics(self, reading: Any, batch: MaskedBatch) -> dict[str, Tensor]: ...


def judge(
    rows_PK: Tensor, answers: Sequence[str], text_of: Callable[[int], str], ks: Sequence[int] = (1, 5, 20)
) -> ProbeRetrieval:
    """Look for each answer (normalised) in title and text of its passages, best first."""
    hits = Hits(rows_PK, torch.zeros(rows_PK.shape))
    ranks = answer_ranks(hits, [[answer] for answer in answers], text_of)
    return ProbeRetrieval({k: ranks < k for k in ks}, rows_PK.numpy())


@torch.inference_mode()
def probe_hits(encoder: Encoder, index: Index, batches: Sequence[MaskedBatch], k: int) -> Hits:
    """Search for every probe sentence with the live query encoder."""
    parts = []
    for batch in batches:
        query_BD = encoder.encode_queries(batch.query.to(encoder.device))
        parts.append(index.search(query_BD, k, exclude=batch.exclude_rows))
    return Hits(torch.cat([p.rows.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))


@torch.inference_mode()
def probe_reading(method: Reads, batches: Sequence[MaskedBatch]) -> dict[str, float]:
    """Mean over the probe of what the method logs in training: RU, null mass, entropy, log-likelihoods."""
    sums: dict[str, float] = {}
    count = 0
    for batch in batches:
        size = len(batch.query)
        for name, value in method.statistics(method.read(batch), batch).items():
            sums[name] = sums.get(name, 0.0) + float(value) * size
        count += size
    return {name: value / count for name, value in sums.items()}
