"""Networks of the shape that a configuration names, with random weights and without any download."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from realm.config import PretrainConfig
from realm.errors import UsageError
from realm.knowledge.catalog import CATALOG
from realm.knowledge.fetching import cached, resolve_model
from realm.models.backbone import max_tokens, opening
from realm.models.encoders import DenseEncoder, EncoderSettings
from realm.models.late import READERS
from realm.models.tower import Tower

STAND_IN: dict[str, Any] = {
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
KNOWN: Mapping[str, dict[str, Any]] = {
    "all-MiniLM-L6-v2": STAND_IN,
    "bert-base-uncased": {},  # what BertConfig describes when told nothing
    "google-bert/bert-base-uncased": {},
}
"""Shapes of models that recipes name, so that they need not be here to be reckoned with."""


@dataclass(frozen=True)
class Shape:
    """What a transformer's cost depends on."""

    layers: int
    hidden: int
    inner: int

    def flops(self, length: float) -> float:
        """Multiplications and additions of a token forward and backward, in a text of `length` tokens.

        Backward counts as two forwards. Projections 8 H^2, feed-forward 4 H I, attention 4 L H. An embedding layer
        alone has no products; it takes the time of about a twentieth of a layer (measured on two cores).
        """
        products = 8 * self.hidden**2 + 4 * self.hidden * self.inner + 4 * length * self.hidden
        return 3.0 * max(self.layers, 0.05) * products


def local_shape(model: str) -> tuple[Any, Path | None, str]:
    """The `transformers` configuration of a model that is on this machine, its folder, and a word on it.

    Without one, a stand-in and no folder: nothing is fetched. UsageError for a name that can be no model's.
    """
    folder: Path | None
    if model in CATALOG:
        folder = cached(model)
    else:
        name = resolve_model(model)
        folder = Path(name) if Path(name).is_dir() else _hub_folder(name)
    if folder is None:
        from transformers import BertConfig

        if model in KNOWN:
            return BertConfig(**KNOWN[model]), None, f"the shape of {model}, which is not on this machine yet"
        return BertConfig(**STAND_IN), None, f"a stand-in: {model} is not on this machine yet"
    from transformers import AutoConfig

    with opening(folder):
        return (
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            folder,
            f"the shape of {Path(model).name}",
        )


def _hub_folder(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def cut(settings: Any, layers: int | None, name: str) -> Any:
    """The configuration with only so many layers. UsageError when it has fewer."""
    if layers is None:
        return settings
    total = int(settings.num_hidden_layers)
    if layers > total:
        raise UsageError(f"found {name}={layers}: expected at most the model's {total} layers")
    settings = copy.deepcopy(settings)
    settings.num_hidden_layers = layers
    if getattr(settings, "layer_types", None):
        settings.layer_types = settings.layer_types[:layers]
    return settings


def shape_of(settings: Any) -> Shape:
    hidden = int(settings.hidden_size)
    inner = getattr(settings, "intermediate_size", None) or getattr(settings, "hidden_dim", None) or 4 * hidden
    return Shape(int(settings.num_hidden_layers), hidden, int(inner))


def build_encoder(settings: Any, config: PretrainConfig) -> DenseEncoder:
    """The embedder with random weights; one tower, which is all that a text goes through."""
    from transformers import AutoModel

    wanted = config.encoder
    pooling = wanted.pooling or "mean"
    backbone = AutoModel.from_config(settings)
    if pooling != "cls-tanh" and getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    chosen = EncoderSettings(
        dim=wanted.dim,
        pooling=pooling,
        normalize=wanted.normalize,
        segments=bool(wanted.segments),
        dropout=wanted.dropout,
        backbone_dropout=wanted.backbone_dropout,
        freeze_word_embeddings=wanted.freeze_word_embeddings,
    )
    tower = Tower(
        backbone,
        pooling=pooling,
        dim=wanted.dim,
        normalize=wanted.normalize,
        dropout=wanted.dropout,
        segments=bool(wanted.segments),
    )
    return DenseEncoder(tower, chosen)


def check_lengths(encoder: DenseEncoder, config: PretrainConfig) -> None:
    limit = None if encoder.query_tower.is_bag else max_tokens(encoder.query_tower.backbone)
    for name in ("max_passage_tokens", "max_query_tokens"):
        found = getattr(config.data, name)
        if limit is not None and found > limit:
            raise UsageError(f"found data.{name}={found}: expected at most the model's {limit} tokens")


def count(module: nn.Module, frozen_words: bool) -> tuple[int, int]:
    """(parameters, those that are trained)."""
    total = sum(p.numel() for p in module.parameters())
    return total, sum(p.numel() for p in module.parameters() if p.requires_grad) if frozen_words else total


def count_reader(settings: Any, config: PretrainConfig) -> tuple[int, int]:
    from transformers import AutoModelForMaskedLM

    with torch.device("meta"):  # shapes without memory
        model = AutoModelForMaskedLM.from_config(settings)
        head = READERS[config.reader.interaction].copying(int(settings.hidden_size))
        extra = sum(p.numel() for p in head.parameters())
    total = sum(p.numel() for p in model.parameters()) + (extra if config.reader.copy_head else 0)
    words = model.get_input_embeddings().weight.numel() if config.reader.freeze_word_embeddings else 0
    return total, total - words
