"""Vocabulary heads of masked language models: one explicit line for each family we know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from realm.errors import UsageError


def _bert(model: Any, hidden: Tensor) -> Any:
    return model.cls.predictions(hidden)


def _lm_head(model: Any, hidden: Tensor) -> Any:
    return model.lm_head(hidden)


def _distilbert(model: Any, hidden: Tensor) -> Any:
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


def _electra(model: Any, hidden: Tensor) -> Any:
    return model.generator_lm_head(model.generator_predictions(hidden))


def _modernbert(model: Any, hidden: Tensor) -> Any:
    return model.decoder(model.head(hidden))


HEADS: dict[str, Callable[[Any, Tensor], Any]] = {
    "bert": _bert,
    "camembert": _lm_head,
    "distilbert": _distilbert,
    "electra": _electra,
    "modernbert": _modernbert,
    "mpnet": _lm_head,
    "roberta": _lm_head,
    "xlm-roberta": _lm_head,
}
"""By `config.model_type`: Float[..., H] to logits Float[..., V], so that only masked positions go through the head."""


def vocabulary_head(model_type: str) -> Callable[[Any, Tensor], Any]:
    """UsageError, with the choices, for a family that is not in the table."""
    if model_type not in HEADS:
        raise UsageError(
            f"found a model of type {model_type!r}: the cloze reader knows the masked-token heads of "
            f"{', '.join(sorted(HEADS))}"
        )
    return HEADS[model_type]
