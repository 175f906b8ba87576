"""A retriever whose passages stay where they are: only the question's side learns (Guu et al. 2020, section 3.3)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from realm.models.encoders import DenseEncoder


@torch.no_grad()
def with_frozen_passages(encoder: DenseEncoder) -> DenseEncoder:
    """The encoder with two towers, of which the passage's is a copy that nothing trains; the scores stay the same.

    What is in an index stays valid while the question's tower learns, and one saved folder holds both. The question's
    tower is the given encoder's own, not a copy. An encoder with two towers already has its passage tower frozen.
    """
    if encoder.passage_tower is None:
        found = DenseEncoder(
            encoder.query_tower,
            replace(encoder.settings, tied=False),
            passage_tower=deepcopy(encoder.query_tower),
            tokenizer=encoder.tokenizer,
        )
        found.log_temperature.copy_(encoder.log_temperature)
        found.null_bias.copy_(encoder.null_bias)
        encoder = found.to(encoder.device).train(encoder.training)
    assert encoder.passage_tower is not None
    encoder.passage_tower.requires_grad_(False)
    # There is no null passage among the candidates of a question.
    encoder.null_bias.requires_grad_(False)
    return encoder
