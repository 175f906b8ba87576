"""Vocabulary heads of masked language models: one explicit line for each family we know.

Legend for shapes: H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from realm.errors import UsageError


class VocabularyHead(NamedTuple):
    """How a family of models goes from a hidden state to the vocabulary."""

    logits: Callable[[Any, Tensor], Any]
    """(model, Float[..., H]) -> Float[..., V]"""
    transform: Callable[[Any], Any]
    """model -> the linear layer before the output weights."""


HEADS: dict[str, VocabularyHead] = {
    "bert": VocabularyHead(lambda m, h: m.cls.predictions(h), lambda m: m.cls.predictions.transform.dense),
    "camembert": VocabularyHead(lambda m, h: m.lm_head(h), lambda m: m.lm_head.dense),
    "distilbert": VocabularyHead(
        lambda m, h: m.vocab_projector(m.vocab_layer_norm(m.activation(m.vocab_transform(h)))),
        lambda m: m.vocab_transform,
    ),
    "electra": VocabularyHead(
        lambda m, h: m.generator_lm_head(m.generator_predictions(h)), lambda m: m.generator_predictions.dense
    ),
    "modernbert": VocabularyHead(lambda m, h: m.decoder(m.head(h)), lambda m: m.head.dense),
    "mpnet": VocabularyHead(lambda m, h: m.lm_head(h), lambda m: m.lm_head.dense),
    "roberta": VocabularyHead(lambda m, h: m.lm_head(h), lambda m: m.lm_head.dense),
    "xlm-roberta": VocabularyHead(lambda m, h: m.lm_head(h), lambda m: m.lm_head.dense),
}
"""By `config.model_type`. Called on hidden states alone, so that only masked positions go through the vocabulary."""


def vocabulary_head(model_type: str) -> VocabularyHead:
    """UsageError, with the choices, for a family that is not in the table."""
    if model_type not in HEADS:
        choices = ", ".join(sorted(HEADS))
        raise UsageError(f"found a model of type {model_type!r}: the cloze reader knows the heads of {choices}")
    return HEADS[model_type]


@torch.no_grad()
def start_transform(model: Any) -> None:
    """Let a new head's transform start as the identity.

    The output weights are the word embeddings, and a pretrained hidden state is nearer to them as it is than after a
    random matrix.
    """
    dense = vocabulary_head(model.config.model_type).transform(model)
    nn.init.eye_(dense.weight)
    if dense.bias is not None:
        nn.init.zeros_(dense.bias)


@torch.no_grad()
def start_bias(model: Any, counts_V: Tensor) -> None:
    """Let a head's output bias start as the log frequency of each word piece in a corpus, given its counts, Float[V].

    Pieces that never occur count one half. UsageError when the counts are not one for each word piece.
    """
    bias = model.get_output_embeddings().bias
    if counts_V.shape != bias.shape or bool((counts_V < 0).any()):
        raise UsageError(
            f"found counts of shape {tuple(counts_V.shape)}: expected {len(bias)} counts, one a word piece"
        )
    logs_V = (counts_V.double() + 0.5).log()
    # Only differences matter to a softmax; around zero they are kinder to weight decay.
    bias.copy_(logs_V - logs_V.mean())
