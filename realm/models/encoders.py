"""Dense encoders: one vector for a query, one for a passage (Guu et al. 2020, section 3.2).

Legend for shapes: N texts, H hidden size, D vector size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import UsageError
from realm.models.backbone import freeze_words, keep_layers, load_backbone, load_tokenizer, set_dropout
from realm.models.packing import by_length
from realm.models.pooling import sentence_encoder_pooling
from realm.models.storage import (
    check_weights,
    fingerprint_module,
    load_tensors,
    model_folder,
    read_model_facts,
    save_part,
)
from realm.models.tower import Tower
from realm.types import Tokens

KIND = "realm dense encoder"
FORMAT_VERSION = 1
CHANGEABLE = ("dropout", "backbone_dropout", "freeze_word_embeddings", "learn_temperature", "learn_null_bias")
"""Settings of a saved encoder that may be given anew when it is opened; the others are part of what it is."""

SHARED = ("log_temperature", "null_bias")
"""Parameters that belong to no tower."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Everything about a dense encoder that its weights don't say."""

    dim: int | None = 128
    """Vector size; None keeps the backbone's own, without a projection."""
    pooling: str | None = None
    """cls, cls-tanh, mean or weighted-mean; None follows the checkpoint: mean for a sentence encoder, else BERT's
    pooler
    (cls-tanh) where it was trained, else cls."""
    normalize: str = "layernorm"
    """layernorm (the released code), l2 or none."""
    temperature: float = 1.0
    """Scores are divided by it, on the query's side; 1 as in the paper."""
    learn_temperature: bool = False
    learn_null_bias: bool = False
    """Train a figure that is added to the null passage's score; 0 and fixed in the paper."""
    tied: bool = True
    """One tower for queries and passages."""
    segments: bool | None = None
    """Title and body have segment ids 0 and 1; None follows the checkpoint: sentence encoders were trained with
    zeros."""
    dropout: float = 0.1
    """On the finished vector, while training."""
    backbone_dropout: float | None = None
    """None keeps the checkpoint's own."""
    freeze_word_embeddings: bool = False


