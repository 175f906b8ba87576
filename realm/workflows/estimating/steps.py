"""How much arithmetic is in a training step."""

from __future__ import annotations

from typing import NamedTuple

from realm.config import PretrainConfig
from realm.workflows.estimating.machine import Machine, Work
from realm.workflows.estimating.networks import head_flops

TARGET_PIECES = 3
"""Word pieces of a masked span."""


class Parts(NamedTuple):
    """Operations of one part of a step, forward and backward."""

    encoder: float
    reader: float
    head: float

    @property
    def all(self) -> float:
        return sum(self)


def tokens_of_step(config: PretrainConfig, work: Work) -> tuple[float, float]:
    """Tokens that go through the encoder and the reader with gradients, in one part of a step."""
    batch, candidates = config.realm.batch_size, config.realm.num_candidates
    real = min(candidates - 1, work.passages)
    encoder = batch * work.query + (1 + min(batch * real, work.passages)) * work.passage
    if config.reader.interaction == "late":  # the query once; pointing at a passage's pieces is in the measured rate
        return encoder, batch * work.query
    return encoder, batch * (work.query + real * (work.query + work.body + 1))


def masked_pieces(config: PretrainConfig) -> int:
    """Masked pieces that go through the vocabulary in one part of a step."""
    reads = 1 if config.reader.interaction == "late" else config.realm.num_candidates
    return config.realm.batch_size * reads * min(TARGET_PIECES, config.data.max_targets)


def realm_flops(config: PretrainConfig, machine: Machine, work: Work) -> Parts:
    """Of one part of a step; the query goes through the encoder once more, without gradients, to be searched with."""
    encoder, reader = tokens_of_step(config, work)
    queries = config.realm.batch_size * work.query
    late = config.reader.interaction == "late"
    return Parts(
        encoder=queries * machine.encoder.flops(work.query) * 4 / 3
        + (encoder - queries) * machine.encoder.flops(work.passage),
        reader=reader * machine.reader.flops(work.query if late else work.query + work.body),
        head=head_flops(masked_pieces(config), machine.reader.hidden, machine.vocabulary),
    )


def pair_flops(machine: Machine, work: Work) -> float:
    """Of a pair of the warm start."""
    return work.query * machine.encoder.flops(work.query) + work.passage * machine.encoder.flops(work.passage)
