"""The Inverse Cloze Task: the retriever's warm start (Lee, Chang & Toutanova 2019; Guu et al. 2020, section 3.4).

Given a sentence, pick the passage it was taken from among all passages of the batch. The sentence is removed
from its passage nine times in ten, so that the encoder learns what a passage is about and still some matching
of words.

Legend: B pairs of this process, M of all processes, D vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from realm import objectives
from realm.types import Loss, PairBatch, Tokens, Trainable, TrainableEncoder


class InverseCloze:
    """ICT as a method: an encoder and the softmax over the global batch."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        *,
        gather: Callable[[Tensor], tuple[Tensor, int]] | None = None,
        chunk_tokens: int | None = None,
    ) -> None:
        """
        encoder: the embedder; one for queries and passages, or two towers inside.
        gather: Float[B, D] of each process -> Float[M, D] of all, differentiable, and where ours begin; None for one
            process.
        chunk_tokens: encode so many padded tokens at a time and compute them again in the backward pass, so that memory
            does not depend on the batch (GradCache, Gao et al. 2021); None keeps everything.
        """
        self.encoder = encoder
        self.gather = gather or (lambda x: (x, 0))
        self.chunk_tokens = chunk_tokens

    def loss(self, batch: PairBatch) -> Loss:
        """Cross-entropy of the right passage among the passages of all processes, queries to passages only. Copies of
        the right one are left out of a query's choice.

        Stats: accuracy, and accuracy apart for removed and kept sentences.
        """
        device = self.encoder.device
        query_BD = self._chunked(self.encoder.encode_queries, batch.query.to(device))
        passage_BD = self._chunked(self.encoder.encode_passages, batch.passage.to(device))
        passage_MD, first = self.gather(passage_BD)
        label_B = torch.arange(first, first + len(query_BD), device=query_BD.device)
        allowed_BM = None if batch.copies is None else ~batch.copies.to(query_BD.device)
        loss = objectives.in_batch_softmax(query_BD, passage_MD, label_B, allowed_BM)

        right_B = objectives.in_batch_correct_B(query_BD, passage_MD, label_B, allowed_BM).float()
        stats = {"loss": loss.detach(), "accuracy": right_B.mean()}
        if batch.removed is not None:
            removed_B = batch.removed.to(right_B.device)
            for name, chosen_B in (("accuracy_removed", removed_B), ("accuracy_kept", ~removed_B)):
                if bool(chosen_B.any()):
                    stats[name] = right_B[chosen_B].mean()
        whole = len(passage_MD) == len(query_BD)
        return Loss(loss, stats, weight=None if whole else torch.tensor(len(query_BD)))

    def _chunked(self, encode: Callable[[Tokens], Tensor], tokens: Tokens) -> Tensor:
        """Float[B, D]. The softmax needs all vectors at once, but no activations: those are computed a second time."""
        if self.chunk_tokens is None or tokens.ids.numel() <= self.chunk_tokens:
            return encode(tokens)
        size = max(1, self.chunk_tokens // tokens.ids.shape[1])
        order = tokens.lengths.argsort(stable=True)  # equal lengths together, so that chunks hold little padding
        chunks = [
            checkpoint(lambda index: encode(tokens.select(index)), index, use_reentrant=False)
            for index in order.split(size)
        ]
        return torch.cat(chunks)[order.argsort()]

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return self.encoder.parameter_groups()

    def modules(self) -> Mapping[str, Trainable]:
        return {"encoder": self.encoder}