class DenseEncoder(nn.Module):
    """A Hugging Face backbone, pooling, linear to D, normalisation; the score is the inner product of two vectors."""

    def __init__(
        self,
        query_tower: Tower,
        settings: EncoderSettings,
        *,
        passage_tower: Tower | None = None,
        tokenizer: Any = None,
    ) -> None:
        """passage_tower: None when queries share theirs. tokenizer: saved with the model, not used by it."""
        super().__init__()
        if (passage_tower is None) != settings.tied:
            raise UsageError(
                f"found tied={settings.tied} with {1 + (passage_tower is not None)} towers: tied is one tower, "
                "untied two"
            )
        if not settings.temperature > 0 or not math.isfinite(settings.temperature):
            raise UsageError(f"found temperature={settings.temperature}: expected a positive number")
        self.settings = settings
        self.tokenizer = tokenizer
        self.query_tower = query_tower
        self.passage_tower = passage_tower
        self.null_bias = nn.Parameter(torch.zeros(()), requires_grad=settings.learn_null_bias)
        """Float[], added to f(x, null). Inner products of centred vectors leave the null passage, which shares no word
        with anything, far below every retrieved one; a trainable level lets it compete."""
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(settings.temperature)), requires_grad=settings.learn_temperature
        )
        self.token_budget: int | None = None
        """Most padded tokens in one pass of the backbone; None is the device's default."""
        for tower in self.towers():
            set_dropout(tower.backbone, settings.backbone_dropout)
            freeze_words(tower.backbone, settings.freeze_word_embeddings)

    # ------------------------------------------------------------ making one

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, layers: int | Sequence[int] | None = None, **settings: Any
    ) -> DenseEncoder:
        """Open an encoder saved by `save_pretrained`, or start one from any encoder checkpoint.

        source: a folder, or a name on the Hugging Face hub.
        layers: keep only the first so many layers of the backbone, or the layers of these numbers.
        settings: fields of `EncoderSettings`; for a saved encoder only those in `CHANGEABLE` may differ from what it
        was saved with.

        A new projection is drawn from torch's random generator. Raises UsageError, ArtefactError, MismatchError (the
        folder holds another kind of model) or UnavailableError (the hub can't be reached).
        """
        _check_names(settings)
        facts = read_model_facts(source, format=KIND, version=FORMAT_VERSION)
        if facts is not None:
            return cls._open(Path(source), EncoderSettings(**facts["settings"]), layers, settings)
        chosen = EncoderSettings(**settings)
        native = sentence_encoder_pooling(source) if chosen.pooling is None or chosen.segments is None else None
        wants_pooler = chosen.pooling == "cls-tanh" or (chosen.pooling is None and native is None)
        backbone, has_pooler = load_backbone(source, pooler=wants_pooler)
        if chosen.pooling == "cls-tanh" and not has_pooler:
            raise UsageError(f"{source} has no trained pooler: expected one for pooling='cls-tanh'; use cls or mean")
        pooling = chosen.pooling or native or ("cls-tanh" if has_pooler else "cls")
        segments = native is None if chosen.segments is None else chosen.segments
        chosen = replace(chosen, pooling=pooling, segments=segments)
        keep_layers(backbone, layers)
        tower = _tower(backbone, chosen)
        # Untied towers start as equals: two different random projections would make the first scores noise.
        passage_tower = None if chosen.tied else deepcopy(tower)
        return cls(tower, chosen, passage_tower=passage_tower, tokenizer=load_tokenizer(source))

    @classmethod
    def _open(
        cls, folder: Path, saved: EncoderSettings, layers: int | Sequence[int] | None, given: dict[str, Any]
    ) -> DenseEncoder:
        for name, value in given.items():
            if name not in CHANGEABLE and value != getattr(saved, name):
                raise UsageError(
                    f"found {name}={value!r} for the encoder {folder}, which was saved with "
                    f"{getattr(saved, name)!r}: it can't be changed"
                )
        settings = replace(saved, **{name: value for name, value in given.items() if name in CHANGEABLE})
        towers = []
        for place in (folder,) if settings.tied else (folder, folder / "passage"):
            backbone, _ = load_backbone(place, pooler=settings.pooling == "cls-tanh")
            tower = _tower(backbone, settings)
            head = load_tensors(place / "head.safetensors")
            shared = {name: head.pop(name) for name in SHARED if name in head}
            load_state(tower, head, place)
            keep_layers(backbone, layers)
            towers.append((tower, shared))
        encoder = cls(
            towers[0][0],
            settings,
            passage_tower=None if settings.tied else towers[1][0],
            tokenizer=load_tokenizer(folder),
        )
        for name, value in towers[0][1].items():
            getattr(encoder, name).data.copy_(value)
        check_weights(folder)
        return encoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `transformers.AutoModel` and `AutoTokenizer` open; our head lies beside the backbone.

        Untied towers: the passage's is in the sub-folder ``passage``. The folder appears whole or not at all.
        """
        facts = {"settings": asdict(self.settings), "fingerprint": self.fingerprint(), "dim": self.dim}
        with model_folder(Path(folder), format=KIND, version=FORMAT_VERSION, facts=facts) as staged:
            shared = {name: getattr(self, name).detach() for name in SHARED}
            head = self.query_tower.head_state() | shared
            save_part(staged, self.query_tower.backbone, head, self.tokenizer)
            if self.passage_tower is not None:
                save_part(
                    staged / "passage", self.passage_tower.backbone, self.passage_tower.head_state(), self.tokenizer
                )

    # ------------------------------------------------------------ text to vectors

    @property
    def dim(self) -> int:
        return self.query_tower.dim

    @property
    def device(self) -> torch.device:
        return self.log_temperature.device

    @property
    def temperature(self) -> Tensor:
        """Float[]"""
        return self.log_temperature.exp()

    def towers(self) -> list[Tower]:
        return [self.query_tower] if self.passage_tower is None else [self.query_tower, self.passage_tower]

    def encode_queries(self, tokens: Tokens) -> Tensor:
        """Float[N, D], divided by the temperature, so that the inner product with a passage is the score f(x, z)."""
        return self._encode(self.query_tower, tokens) / self.temperature

    def encode_passages(self, tokens: Tokens) -> Tensor:
        """Float[N, D]"""
        return self._encode(self.passage_tower or self.query_tower, tokens)

    def pool_passages(self, tokens: Tokens) -> Tensor:
        """Float[N, H]: passages before the projection, for `init_projection_from_pca`."""
        return self._encode(
            (self.passage_tower or self.query_tower).pool, tokens, self.query_tower.backbone.config.hidden_size
        )

    def _encode(self, fn: Any, tokens: Tokens, size: int | None = None) -> Tensor:
        tokens = tokens.to(self.device)
        if len(tokens) == 0:
            return self.log_temperature.new_zeros(0, self.dim if size is None else size)
        if self.query_tower.is_bag:  # nothing is padded, nothing to group
            return fn(tokens)  # type: ignore[no-any-return]
        return by_length(lambda chunk, _: fn(chunk), tokens, self.token_budget)

    # ------------------------------------------------------------ starting well

    @torch.no_grad()
    def init_projection_from_pca(self, vectors_NH: Tensor, *, whiten: float = 0.0) -> float:
        """Start the projection from the principal components of pooled passages, to keep most of their geometry.

        vectors_NH: Float[N, H] from `pool_passages`, N well above D. Both towers get the same projection.
        whiten: 0 keeps the spread of each component, 1 makes them all equal; what is common to all passages lies in the
        first components and says little about any of them.
        Returns the share of variance kept. UsageError when there is no projection, D > H, or fewer than 2 vectors.
        """
        if isinstance(self.query_tower.projection, nn.Identity):
            raise UsageError("found an encoder without a projection (dim=None): expected one to start from a PCA")
        hidden_size = vectors_NH.shape[1]
        if self.dim > hidden_size or len(vectors_NH) < 2:
            raise UsageError(
                f"found {len(vectors_NH)} vectors of size {hidden_size} for dim={self.dim}: a PCA needs at least "
                "2, and dim at most their size"
            )
        vectors_NH = vectors_NH.detach().double().cpu()
        mean_H = vectors_NH.mean(0)
        centred_NH = vectors_NH - mean_H
        values_H, axes_HH = torch.linalg.eigh(centred_NH.T @ centred_NH / len(vectors_NH))
        axes_HD = axes_HH.flip(1)[:, : self.dim]
        # Eigenvectors come with an arbitrary sign; fixed, the same corpus gives the same projection everywhere.
        axes_HD = axes_HD * axes_HD.gather(0, axes_HD.abs().argmax(0, keepdim=True)).sign()
        spread_D = values_H.flip(0)[: self.dim].clamp(min=0).sqrt()
        scale_D = (spread_D / spread_D.max().clamp(min=1e-30)).clamp(min=1e-3) ** -whiten
        axes_HD = axes_HD * scale_D
        for tower in self.towers():
            tower.set_projection(axes_HD.T, -(mean_H @ axes_HD))
        return float(values_H.flip(0)[: self.dim].clamp(min=0).sum() / values_H.clamp(min=0).sum().clamp(min=1e-30))

    def set_token_weights(self, weight_V: Tensor) -> None:
        """Start the weights of ``weighted-mean`` from positive figures for each token id (IDF, SIF), in both towers."""
        for tower in self.towers():
            tower.pooling.set_weights(weight_V)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by role: the pretrained ``retriever``, its ``projection``, its ``token_weights``."""
        groups: dict[str, list[nn.Parameter]] = {"retriever": [], "projection": [], "token_weights": []}
        for name, parameter in self.named_parameters():
            role = "retriever" if ".backbone." in name else "projection"
            groups["token_weights" if name.endswith("log_weight") else role].append(parameter)
        return groups

    def fingerprint(self) -> str:
        """Of all parameters and of the settings that shape a vector: equal fingerprints, equal vectors."""
        shaping = (self.settings.pooling, self.settings.normalize, self.settings.tied, self.settings.segments)
        return fingerprint_module(self, *map(str, shaping))


def load_state(tower: Tower, head: dict[str, Tensor], place: Path) -> None:
    """Put a saved head into a tower. ArtefactError when it is not this tower's."""
    from realm.errors import ArtefactError

    expected = {name: value.shape for name, value in tower.head_state().items()}
    found = {name: value.shape for name, value in head.items()}
    if expected != found:
        raise ArtefactError(
            f"{place / 'head.safetensors'} doesn't fit its settings: found {found}, expected {expected}"
        )
    tower.load_state_dict(head, strict=False)


def _tower(backbone: Any, settings: EncoderSettings) -> Tower:
    assert settings.pooling is not None and settings.segments is not None
    return Tower(
        backbone,
        pooling=settings.pooling,
        dim=settings.dim,
        normalize=settings.normalize,
        dropout=settings.dropout,
        segments=settings.segments,
    )


def _check_names(settings: dict[str, Any]) -> None:
    known = [field.name for field in fields(EncoderSettings)]
    for name in settings:
        if name not in known:
            raise UsageError(f"found the encoder setting {name!r}: expected one of {', '.join(known)}")
