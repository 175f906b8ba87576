"""From the hidden states of a text to one vector.

Legend for shapes: N texts, L tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from realm.errors import UsageError
from realm.types import Tokens

POOLINGS = ("cls", "cls-tanh", "mean", "weighted-mean")


class Pooling(nn.Module):
    """One vector for each text.

    ``cls``: the first token's hidden state. ``cls-tanh``: BERT's pooler on it, as in the released REALM; the pooler
    belongs to the backbone and is saved with it. ``mean``: over all tokens, specials included, as sentence encoders do.
    ``weighted-mean``: the same with one learned positive weight for each token id, all 1 at first (see `set_weights`).
    """

    def __init__(self, kind: str, vocab_size: int) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise UsageError(f"found pooling={kind!r}: expected one of {', '.join(POOLINGS)}")
        self.kind = kind
        # Kept as logarithms, so that training can't make a weight negative.
        self.log_weight = nn.Parameter(torch.zeros(vocab_size)) if kind == "weighted-mean" else None

    @torch.no_grad()
    def set_weights(self, weight_V: Tensor) -> None:
        """Start the token weights from positive figures such as IDF or SIF, Float[V]. UsageError when they don't
        fit."""
        if self.log_weight is None:
            raise UsageError(f"found pooling={self.kind!r}: only weighted-mean has token weights")
        if weight_V.shape != self.log_weight.shape or not bool((weight_V > 0).all()):
            raise UsageError(
                f"found token weights of shape {tuple(weight_V.shape)}: expected {len(self.log_weight)} positive "
                "figures"
            )
        self.log_weight.copy_(weight_V.log())

    @property
    def is_mean(self) -> bool:
        return self.kind in ("mean", "weighted-mean")

    def weights(self, ids: Tensor) -> Tensor:
        """Float[...]: of each token id in a mean."""
        if self.log_weight is None:
            return torch.ones(ids.shape, device=ids.device)
        return self.log_weight[ids].exp()

    def forward(self, hidden_NLH: Tensor, tokens: Tokens, pooler: nn.Module | None = None) -> Tensor:
        """Float[N, H]. pooler: the backbone's own, for ``cls-tanh``."""
        if self.kind == "cls":
            return hidden_NLH[:, 0]
        if self.kind == "cls-tanh":
            assert pooler is not None, "DenseEncoder opens the backbone with its pooler for cls-tanh"
            pooled: Tensor = pooler(hidden_NLH)
            return pooled
        weight_NL = self.weights(tokens.ids).to(hidden_NLH.dtype).masked_fill(~tokens.mask, 0.0)
        return torch.einsum("nlh,nl->nh", hidden_NLH, weight_NL) / weight_NL.sum(-1, keepdim=True)


def sentence_encoder_pooling(source: str | Path) -> str | None:
    """How a sentence-transformers checkpoint pools, from its ``1_Pooling/config.json``; None when it has none.

    UsageError for a way of pooling that is not ours.
    """
    from transformers.utils.hub import cached_file

    from realm.models.backbone import opening

    with opening(source):
        path = cached_file(
            source,
            "1_Pooling/config.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    if path is None:
        return None
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    chosen = [kind for kind, key in modes.items() if facts.get(key)] or [facts.get("pooling_mode")]
    if chosen not in (["cls"], ["mean"]):
        raise UsageError(
            f"{source} pools in a way that realm doesn't know ({path}): set pooling to one of {', '.join(POOLINGS)}"
        )
    return chosen[0]
