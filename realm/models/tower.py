"""One tower of a dense encoder: backbone, pooling, linear, normalisation, dropout.

Legend for shapes: N texts, L tokens, H hidden size, D vector size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import UsageError
from realm.models.backbone import hidden_states
from realm.models.pooling import Pooling
from realm.types import Tokens

NORMALISATIONS = ("layernorm", "none", "l2")
LAYER_NORM_EPSILON = 1e-12
"""The value of the released REALM checkpoints' embedder."""


class Tower(nn.Module):
    """Tokens to vectors: pool, linear with bias, normalise, then dropout while training (the order of the released
    code)."""

    def __init__(
        self, backbone: Any, *, pooling: str, dim: int | None, normalize: str, dropout: float, segments: bool
    ) -> None:
        """dim: None leaves the pooled vector as it is, without a linear layer."""
        super().__init__()
        if normalize not in NORMALISATIONS:
            raise UsageError(f"found normalize={normalize!r}: expected one of {', '.join(NORMALISATIONS)}")
        hidden_size = int(backbone.config.hidden_size)
        self.dim = hidden_size if dim is None else dim
        self.segments = segments
        self.normalize = normalize
        self.backbone = backbone
        self.pooling = Pooling(pooling, int(backbone.config.vocab_size))
        self.projection = nn.Identity() if dim is None else nn.Linear(hidden_size, dim)
        self.norm = nn.LayerNorm(self.dim, eps=LAYER_NORM_EPSILON) if normalize == "layernorm" else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    @property
    def is_bag(self) -> bool:
        """No layer and a mean: the order of the pieces can't matter, so positions are left out."""
        return self.pooling.is_mean and embedding_layer(self.backbone) is not None

    def pool(self, tokens: Tokens) -> Tensor:
        """Float[N, H]: what comes before the projection, in float32 even under autocast."""
        if self.is_bag:
            return self._bag(tokens)
        hidden_NLH = hidden_states(self.backbone, tokens, segments=self.segments).last_hidden_state
        # Scores are sums of D products of numbers near 1: half precision would cost the ranking and save nothing.
        with torch.autocast(hidden_NLH.device.type, enabled=False):
            pooled_NH: Tensor = self.pooling(_full(hidden_NLH), tokens, getattr(self.backbone, "pooler", None))
            return pooled_NH

    def forward(self, tokens: Tokens) -> Tensor:
        """Float[N, D]"""
        pooled_NH = self.pool(tokens)
        with torch.autocast(pooled_NH.device.type, enabled=False):
            vector_ND: Tensor = self.norm(self.projection(pooled_NH))
            if self.normalize == "l2":
                vector_ND = nn.functional.normalize(vector_ND, dim=-1)
            dropped_ND: Tensor = self.dropout(vector_ND)
            return dropped_ND

    def _bag(self, tokens: Tokens) -> Tensor:
        """Float[N, H]: weighted mean of the embeddings of the pieces. No padding is touched."""
        embeddings = embedding_layer(self.backbone)
        assert embeddings is not None
        mask_NL = tokens.mask
        ids_M = tokens.ids[mask_NL]
        weight_M = self.pooling.weights(ids_M)
        if self.training and embeddings.dropout.p:  # whole pieces are dropped
            weight_M = weight_M * (torch.rand_like(weight_M) >= embeddings.dropout.p)
        pieces_P, place_M = ids_M.unique(return_inverse=True)
        with torch.autocast(weight_M.device.type, enabled=False):
            vector_PH = embeddings.LayerNorm(embeddings.word_embeddings(pieces_P))
            text_M = torch.arange(len(tokens), device=ids_M.device).repeat_interleave(tokens.lengths)
            total_N = weight_M.new_zeros(len(tokens)).index_add(0, text_M, weight_M).clamp(min=1e-12)
            start_N = tokens.lengths.cumsum(0) - tokens.lengths
            return nn.functional.embedding_bag(
                place_M, vector_PH, start_N, mode="sum", per_sample_weights=weight_M / total_N[text_M]
            )

    @torch.no_grad()
    def set_projection(self, weight_DH: Tensor, bias_D: Tensor) -> None:
        """Replace the linear layer's parameters; UsageError for a tower without one."""
        if not isinstance(self.projection, nn.Linear):
            raise UsageError("found an encoder without a projection (dim=None): there is nothing to set")
        self.projection.weight.copy_(weight_DH)
        self.projection.bias.copy_(bias_D)

    def head_state(self) -> dict[str, Tensor]:
        """The parameters that are not the backbone's, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}


def embedding_layer(backbone: Any) -> Any | None:
    """The embedding layer of a backbone of BERT's kind that was left no other layer; None of any other."""
    layers = getattr(getattr(backbone, "encoder", None), "layer", None)
    embeddings = getattr(backbone, "embeddings", None)
    known = all(hasattr(embeddings, name) for name in ("word_embeddings", "LayerNorm", "dropout"))
    return embeddings if layers is not None and len(layers) == 0 and known else None


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
