"""How much arithmetic is in a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from realm.config import PretrainConfig
from realm.workflows.estimating.shapes import Shape
from realm.workflows.estimating.texts import Lengths

TARGET_PIECES = 3
"""Word pieces of a masked span."""


@dataclass(frozen=True)
class Work:
    """Sizes that a training will meet, in word pieces; specials and title counted in `passage`."""

    passages: int
    passage: float
    body: float
    query: float

    @classmethod
    def of(cls, passages: int, lengths: Lengths, config: PretrainConfig) -> Work:
        most = config.data.max_passage_tokens
        return cls(
            passages=passages,
            passage=lengths.tokens(most),
            body=min(lengths.pieces, most - 2),
            query=min(lengths.pieces / max(lengths.sentences, 1.0) + 2, config.data.max_query_tokens),
        )


class Networks(Protocol):
    """What the arithmetic depends on."""

    @property
    def encoder(self) -> Shape: ...

    @property
    def reader(self) -> Shape: ...

    @property
    def vocabulary(self) -> int: ...


class Shapes(NamedTuple):
    """`Networks` and nothing else."""

    encoder: Shape
    reader: Shape
    vocabulary: int


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


def realm_flops(config: PretrainConfig, networks: Networks, work: Work) -> Parts:
    """Of one part of a step; the query goes through the encoder once more, without gradients, to be searched with."""
    encoder, reader = tokens_of_step(config, work)
    queries = config.realm.batch_size * work.query
    late = config.reader.interaction == "late"
    return Parts(
        encoder=queries * networks.encoder.flops(work.query) * 4 / 3
        + (encoder - queries) * networks.encoder.flops(work.passage),
        reader=reader * networks.reader.flops(work.query if late else work.query + work.body),
        head=head_flops(masked_pieces(config), networks.reader.hidden, networks.vocabulary),
    )


def head_flops(pieces: int, hidden: int, vocabulary: int) -> float:
    """Forward and backward of the output layer at masked pieces."""
    return 6.0 * pieces * hidden * vocabulary


def pair_flops(networks: Networks, work: Work) -> float:
    """Of a pair of the warm start."""
    return work.query * networks.encoder.flops(work.query) + work.passage * networks.encoder.flops(work.passage)
